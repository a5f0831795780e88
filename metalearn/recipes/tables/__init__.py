"""Meta-training of the Transformer for tables."""
