"""Bodies of the API server's answers that come line by line, and the first words of what breaks them."""

import logging
from collections.abc import Iterator
from typing import Any

from orchestrator.kube.errors import ClusterUnreachable
from orchestrator.text import first_line

log = logging.getLogger(__name__)


def lines(response: Any) -> Iterator[str]:
    """Lines of a streamed body as they come. A connection that breaks ends them: the caller asks again."""
    import urllib3

    rest = b""
    try:
        for chunk in response.stream(64 * 1024, decode_content=True):
            rest += chunk
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
    except urllib3.exceptions.HTTPError as error:
        log.debug("stream ended: %s", error)
    if rest:
        yield rest.decode(errors="replace")


def log_lines(response: Any, what: str, *, follow: bool) -> Iterator[str]:
    """Whole lines of a log as they come. Of a follower's connection any end may be a break; another's must not be one."""
    import urllib3

    parts: list[bytes] = []
    try:
        for chunk in response.stream(64 * 1024, decode_content=True):
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for part in others:
                yield b"".join(parts).decode(errors="replace")
                parts = [part]
    except urllib3.exceptions.HTTPError as error:
        if not follow:
            raise ClusterUnreachable(f"cannot {what}: the connection broke: {first_words(error)}") from None
        log.debug("%s: the stream ended: %s", what, error)
    if not follow and any(parts):
        yield b"".join(parts).decode(errors="replace")


def first_words(error: BaseException) -> str:
    """Why a request failed, in a line."""
    # An ApiException without a status holds its words as the reason alone.
    reason = getattr(error, "reason", None)
    text = str(reason if isinstance(reason, Exception) or not getattr(error, "status", 1) else error).strip()
    return first_line(text) or type(error).__name__
