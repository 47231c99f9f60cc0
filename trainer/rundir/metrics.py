"""What the chief's agent wrote of an attempt as it went on: RUN/metrics/attempt-K/segment-N.jsonl, a JSON object a line.

Reading and parsing alone. What follows from it is decided in ledger.py.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from trainer.errors import ObjectNotFound
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Wire
from trainer.rundir.store import Store

PREFIX = "metrics/"
ALIVE_S = 5.0
"""After so long without a line, one says that the agent is there: so that its end can be told from a long phase."""
_AT_ONCE = 8
"""Segments that are read at the same time: of a bucket, one takes about 50 ms."""


class TooMany(Exception):
    """There are more segments than the caller wants to wait for."""


class Sign(Wire):
    """One line, of any type: the messages of wire/ with the time at which the agent heard them."""

    time: float
    """Seconds since 1970, by the agent's clock."""
    type: str
    """phase, block, evaluated, stalled, saved, save_failed, save_trouble, ended, alive."""
    step: int = 0
    phase: str = ""
    detail: str = ""
    why: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = {}
    commit: CommitRef | None = None
    error: str = ""
    code: int = 0


def read_signs(
    store: Store, records: Iterable[AttemptRecord | EndRecord], *, segments_max: int | None = None
) -> dict[int, list[Sign]]:
    """Attempt -> its signs, oldest first, of the attempts in `records`.

    Raises:
        StoreError: the store does not answer.
        TooMany: there are more than `segments_max` segments.
    """
    wanted = {record.number for record in records if isinstance(record, AttemptRecord)}
    names = [(number, entry.name) for entry in store.list(PREFIX) if (number := _attempt_of(entry.name)) in wanted]
    if segments_max is not None and len(names) > segments_max:
        raise TooMany
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = pool.map(lambda item: _get(store, item[1]), names)
        found: dict[int, list[Sign]] = {}
        for (number, _), text in zip(names, texts, strict=True):
            found.setdefault(number, []).extend(parse(text))
    return found


def parse(text: bytes) -> list[Sign]:
    """The signs of one segment. Lines that make no sense are passed over: they are for people, nothing depends on them."""
    signs = []
    for line in text.splitlines():
        try:
            signs.append(Sign.model_validate_json(line))
        except ValidationError:
            continue
    return signs


def told_metrics(signs: Sequence[Sign]) -> dict[str, float]:
    """Metrics as they were told last."""
    metrics: dict[str, float] = {}
    for sign in signs:
        metrics |= sign.metrics
    return metrics


def told_step(signs: Sequence[Sign]) -> int:
    """The last step that was told."""
    return max((sign.step for sign in signs), default=0)


def save_error(signs: Sequence[Sign]) -> str:
    """Why saves fail at the moment; empty where the last one that was heard of succeeded."""
    error = ""
    for sign in signs:
        if sign.type == "saved":
            error = ""
        elif sign.type in ("save_failed", "save_trouble"):
            error = sign.error
    return error


def _attempt_of(name: str) -> int:
    folder = name.removeprefix(PREFIX).partition("/")[0]
    number = folder.removeprefix("attempt-")
    return int(number) if number.isdecimal() and name.endswith(".jsonl") else 0


def _get(store: Store, name: str) -> bytes:
    try:
        return store.get(name)
    except ObjectNotFound:
        return b""
