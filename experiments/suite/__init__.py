"""What experiments share: cells, results, intervals, the command line, the gallery."""
