"""The image of a job: made of the user's code on top of a base, pushed to a registry, or asked for there."""
