"""In every pod: the agent that is PID 1, and the training process it starts."""
