"""Numbers as targets: ridge regression, and what the Transformer for tables adds to it."""
