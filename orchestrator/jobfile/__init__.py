"""A job file: what may stand in it, how it is read, and what is said where it is wrong. File in, JobSpec and TrainConfig out."""
