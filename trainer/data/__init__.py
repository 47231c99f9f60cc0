"""Where examples come from, and their exact order."""
