"""Search for architectures: what chance does, and when early stopping helps."""
