"""Search for a loss and refinement of it."""
