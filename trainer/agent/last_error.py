"""Why a program of the user's own failed, from the last lines that it printed. Pure.

It says nothing to its agent but its exit code. What is printed to stdout may come after a traceback, when Python empties its
buffers; so a traceback counts wherever it stands among these lines, else a line that speaks of an error, else the last one.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

LINES_MAX = 400
"""So many lines are looked at."""
LINE_BYTES = 2000
_CHARS = 400
_NEAR = 60
"""Lines at the end among which one without a traceback may speak of the error."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")
_EXCEPTION = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:: (?P<message>.*)|:)?")
_FRAME = '  File "'
_NO_ERROR_YET = re.compile(r"(?:Exception encountered when calling (?P<what>.+?)\.?|Graph execution error:)?")
"""Keras and TensorFlow begin some messages with what says nothing, and tell the error some lines below."""
_ON_THE_WAY = ("Detected at node", "Stack trace for", "Arguments received by", "File ", "[[", "(")
_SPEAKS_OF_IT = re.compile(
    r"\b(?:\w*error|\w*exception|fatal|failed|not found|no such file|cannot|can't|denied|aborted|killed)\b",
    re.IGNORECASE,
)
_LOG = re.compile(r"[IWEF]\d{4} |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |(?:DEBUG|INFO|WARNING)\b")
"""Lines of TensorFlow's log, which speaks of errors that are none, and others' that say of themselves that they are none."""


class LastError(NamedTuple):
    """What is known of it."""

    exception: str
    """The class, without its module; empty where no traceback names one."""
    message: str
    """One line."""


def last_error(lines: Sequence[bytes]) -> LastError | None:
    """The error among the last lines of a program that failed; None where it printed nothing."""
    texts = [_plain(line) for line in lines[-LINES_MAX:]]
    for place in range(len(texts) - 1, -1, -1):
        match = _EXCEPTION.fullmatch(texts[place])
        if match is not None and _ends_a_traceback(texts, place):
            name = match["name"].rpartition(".")[2]
            return LastError(name, _message(match["message"] or "", texts[place + 1 :])[:_CHARS])
    said = [text.strip() for text in texts if text.strip()]
    for text in reversed(said[-_NEAR:]):
        if _SPEAKS_OF_IT.search(text) and not _LOG.match(text):
            return LastError("", text[:_CHARS])
    return LastError("", f"its last line is: {said[-1]}"[:_CHARS]) if said else None


def _plain(line: bytes) -> str:
    """Without colours, and of a line that was written over what is seen in the end."""
    text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
    return _COLOURS.sub("", text).rstrip()


def _ends_a_traceback(texts: Sequence[str], place: int) -> bool:
    """Whether the lines above are the frames of one."""
    while place > 0 and texts[place - 1].startswith(" "):
        place -= 1
        if texts[place].startswith(_FRAME):
            return True
    return False


def _message(first: str, below: Sequence[str]) -> str:
    begin = _NO_ERROR_YET.fullmatch(first.strip())
    if begin is None and first.endswith(("{", "[", "(")):  # an array or the like, and then what is wrong with it
        rest = next((text for text in below if text.startswith(("}", "]", ")"))), "")
        return f"{first} ... {rest}" if rest else first
    if begin is None:
        return first
    for text in below:
        if text and not text.startswith((" ", *_ON_THE_WAY)):
            return f"in {begin['what']}: {text}" if begin["what"] else text
    return first
