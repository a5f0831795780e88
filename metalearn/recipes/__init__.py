"""From configurations to runs: the only code, with the command line, that composes all packages."""
