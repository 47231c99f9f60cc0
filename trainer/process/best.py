"""The best model by a metric of the evaluation: export/attempt-K/best-step-S.keras, and which of them counts.

Which one is best so far is part of every checkpoint, so what a restart takes back is forgotten with it. Each has a name of its
own; those that no checkpoint names any more are deleted.
"""

import logging
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from trainer.config import ExportSection, StopWhen
from trainer.errors import OrchError, SaveRefused
from trainer.export.exporter import Exporter
from trainer.process.plan import EarlyStopping
from trainer.rundir.commits import read_commit, read_line
from trainer.rundir.lineage import first_attempt
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

KEY = "best"
"""Its place in host_state."""
POINTER_STORE_S = 20.0
"""How long a store that makes trouble is tried: the next better model comes."""
_FILE = re.compile(r"export/attempt-(\d+)/best-step-\d+(-final)?\..+")


class Best:
    """Follows one metric on every worker; the chief writes."""

    def __init__(self, section: ExportSection, store: Store, exporter: Exporter | None) -> None:
        """`exporter`: the chief's, else None."""
        assert section.best is not None
        self.metric = section.best
        self._rule = StopWhen(metric=section.best, mode=section.mode)
        self._follow = EarlyStopping(self._rule)
        self._store, self._exporter = store, exporter
        self._file: dict[str, Any] | None = None
        self._told: deque[str] = deque(maxlen=2)
        """Files that states named which may not be committed yet."""

    def observe(self, step: int, metrics: Mapping[str, float], *, final: bool = False) -> None:
        """One more evaluation of the model as it is now. `final`: its weights are no longer those of training."""
        before = self._follow.best
        self._follow.observe(metrics[self.metric])
        if self._follow.since_best or self._exporter is None:
            return
        try:
            written = self._exporter.write(
                f"best-step-{step}{'-final' if final else ''}", step, metrics, patience_s=POINTER_STORE_S
            )
        except SaveRefused as error:
            log.warning("the best model so far, of step %d, is not kept: %s", step, error.message)
            self._follow.best = before
            return
        self._file = written.described()
        log.info("best model so far step=%d %s=%.6g", step, self.metric, metrics[self.metric])
        self._clean()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        if self._file is not None:
            self._told.append(self._file["file"])
        return {"metric": self.metric, "mode": self._rule.mode, "value": self._follow.best, "file": self._file}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """From a checkpoint; what another metric chose counts for nothing."""
        if state and state.get("metric") == self.metric and state.get("mode") == self._rule.mode:
            self._follow.best, self._file = state["value"], state["file"]

    def publish(self) -> dict[str, Any] | None:
        """At the end: the best one under its plain name in this attempt. Returns what it is, or None where there is none."""
        if self._file is None or self._exporter is None:
            return None
        try:
            data = self._store.get(self._file["file"])
            name = self._exporter.name("best", self._file["kind"])
            self._store.put(name, data)
        except OrchError as error:
            log.warning("the best model, of step %d, stays in %s: %s", self._file["step"], self._file["file"], error)
            return self._file
        return {**self._file, "file": name}

    def _clean(self) -> None:
        """Delete what neither this process nor any checkpoint of the line names."""
        try:
            records, refs = read_line(self._store)
            commits = [read_commit(self._store, ref) for ref in refs]
            named = [(commit.host_state.get(KEY) or {}).get("file") for commit in commits]
            kept = {file["file"] for file in [*named, self._file] if file} | set(self._told)
            since = first_attempt(records)
            for entry in self._store.list("export/attempt-"):
                match = _FILE.fullmatch(entry.name)
                if match and int(match[1]) >= since and entry.name not in kept:
                    self._store.delete(entry.name)
        except OrchError as error:
            log.debug("models that were best once stay: %s", error)
