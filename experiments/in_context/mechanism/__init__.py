"""Which classical learner makes the same mistakes, and what attention reads."""
