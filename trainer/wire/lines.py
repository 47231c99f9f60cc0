"""A message as it goes over a socket pair: one line of JSON."""

from trainer.rundir.attempts import Wire


def encode(message: Wire) -> bytes:
    """One line."""
    return message.to_json() + b"\n"
