"""The verbs: what is done to a job of a cluster."""
