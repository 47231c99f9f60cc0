"""The Kubernetes objects of a job, from its job file. Pure: no cluster, no clock."""
