"""A job on this machine: its agents, and what they print."""
