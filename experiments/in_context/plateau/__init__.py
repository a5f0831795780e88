"""What shortens the plateau of meta-training."""
