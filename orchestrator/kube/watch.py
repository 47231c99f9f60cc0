"""Keeps views of the cluster up to date, one list and one watch each: the I/O around cache.py.

A watch goes on from the last resource version after the server ended it and after a connection broke, lists anew after
410, and waits, longer each time, while the API server is away. Whoever looks takes what is known, and why it may be old.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.kube.cache import Known
from orchestrator.kube.client import Cluster
from orchestrator.kube.connection import STARTING_S
from orchestrator.kube.errors import ClusterError, ClusterUnreachable, Gone, ServerTrouble
from orchestrator.kube.objects import Manifest
from trainer.retry import Backoff

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0
TRIES_OF_A_VERSION = 3
"""After so many failures with one resource version it is dropped: etcd may have been restored from a backup."""


@dataclass(frozen=True)
class View:
    """What to watch."""

    kind: str
    labels: str = ""
    fields: str = ""
    keep: Callable[[Manifest], bool] = lambda _item: True
    most: int | None = None
    optional: bool = False
    """One that the cluster does not have, or the user may not see, is empty instead of an error."""


@dataclass
class _ViewState:
    view: View
    known: Known
    listed: bool = False
    away: str = ""
    """Why it is not up to date."""
    failure: ClusterError | None = None


class Watch:
    """Several views of one cluster, each kept by a thread of its own; a context manager.

    Level-triggered: `wait` returns when anything has changed since it returned last, however often, and `items` is what is
    known then. So a thousand changes cost whoever looks no more than one.
    """

    def __init__(self, cluster: Cluster, views: Sequence[View]) -> None:
        self._cluster = cluster
        self._kept = {view.kind: _ViewState(view, Known(keep=view.keep, most=view.most)) for view in views}
        self._lock = threading.Condition()
        self._changed = False
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        for kept in self._kept.values():
            # Daemons: one that waits for the server's next word must not hold up the end of the program.
            threading.Thread(target=self._keep, args=(kept,), name=f"watch {kept.view.kind}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()

    def wait(self, timeout_s: float) -> bool:
        """Until something is other than at the last call, `timeout_s` at most. Whether it is.

        Raises:
            ClusterError: the cluster refuses a view for good.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._changed, timeout_s)
            changed, self._changed = self._changed, False
            for kept in self._kept.values():
                if kept.failure is not None:
                    raise kept.failure
            return changed

    @property
    def ready(self) -> bool:
        """Whether every view was listed once."""
        with self._lock:
            return all(kept.listed for kept in self._kept.values())

    @property
    def away(self) -> str:
        """Why what is known may be old: the API server does not answer. Empty while it does."""
        with self._lock:
            return next((kept.away for kept in self._kept.values() if kept.away and not kept.view.optional), "")

    def items(self, kind: str) -> list[Manifest]:
        """The objects of a view, as known now."""
        with self._lock:
            return list(self._kept[kind].known.items.values())

    def _keep(self, kept: _ViewState) -> None:
        pauses = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        refused_since: float | None = None
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._go_on(kept, pauses)
                refused_since = None
                if time.monotonic() - began > FIRST_PAUSE_S:
                    pauses.reset()
                    continue
                pause_s = pauses.next_s()  # a server that ends its watches at once is asked less often
            except Gone:
                kept.known.too_old()
                pause_s = pauses.next_s()
            except ClusterUnreachable as error:
                pause_s = pauses.next_s()
                if isinstance(error, ServerTrouble) and pauses.failures >= TRIES_OF_A_VERSION:
                    kept.known.too_old()
                self._tell(kept, away=error.message)
            except ClusterError as error:
                refused_since = refused_since or began
                if not kept.listed or began - refused_since > STARTING_S:
                    self._refused(kept, error)
                    return
                pause_s = pauses.next_s()
                self._tell(kept, away=error.message)
            except Exception as error:  # a thread that dies in silence would leave an old picture behind
                self._refused(kept, ClusterError(f"watching {kept.view.kind}: {type(error).__name__}: {error}"))
                return
            self._stop.wait(pause_s)

    def _go_on(self, kept: _ViewState, pauses: Backoff) -> None:
        """List where that is needed, then take changes until the server ends the watch."""
        view, known = kept.view, kept.known
        if not known.version:
            items, version = self._cluster.listed(view.kind, labels=view.labels, fields=view.fields)
            with self._lock:
                changed = known.replace(items, version)
                changed, kept.listed = changed or not kept.listed, True
            pauses.reset()
            self._tell(kept, changed=changed)
        changes = self._cluster.changes(view.kind, known.version, labels=view.labels, fields=view.fields)
        self._tell(kept)  # it answers again
        for change in changes:
            if self._stop.is_set():
                return
            with self._lock:
                changed = known.apply(change)
            pauses.reset()
            self._tell(kept, changed=changed)

    def _tell(self, kept: _ViewState, *, changed: bool = False, away: str = "") -> None:
        with self._lock:
            if changed or kept.away != away:
                self._changed = True
                self._lock.notify_all()
            kept.away = away

    def _refused(self, kept: _ViewState, error: ClusterError) -> None:
        with self._lock:
            kept.listed, kept.away = True, ""
            if not kept.view.optional:
                kept.failure = error
            self._changed = True
            self._lock.notify_all()
        log.debug("view %s: %s", kept.view.kind, error.message)
