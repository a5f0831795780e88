"""Epistemic agents: the testbed, their compute, a bandit, and shipped learners."""
