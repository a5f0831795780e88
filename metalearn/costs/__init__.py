"""What a compiled step costs: operations and memory, read from its program."""
