"""What the processes of a worker, and the agents of a job, say to each other: the contract, and no behaviour."""
