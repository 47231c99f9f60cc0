"""PID 1 of every pod: starts the training process, and agrees with the other agents on attempts."""
