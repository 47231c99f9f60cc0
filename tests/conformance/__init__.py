"""Trains what Keras trains: small tasks, each run by Keras' own `fit` and by the trainer, and their numbers compared."""
