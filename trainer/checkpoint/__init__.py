"""Checkpoints: from variables to a memfd, from there to shards and a commit by a process of its own, and back.

snapshot.py, writer.py, restore.py, retention.py and shards.py are free of TensorFlow; state.py is about it.
"""
