"""Tasks: data sets (`datasets`), and families of tasks over them (`projected`) or of their own making."""
