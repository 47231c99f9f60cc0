"""A message as it goes over a socket pair: one line of JSON."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from trainer.rundir.attempts import Wire

_Message = TypeVar("_Message")


def encode(message: Wire) -> bytes:
    """One line."""
    return message.to_json() + b"\n"


def decode(messages: TypeAdapter[_Message], line: bytes) -> _Message | None:
    """The message of a line; None for one that makes no sense."""
    try:
        return messages.validate_json(line)
    except ValidationError:
        return None
