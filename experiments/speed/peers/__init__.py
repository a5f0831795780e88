"""Other libraries that are timed beside ours."""
