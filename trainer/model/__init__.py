"""A task's model: built, and what training may change of it, wherever that hangs."""
