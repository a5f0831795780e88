"""Networks as pairs of pure functions, shared by learners and objectives."""
