"""The training process, from its agent's first line to its exit code: one per attempt of a worker."""
