"""Generators of parameters: from a data set and a network to checkpoints, a trained generator and its alignment."""
