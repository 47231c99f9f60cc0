"""A run directory as seen from outside: what became of the job, its checkpoints, where its time went."""
