"""An exception as its reader needs it: on the terminal the user's own frames and what went wrong, in the log everything.

Keras adds a page to a message ("Arguments received by ..."), and TensorFlow the stack that made a graph, and whole arrays.
Free of TensorFlow.
"""

import os
import re
import traceback
from collections.abc import Sequence

from trainer.errors import OrchError

FRAMES_MAX = 3
"""Of the user's own frames the innermost ones say where."""
LINES_MAX = 10
"""Of one message; with its frames it stays below 20 lines."""
LINE_CHARS = 400
_OWN_LINES_MAX = 14
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ARGUMENTS = re.compile(r"\n\s*Arguments received by .*", re.DOTALL)
_CALLED = re.compile(r"\AException encountered when calling (.+?)\.?\n+")
_GRAPH_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)$')
_NODE = re.compile(
    r"\[\[\{\{node .*?\}\}\]\]|\{\{function_node .*?\}\}|\[Op:[^\]]*\](?: name:\s*\S*)?|^\t \[\[.*\]\]", re.M
)
_SEVERAL = re.compile(r"\A\d+ root error\(s\) found\.\s*\(0\)[^:]*: *|\n\s*\(1\) .*", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf|True|False)"
_NUMBERS = re.compile(rf"(?<![\w.])((?:{_NUMBER}[\s,\[\]]+){{6}})(?:{_NUMBER}[\s,\[\]]*){{6,}}", re.IGNORECASE)


def origin(error: BaseException) -> BaseException:
    """The exception as it was raised: AutoGraph raises another one in its place, of another class where it must."""
    while hasattr(error.__context__, "ag_error_metadata"):
        assert error.__context__ is not None
        error = error.__context__
    return error


def full_traceback(error: BaseException) -> str:
    """Everything: all frames, causes, the whole message."""
    try:
        lines = traceback.format_exception(error)
    except Exception as second:  # a message that cannot be made
        lines = [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}: {_unreadable(second)}\n"]
    return "".join(lines)


def message_of(error: BaseException) -> str:
    """What went wrong, in LINES_MAX lines at most, without what libraries put around it."""
    try:
        text = str(error)
    except Exception as second:
        return _unreadable(second)
    if isinstance(error, OrchError):
        return _cut(error.message.splitlines(), _OWN_LINES_MAX)
    return shortened(text)


def shortened(text: str) -> str:
    """A message without colours, a graph's stack, Keras' arguments and long rows of numbers."""
    text = _COLOURS.sub("", text).replace("\r", "")
    text = _SEVERAL.sub("", text)
    text = _CALLED.sub(lambda match: f"in {match[1]}: ", _ARGUMENTS.sub("", text))
    if text.startswith(("Graph execution error:", "Detected at node")):
        text = _without_graph_stack(text)
    text = _NUMBERS.sub(r"\1...", _NODE.sub("", text)).replace("<stack traces unavailable>", "")
    return _cut([line.rstrip() for line in text.strip().splitlines() if line.strip()], LINES_MAX)


def user_traceback(error: BaseException) -> str:
    """The user's own frames and the message. Where no frame is the user's, the message alone. Of an OrchError without a
    cause nothing: it speaks for itself."""
    if isinstance(error, OrchError):
        if error.__cause__ is None:
            return ""
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "__autograph_" not in frame.filename]
    converted = getattr(getattr(error, "ag_error_metadata", None), "translated_stack", [])
    frames += [
        traceback.FrameSummary(frame.filename, frame.lineno, frame.function_name, line=frame.code)
        for frame in reversed(converted)
    ]
    own = [frame for frame in frames if _is_users(frame.filename)] or _frames_of_graph(error)
    lines = []
    if own:
        lines = ["Traceback (most recent call last):\n"]
        if len(own) > FRAMES_MAX:
            lines.append(f"  [{len(own) - FRAMES_MAX} more of your own frames: see the log]\n")
        lines += traceback.format_list([_plain(frame) for frame in own[-FRAMES_MAX:]])
    message = message_of(error)
    return "".join(lines) + type(error).__name__ + (f": {message}" if message else "") + "\n"


def _plain(frame: traceback.FrameSummary) -> traceback.FrameSummary:
    """The frame without the marks below its line."""
    return traceback.FrameSummary(frame.filename, frame.lineno, frame.name, line=(frame.line or "")[:LINE_CHARS])


def _frames_of_graph(error: BaseException) -> list[traceback.FrameSummary]:
    """The user's frames that made the operation which failed, as TensorFlow writes them into the message."""
    found = [_GRAPH_FRAME.match(line) for line in message_lines(error)]
    return [
        traceback.FrameSummary(match["file"], int(match["line"]), match["name"])
        for match in found
        if match is not None and _is_users(match["file"])
    ]


def message_lines(error: BaseException) -> list[str]:
    """The whole message in lines; none where it cannot be made."""
    try:
        return str(error).splitlines()
    except Exception:
        return []


def _without_graph_stack(text: str) -> str:
    lines = text.splitlines()
    last = max((number for number, line in enumerate(lines) if _GRAPH_FRAME.match(line)), default=-1)
    rest = [
        line
        for line in lines[last + 1 :]
        if line.strip()
        and not line.startswith(("Graph execution error:", "Detected at node", "\t [[", "Stack trace for"))
    ]
    return "\n".join(rest)


def _cut(lines: Sequence[str], most: int) -> str:
    """So many lines at most, none of them endless; the last ones stay, since they tell what to do."""
    short = [line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]} ..." for line in lines]
    if len(short) > most:
        short = [*short[: most - 3], f"... ({len(short) - most + 1} more lines in the log)", *short[-2:]]
    return "\n".join(short)


def _unreadable(second: Exception) -> str:
    return f"(its message cannot be made: {type(second).__name__})"


def _is_users(filename: str) -> bool:
    builtin = filename.startswith(_OURS) and not filename.startswith(os.path.join(_OURS, "tasks"))
    return not (builtin or filename.startswith(("<", _LIBRARY)) or "site-packages" in filename)
