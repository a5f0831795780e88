"""A Transformer that reads whole tables, cell by cell."""
