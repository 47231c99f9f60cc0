"""Agents run and training does not: worker 0 is not found, attempts end alike, a process hangs or runs out of memory."""

import re
from collections.abc import Sequence

from orchestrator.diagnose.ending import limit_of
from orchestrator.diagnose.remedy import remedy_of_code
from orchestrator.diagnose.trouble import Trouble, after
from orchestrator.kube.objects import Manifest, job_of, running
from orchestrator.text import memory_size
from trainer.exit_codes import CRASH_CODES
from trainer.wire import log_events
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.log_events import Event, Logged

_OF_THE_NETWORK = re.compile(r"gaierror|[A-Za-z]*Timeout[A-Za-z]*|timeout|Connection\w+Error|OSError")
"""Classes of errors that mean that worker 0 is not found or not reached; others come from its agent."""


def unheard(pod: Manifest, lines: Sequence[str]) -> Trouble | None:
    """A worker that runs and does not reach worker 0, by what its agent logs."""
    if not running(pod):
        return None
    found = [logged for line in lines if (logged := log_events.read(line)) and _is_of_the_network(logged)]
    if not found:
        return None
    name, error = f"{job_of(pod)}-0.{job_of(pod)}", found[-1].fields["error"]
    message = after(found[-1].message, f"{error}: ")
    if error == "gaierror":
        return Trouble(
            f"the name of worker 0, {name}, is not resolved: {message}",
            f"see whether the cluster's DNS runs (kubectl -n kube-system get pods -l k8s-app=kube-dns) and Service "
            f"{job_of(pod)} is there; the job goes on by itself when the name is resolved",
        )
    return Trouble(
        f"worker 0 is not reached at {name}: {message}",
        "see whether a NetworkPolicy or a firewall stands between the nodes; the job goes on by itself when it is reached",
    )


def _is_of_the_network(logged: Logged) -> bool:
    return logged.event is Event.UNREACHED and _OF_THE_NETWORK.fullmatch(logged.fields["error"]) is not None


def of_restarts(job: Manifest, live: JobState) -> Trouble | None:
    """What the last attempts of a living job ended with, where a person had better look before it gives up."""
    name = str(job["metadata"]["name"])
    last = live.last_end
    if last is None or live.end is not None:
        return None
    memory = last.out_of_memory
    if not memory and last.code not in CRASH_CODES:
        return None
    alike = 0
    for restart in reversed(live.history):
        if (restart.code, restart.step) != (last.code, last.step):
            break
        alike += 1
    if live.state == "running" and live.step > last.step:
        return None  # it went past that
    times = f"{alike} attempts ended alike at step {last.step}, a third such end ends the job: " if alike > 1 else ""
    reason = last.reason
    if memory and last.worker is not None:
        limit = limit_of(job["spec"].get("template", {}).get("spec", {}))
        of_limit = f" of {limit}" if limit else ""
        reason = (
            f"worker {last.worker} ran out of memory{_peak(live.workers, last.worker)}{of_limit} (step {last.step})"
        )
    return Trouble(f"{times}{reason}", remedy_of_code(name, int(last.code), last.worker, memory=memory))


def _peak(workers: Sequence[AgentReport], index: int) -> str:
    report = next((report.last_exit for report in workers if report.index == index), None)
    return f" with {memory_size(report.memory_peak_bytes)}" if report is not None and report.memory_peak_bytes else ""
