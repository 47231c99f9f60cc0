"""Lines in the agent's log that come with time: how training goes, or what is waited for."""

import logging

from trainer.agent.link import Link
from trainer.wire.coordinator import AgentReport
from trainer.wire.log_events import Event, marked

log = logging.getLogger("trainer.agent")

SUMMARY_S = 60.0
UNREACHED_S = 5.0
"""A name answers about a second late; whoever does not reach worker 0 for longer says so, and why."""


class SummaryLines:
    """A line a minute, and one at once where worker 0 is not reached."""

    def __init__(self, now: float) -> None:
        self._next_s = now + SUMMARY_S
        self._unreached = False

    def tick(self, report: AgentReport, link: Link, waits_for: str, now: float) -> None:
        """Time passed."""
        silent_s = now - link.silent_since if link.silent_since is not None else None
        why = f"{link.error} {marked(Event.UNREACHED, error=link.error_class)}"
        unreached = silent_s is not None and silent_s > UNREACHED_S
        if unreached and not self._unreached:
            log.warning("worker 0 is not reached for %.0f s: %s", silent_s, why)
        self._unreached = unreached
        if now < self._next_s:
            return
        self._next_s = now + SUMMARY_S
        if report.state == "running":
            figures = " ".join(f"{name}={value:.4g}" for name, value in report.metrics.items())
            log.info("step=%d/%s rate=%.1f/s %s", report.step, report.total_steps or "?", report.rate, figures)
        elif silent_s is not None:
            log.info("waiting for worker 0 for %.0f s: %s", silent_s, why)
        else:
            log.info("waiting: %s", waits_for)
