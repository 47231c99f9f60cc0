"""Kubernetes objects, the coordinator's state and the run directory's records -> JobStatus. Pure: observe.py gathers them.

While a job lives its coordinator knows best; once it is over, the end record does; where neither can be had, what pods and
the Job say must do.
"""

from dataclasses import dataclass, replace

from orchestrator.diagnose.admission import stopped
from orchestrator.diagnose.ending import ended_by_memory, out_of_memory
from orchestrator.diagnose.job import Surroundings, diagnose
from orchestrator.diagnose.trouble import Trouble
from orchestrator.kube.objects import (
    Manifest,
    condition,
    container_status,
    failure,
    index_of,
    last_words,
    newest_pods,
    pod_is_over,
    run_directory_of,
    running,
    time_of,
    workers_of,
)
from orchestrator.status.model import JobStatus, State, WorkerStatus
from orchestrator.status.observation import Observation
from orchestrator.text import first_line
from trainer.exit_codes import FINAL_CODES, ExitCode, title_of
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.rundir.history import Restart, restarts_of
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.process import Phase
from trainer.wire.termination import SAVE_REMEDY, LastWords


def judge(seen: Observation) -> JobStatus:
    """The status of a job, from all that was seen of it."""
    newest = newest_pods(seen.pods)
    around = Surroundings(
        earlier=[pod for pod in seen.pods if pod is not newest.get(index_of(pod))],
        nodes=seen.nodes,
        hosts=seen.hosts,
        workload=seen.workload,
        ahead=seen.ahead,
        live=seen.live,
        log_tails=seen.log_tails,
    )
    troubles = diagnose(seen.job, list(newest.values()), seen.events, around)
    told = JobStatus(
        name=seen.job["metadata"]["name"],
        run_directory=run_directory_of(seen.job),
        workers=_workers(seen, newest),
        history=_restarts(seen),
        unread=seen.records_error,
    ).with_past(seen.past)
    end = end_of_launch(seen)
    if end is not None:
        return _from_end(seen, end, newest, told)
    ended = failure(seen.job)
    if ended or condition(seen.job, "Complete", "True"):
        return _from_job(seen, ended, newest, replace(told, troubles=troubles))
    return _alive(seen, replace(told, troubles=troubles))


def end_of_launch(seen: Observation) -> EndRecord | None:
    """The end record of this launch (the Job's UID), from the coordinator or from the run directory."""
    if seen.live is not None and seen.live.end is not None:
        return seen.live.end
    last = seen.records[-1] if seen.records else None
    if isinstance(last, EndRecord) and last.launch.id == seen.job["metadata"]["uid"]:
        return last
    return None


def _restarts(seen: Observation) -> list[Restart]:
    if seen.live is not None:
        return list(seen.live.history)
    return restarts_of(seen.records or [], seen.job["metadata"]["uid"], told=seen.past.told_steps)


def _from_end(seen: Observation, end: EndRecord, newest: dict[int, Manifest], told: JobStatus) -> JobStatus:
    """The job is over, and its end record tells of it; where memory was the cause, its pods may tell more."""
    words = _culprit(newest)
    memory = [*map(out_of_memory, newest.values()), ended_by_memory(seen.job, end)] if end.code else []
    return replace(
        told.ended_by(end),
        attempts=end.attempts,
        restarts=end.restarts,
        remedy=words.own_remedy(end.code) if words is not None else "",
        troubles=[trouble for trouble in memory if trouble is not None][:1],
    )


def _from_job(seen: Observation, failed: Manifest, newest: dict[int, Manifest], told: JobStatus) -> JobStatus:
    """The job is over and its end record cannot be had, or was never written."""
    said, records = _culprit(newest), _of_records(seen)
    told = replace(
        told,
        step=max(said.step if said else 0, records.step),
        attempts=max(said.attempt if said else 0, records.attempts),
        restarts=records.restarts,
    )
    if not failed:
        reason = said.reason if said else ""
        return replace(told, state="succeeded", code=int(ExitCode.DONE), reason=reason, troubles=())
    code: int | None = said.code if said and said.code else _failed_code(newest)
    if failed.get("reason") == "DeadlineExceeded":
        code, reason = int(ExitCode.GIVEN_UP), "scheduling.max_runtime is over"
    elif said is not None and said.reason:
        reason = said.reason
    elif told.troubles:
        reason = told.troubles[0].text
    else:
        reason = str(failed.get("message") or failed.get("reason") or "the Job failed")
    if code is None:
        code = int(ExitCode.GIVEN_UP)
    return replace(
        told,
        state="failed",
        code=code,
        reason=reason,
        traceback=said.traceback if said else "",
        remedy=said.own_remedy(code) if said is not None else "",
    )


def _culprit(newest: dict[int, Manifest]) -> LastWords | None:
    """Of all last words, those that say most: a code that ends the job, then any failure, then the chief's."""

    def rank(item: tuple[Manifest, LastWords]) -> tuple[bool, bool, int]:
        pod, said = item
        return said.code in FINAL_CODES, bool(said.code) and said.code != ExitCode.STOPPED, -index_of(pod)

    words = [(pod, said) for pod in newest.values() if (said := last_words(pod)) is not None]
    return max(words, key=rank)[1] if words else None


def _failed_code(newest: dict[int, Manifest]) -> int | None:
    codes = [container_status(pod).get("state", {}).get("terminated", {}).get("exitCode", 0) for pod in newest.values()]
    final = [code for code in codes if code in FINAL_CODES]
    return next(iter(final or [code for code in codes if code]), None)


def _alive(seen: Observation, told: JobStatus) -> JobStatus:
    if seen.live is not None:
        return _of_coordinator(seen.live, told)
    records = _of_records(seen)
    state: State = "restarting" if records.of_this_launch else "waiting"
    if seen.job["spec"].get("suspend"):
        state = "stopped" if stopped(seen.job, seen.workload) else "waiting"
    elif records.chief is not None and records.chief == _uid_of_running_chief(seen):
        state = "running"
    return replace(
        told,
        state=state,
        reason=told.troubles[0].text if told.troubles else _why_waiting(seen),
        step=records.step,
        attempts=records.attempts,
        restarts=records.restarts,
    )


def _of_coordinator(live: JobState, told: JobStatus) -> JobStatus:
    # What Kubernetes says explains what the coordinator only waits for.
    waits = live.state in ("waiting", "restarting")
    reason = told.troubles[0].text if waits and told.troubles else live.reason
    save_error = first_line(next((report.save_error for report in live.workers if report.save_error), ""))
    failing = [Trouble(f"saves fail: {save_error}", SAVE_REMEDY)] if save_error else []
    return replace(
        told,
        state=live.state,
        reason=reason or _words_for(live),
        step=live.step,
        attempts=live.attempt,
        restarts=live.restarts,
        metrics=live.metrics,
        total_steps=live.total_steps,
        rate=round(live.rate, 2),
        save_error=save_error,
        troubles=[*told.troubles, *failing],
    )


_PHASES = {
    Phase.IMPORT: "starting: TensorFlow is being imported",
    Phase.RENDEZVOUS: "starting: the workers connect to each other",
    Phase.RESTORE: "starting: the state is being restored",
    Phase.COMPILE: "starting: the first steps are being compiled",
    Phase.DATA: "waiting for data: the task's input gives no batch",
    Phase.CALLBACK: "a callback of the task runs",
    Phase.SCRIPT: "the script runs, outside of model.fit",
    Phase.EVALUATE: "evaluating",
    Phase.SAVE: "waiting for the last save",
    Phase.EXPORT: "writing the trained model",
}


def _words_for(live: JobState) -> str:
    if live.state == "running":
        chief = next((report for report in live.workers if report.index == 0), None)
        return _PHASES.get(chief.phase, "training") if chief is not None and chief.phase is not None else "training"
    return {"waiting": "waiting for all workers", "restarting": "starting again"}.get(live.state, "")


def _uid_of_running_chief(seen: Observation) -> str | None:
    chief = newest_pods(seen.pods).get(0)
    if chief is None or not running(chief):
        return None
    return str(chief["metadata"]["uid"])


def _why_waiting(seen: Observation) -> str:
    wanted = workers_of(seen.job)
    newest = newest_pods(seen.pods)
    if not newest:
        return f"no pods yet; Kubernetes is to create {wanted}"
    chief = newest.get(0)
    if chief is None:
        return "worker 0 has no pod yet, the others wait for it"
    if chief["metadata"].get("deletionTimestamp"):
        return "the pod of worker 0 is being ended, its replacement comes afterwards"
    status = container_status(chief)
    if "running" not in status.get("state", {}):
        waiting = status.get("state", {}).get("waiting", {}).get("reason", "")
        words = {"ContainerCreating": "its container is being created, which includes pulling the image"}
        return f"worker 0 starts: {words.get(waiting, waiting or 'its pod is being scheduled')}"
    # A name answers about a second after its pod has an address.
    return f"worker 0 runs, its coordinator could not be asked{': ' + seen.live_error if seen.live_error else ''}"


@dataclass(frozen=True)
class _OfRecords:
    """What the records tell of a job that has no end."""

    step: int
    attempts: int
    restarts: int
    """Of this launch, where it has records."""
    of_this_launch: bool
    chief: str | None
    """UID of worker 0's pod in the newest attempt: while it runs, so does the attempt, whether or not it can be asked."""


def _of_records(seen: Observation) -> _OfRecords:
    last = next((record for record in reversed(seen.records or []) if isinstance(record, AttemptRecord)), None)
    if last is None:
        return _OfRecords(seen.saved_step, 0, 0, of_this_launch=False, chief=None)
    ours = last.launch.id == seen.job["metadata"]["uid"]
    return _OfRecords(
        step=max(seen.saved_step, last.restore.step if last.restore else 0),
        attempts=last.number,
        restarts=last.restarts if ours else 0,
        of_this_launch=ours,
        chief=next((member.uid for member in last.members if member.index == 0), None) if ours else None,
    )


def _workers(seen: Observation, newest: dict[int, Manifest]) -> list[WorkerStatus]:
    reports = {report.uid: report for report in (seen.live.workers if seen.live is not None else [])}
    over = end_of_launch(seen) is not None
    events = {event.get("involvedObject", {}).get("name"): event for event in sorted(seen.events, key=time_of)}
    culprits = [restart.worker for restart in _restarts(seen)]
    return [
        _worker(
            index,
            pod,
            reports.get(pod["metadata"]["uid"]),
            over=over,
            restarts=culprits.count(index),
            event=events.get(pod["metadata"]["name"]),
        )
        for index, pod in newest.items()
    ]


def _worker(
    index: int, pod: Manifest, report: AgentReport | None, *, over: bool, restarts: int, event: Manifest | None
) -> WorkerStatus:
    state = container_status(pod).get("state", {})
    reason = ""
    said = last_words(pod)
    if "terminated" in state:
        ended = state["terminated"]
        code = ended.get("exitCode", 0)
        words = "succeeded" if code == 0 else "failed"
        reason = "" if code == 0 else ended["reason"] if ended.get("reason") == "OOMKilled" else title_of(code)
    elif pod_is_over(pod):
        words, reason = str(pod["status"]["phase"]).lower(), str(pod["status"].get("reason", ""))
    elif pod["metadata"].get("deletionTimestamp") or (over and "running" in state):
        words = "ending"
    elif "running" not in state:
        words, reason = "pending", str(state.get("waiting", {}).get("reason", ""))
    elif report is None:
        words = "starting"
    elif report.state == "running":
        words = str(report.phase or "running")
    else:
        words = "waiting"
    return WorkerStatus(
        index=index,
        state=words,
        pod=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName", ""),
        attempt=report.attempt if report else said.attempt if said else 0,
        step=report.step if report else said.step if said else 0,
        rate=round(report.rate, 2) if report else 0.0,
        reason=reason,
        restarts=restarts,
        last_event=f"{event.get('reason', '')}: {event.get('message', '')}" if event else "",
        memory_bytes=report.memory_bytes if report else 0,
    )
