"""Agents that know what they do not know: the testbed, priors, compute, and a bandit."""
