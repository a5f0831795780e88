"""Inner loops whose answers are known, for gradient estimators to be shown on."""
