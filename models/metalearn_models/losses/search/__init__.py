"""Search for loss formulas by evolution, with candidates trained from tables."""
