"""The command line, the one place of the wheel that composes all three packages."""
