"""What workers print: of pods, of a run directory, and both put together."""
