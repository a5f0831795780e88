"""What several learned optimizers are made of."""
