"""The run directory: where a job keeps all it leaves behind, on a local path or in a bucket."""
