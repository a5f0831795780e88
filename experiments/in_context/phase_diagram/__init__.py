"""Width against number of tasks: memorise, identify, learn to learn."""
