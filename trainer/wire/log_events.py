"""Events in an agent's log that others act on: fields at the end of a line, written and read here. Pure.

Everything else in the log is for people, and its wording is free. `event=NAME`, then what goes with it, as key=value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Event(StrEnum):
    """What happened."""

    ATTEMPT_STARTS = "attempt-starts"
    """The process of an attempt starts: attempt."""
    PROCESS_ENDED = "process-ended"
    """It has ended: attempt."""
    UNREACHED = "unreached"
    """Worker 0 does not answer: error, the class of what was raised."""


@dataclass(frozen=True)
class Logged:
    """An event, as a line tells it."""

    event: Event
    fields: Mapping[str, str]
    message: str
    """The line before the event, for people."""


_LINE = re.compile(r"worker=\d+ (?:INFO|WARNING) (?P<message>.*?) ?\bevent=(?P<event>[a-z-]+)(?P<fields>(?: \w+=\S*)*)")
# What agents wrote that named no events.
_EARLIER = (
    (Event.ATTEMPT_STARTS, re.compile(r"worker=\d+ INFO (?P<message>attempt (?P<attempt>\d+) starts restore=.*)")),
    (
        Event.PROCESS_ENDED,
        re.compile(r"worker=\d+ (?:INFO|WARNING) (?P<message>training process ended attempt=(?P<attempt>\d+)\b.*)"),
    ),
    (
        Event.UNREACHED,
        re.compile(r"worker=\d+ (?:INFO|WARNING) (?P<message>(?:waiting for )?worker 0 .*?: (?P<error>[A-Za-z]+): .*)"),
    ),
)


def marked(event: Event, **fields: object) -> str:
    """`event=attempt-starts attempt=3`, for the end of a line."""
    return " ".join([f"event={event}", *(f"{key}={value}" for key, value in fields.items())])


def read(line: str) -> Logged | None:
    """The event of a line of an agent's log, or None where it tells none."""
    if match := _LINE.fullmatch(line):
        if match["event"] not in set(Event):
            return None
        fields = dict(field.split("=", 1) for field in match["fields"].split())
        return Logged(Event(match["event"]), fields, match["message"])
    for event, pattern in _EARLIER:
        if match := pattern.fullmatch(line):
            fields = match.groupdict()
            return Logged(event, fields, fields.pop("message"))
    return None
