"""On the user's machine: from a job file to a job on Kubernetes, or to the same job run here."""
