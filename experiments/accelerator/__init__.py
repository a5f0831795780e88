"""On an accelerator: does everything run there, and how fast."""
