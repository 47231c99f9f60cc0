"""Who the workers are: seen, silent, gone to leave, strangers, superseded. No I/O; what follows is decided in machine.py."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.coordinator.job import Job
from trainer.coordinator.known_records import KnownRecords
from trainer.wire.coordinator import AgentReport

SILENT_S = 10.0
"""An agent that has not polled for so long is lost."""


@dataclass(frozen=True)
class Seen:
    """An agent's last report, and when it came."""

    report: AgentReport
    at_s: float


class Roster:
    """For each index of the job the agent that holds it now, as far as it was heard."""

    def __init__(self, job: Job, records: KnownRecords) -> None:
        self._job = job
        self._records = records
        self._seen: dict[int, Seen] = {}
        self._replaced: set[str] = set()

    def __iter__(self) -> Iterator[Seen]:
        """In the order in which they were first heard."""
        return iter(list(self._seen.values()))

    def __len__(self) -> int:
        return len(self._seen)

    def get(self, index: int) -> Seen | None:
        """None for one that was never heard."""
        return self._seen.get(index)

    @property
    def reports(self) -> list[AgentReport]:
        """The last one of each, in order of index."""
        return [seen.report for _, seen in sorted(self._seen.items())]

    # --- who may be one of them

    def why_stranger(self, report: AgentReport) -> str:
        """Why this agent is none of this job's workers, or is not any more; empty for one that is."""
        if report.launch != self._job.launch.id:
            return f"this run directory is used by launch {self._job.launch.id}"
        if report.index >= self._job.workers:
            return f"worker {report.index} is beyond the job's {self._job.workers} workers"
        # Another agent of index 0 has a coordinator of its own, and does not poll this one, unless it is an older one.
        if report.index == 0 and report.uid != self._job.uid:
            return "another agent is worker 0 now"
        seen = self._seen.get(report.index)
        # Of two that live, the one in no record came later.
        older = seen is not None and seen.report.uid != report.uid and self._records.names(report.uid)
        if report.uid in self._replaced or self._records.is_superseded(report.uid) or older:
            return f"another agent took the place of this one as worker {report.index}"
        return ""

    # --- what is heard

    def hear(self, report: AgentReport, now: float) -> Seen | None:
        """Note a report. Returns what was known of the agent whose place this one took, if it did."""
        before = self._seen.get(report.index)
        self._seen[report.index] = Seen(report, now)
        if before is None or before.report.uid == report.uid:
            return None
        self._replaced.add(before.report.uid)
        return before

    def started(self, report: AgentReport, attempt: int, now: float) -> None:
        """It was told to start: idle no more. Only its next report may say so, else its commits could come after the commits
        were listed."""
        running = report.model_copy(update={"state": "running", "attempt": attempt})
        self._seen[report.index] = Seen(running, now)

    def excuse(self, now: float) -> None:
        """The coordinator stood still and did not listen, so it cannot say that nobody spoke."""
        self._seen = {index: Seen(seen.report, now) for index, seen in self._seen.items()}

    # --- what follows from it

    def absent(self) -> list[int]:
        """Indexes of which nobody was ever heard."""
        return [index for index in range(self._job.workers) if index not in self._seen]

    def silent(self, now: float) -> list[int]:
        """Indexes whose agents have not polled for too long, in the order in which they were first heard."""
        return [index for index, seen in self._seen.items() if now - seen.at_s > SILENT_S]

    def missing(self, now: float) -> list[int]:
        """Indexes that are not registered idle."""
        return [
            index
            for index in range(self._job.workers)
            if (seen := self._seen.get(index)) is None or seen.report.state != "idle" or now - seen.at_s > SILENT_S
        ]

    def everybody_else(self, told: set[int], now: float) -> bool:
        """Whether all but worker 0 are in `told`, about to leave, or not there to be told."""
        return all(
            index in told or now - seen.at_s > SILENT_S / 2 or seen.report.state == "leaving"
            for index, seen in self._seen.items()
            if index != 0
        )
