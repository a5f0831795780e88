"""Timings against peers and against the peak of the device."""
