"""Experiments on estimators of meta-gradients."""
