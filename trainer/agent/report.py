"""What others see of an agent beside its polls: the termination message of its pod, and figures for Prometheus."""

import contextlib
from pathlib import Path

from trainer.exit_codes import title_of
from trainer.rundir.attempts import EndRecord
from trainer.wire.coordinator import AgentReport, ExitReport
from trainer.wire.termination import LastWords, remedy_for

GROWTH = 1.02
"""A peak of memory is written ahead again where it has grown by so much."""


def prometheus(job: str, report: AgentReport) -> str:
    """The text of GET /metrics."""
    labels = f'{{job="{job}",worker="{report.index}"}}'
    figures = {
        "orch_attempt": report.attempt,
        "orch_step": report.step,
        "orch_steps_per_second": report.rate,
        "orch_running": int(report.state == "running"),
        "orch_memory_bytes": report.memory_bytes,
        "orch_saves_skipped_total": report.saves_skipped,
        "orch_saves_failed_total": report.saves_failed,
        "orch_last_save_failed": int(bool(report.save_error)),
        "orch_last_commit_step": report.last_commit.step if report.last_commit else 0,
    }
    lines = [f"# TYPE {name} gauge\n{name}{labels} {value}" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


class TerminationMessage:
    """Written ahead: an agent may not live to write its last one."""

    def __init__(self, path: str, memory_limit_bytes: int | None, *, command: bool = False) -> None:
        """`path`: ORCH_TERMINATION_LOG; empty where nobody reads one. `command`: the job has train.command."""
        self._path = path
        self._command = command
        self._limit_bytes = memory_limit_bytes
        self._peak_bytes = 0

    def write(
        self,
        reason: str,
        *,
        step: int,
        attempt: int,
        code: int | None = None,
        report: ExitReport | None = None,
        end: EndRecord | None = None,
        remedy: str = "",
        peak_bytes: int | None = None,
    ) -> None:
        """`code`: with which this agent leaves; None before that. `report`: how its last process ended. `remedy`: what the
        coordinator said. `peak_bytes`: of the process that runs, None for none."""
        if not self._path:
            return
        if code is None and report is not None:
            code = report.code
        peak = report.memory_peak_bytes if report else 0
        if peak_bytes is not None:
            peak = self._peak_bytes = peak_bytes
        own = report.remedy if report and report.code == code else ""
        starved = bool(report and report.out_of_memory and report.code == code)
        if end is not None:
            reason, starved = end.reason, end.cause is not None and end.cause.out_of_memory
        by_code = remedy_for(
            code,
            own,
            out_of_memory=starved,
            memory_peak_bytes=peak,
            memory_limit_bytes=self._limit_bytes,
            command=self._command,
        )
        words = LastWords(
            code=code,
            name=title_of(code) if code is not None else "",
            reason=reason,
            step=end.step if end else step,
            attempt=attempt,
            traceback=end.traceback if end else "",
            remedy=remedy or by_code,
            memory_peak_bytes=peak,
            memory_limit_bytes=self._limit_bytes,
            out_of_memory=starved,
        )
        with contextlib.suppress(OSError):
            Path(self._path).write_bytes(words.encode())

    def is_outgrown(self, peak_bytes: int) -> bool:
        """Whether memory grew beyond what was written: with cgroup v2 an out-of-memory kill takes this agent too."""
        return peak_bytes > GROWTH * self._peak_bytes
