"""Names and what the job file refers to: is a name free, is the run directory in use, is what is named there."""

import contextlib
from dataclasses import dataclass

from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.carrier import CARRIERS, child_names
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import AlreadyExists, ClusterError, Forbidden, NotFound
from orchestrator.kube.jobs import list_jobs
from orchestrator.kube.kinds import KINDS
from orchestrator.kube.names import JOB_LABEL, JOBSET_LABEL
from orchestrator.kube.objects import Manifest, access_modes, condition, is_ours, is_over, labels, run_directory_of
from orchestrator.manifests.volumes import claim_problem, volume_of_run_directory
from orchestrator.preflight.check import Finding, error, ok
from orchestrator.preflight.subject import JOB_CHECKS, Candidate
from trainer.config import TrainConfig


@dataclass(frozen=True)
class Taken:
    """An object that has a name the job needs."""

    kind: str
    name: str
    job: str
    """The job of orch that it belongs to; empty: orch did not make it."""
    over: bool = False
    """Of a Job or JobSet: whether it has ended."""


def taken(cluster: Cluster, objects: list[Manifest]) -> list[Taken]:
    """Which names of the objects are taken, those of other carriers of the same name and of a JobSet's Jobs included.

    What the user may not read (Secrets, most often) is left to the server-side dry run.
    """
    carrier = objects[-1]
    wanted: list[tuple[str, str]] = [(kind, carrier["metadata"]["name"]) for kind in CARRIERS]
    wanted += [(item["kind"], item["metadata"]["name"]) for item in objects[:-1]]
    found = []
    for kind, name in wanted:
        try:
            item = cluster.find(kind, name)
        except Forbidden:
            continue
        if item is not None:
            found.append(_taken(item, kind))
    children = set(child_names(carrier))
    if children:
        with contextlib.suppress(Forbidden):
            found += [_taken(item, "Job") for item in cluster.select("Job") if item["metadata"]["name"] in children]
    return found


def taken_from(on: Candidate) -> list[Taken]:
    """Of the objects of the job that is checked."""
    return taken(on.cluster, on.job.objects)


def _taken(item: Manifest, kind: str) -> Taken:
    job = labels(item).get(JOB_LABEL if is_ours(item) else JOBSET_LABEL, "")
    return Taken(kind, item["metadata"]["name"], job, is_over(item))


def name_free(found: list[Taken], job: str, namespace: str, *, replace: bool) -> Finding:
    """Whether a job of this name can be created, or, with `replace`, takes the place of one that orch made."""
    strangers = [item for item in found if item.job != job]
    if strangers:
        told = "; ".join(
            f"{item.kind} {item.name} exists already in namespace {namespace}, and "
            + (f"belongs to job {item.job}" if item.job else "orch did not make it")
            for item in strangers
        )
        kind = f"the name {job} is taken: " if any(item.kind in CARRIERS for item in strangers) else ""
        return error(
            f"{kind}{told}", "choose another name for the job; orch touches nothing that it did not make for it"
        )
    carrier = next((item for item in found if item.kind in CARRIERS), None)
    if not found or replace:
        return ok(f"{job} is free" if not found else f"{job} is taken by a job of orch, which will be replaced")
    if carrier is None:
        left = ", ".join(f"{item.kind} {item.name}" for item in found)
        return error(
            f"{left} exists already in namespace {namespace}, left behind by a job of this name",
            f"orch delete {job} removes what is left; or submit with --replace",
        )
    state = "has ended" if carrier.over else "is still there"
    return error(
        f"the name {job} is taken: a job of that name {state} in namespace {namespace}",
        f"orch submit --replace stops it with a checkpoint, removes it and creates this one (run directories stay); "
        f"orch delete {job} only removes it; or choose another name",
    )


@JOB_CHECKS.check(
    "name",
    40,
    before_image=True,
    what="Job, JobSet and every other object's name",
    error_when="taken, by whomever",
)
def _name(on: Candidate) -> Finding:
    return name_free(on.once(taken_from), on.job.spec.name, on.cluster.namespace, replace=on.job.replace)


def dry_run(cluster: Cluster, objects: list[Manifest], found: list[Taken], job: str) -> Finding:
    """Every object past the API server's own validation, admission and quota, without creating one."""
    known = {(item.kind, item.name) for item in found}
    taken_unseen, refused = [], []
    for item in objects:
        kind, name = item["kind"], item["metadata"]["name"]
        try:
            cluster.create(item, dry_run=True)
        except AlreadyExists:
            # The name is the last that is looked at: all else was in order.
            if (kind, name) not in known:
                taken_unseen.append(f"{kind} {name}")
        except NotFound as problem:
            refused.append(problem.message)
        except ClusterError as problem:
            refused.append(f"{problem.message}{'; ' + problem.remedy if problem.remedy else ''}")
    if refused:
        return error("; ".join(refused))
    if taken_unseen and not any(item.job == job for item in found):
        return error(
            f"{', '.join(taken_unseen)} exists already in namespace {cluster.namespace}",
            f"if it was left behind by a job of this name, orch delete {job} removes it; "
            "if it is another's, choose another name for the job",
        )
    return ok(f"the cluster takes {', '.join(item['kind'] for item in objects)}")


@JOB_CHECKS.check("dry-run", 190, what="every object by server-side dry run", error_when="refused")
def _dry_run(on: Candidate) -> Finding:
    return dry_run(on.cluster, on.job.objects, on.once(taken_from), on.job.spec.name)


def run_directory_free(cluster: Cluster, job: str, config: TrainConfig) -> Finding:
    """Whether another job that has not ended writes to the same run directory."""
    for other in list_jobs(cluster):
        same = run_directory_of(other).rstrip("/")
        if same == config.run_directory.rstrip("/") and not is_over(other) and other["metadata"]["name"] != job:
            return error(
                f"{config.run_directory} is in use by job {other['metadata']['name']}, which has not ended",
                "give this job a run.directory of its own",
            )
    return ok(f"{config.run_directory} is used by no other job of the namespace")


@JOB_CHECKS.check(
    "run-directory",
    50,
    before_image=True,
    what="no other job of the namespace writes there",
    error_when="one does that has not ended",
)
def _run_directory(on: Candidate) -> Finding:
    return run_directory_free(on.cluster, on.job.spec.name, on.job.config)


def references(cluster: Cluster, spec: JobSpec, config: TrainConfig) -> Finding:
    """Whether the namespace has what the job file names, fit for its use. Where the user may not look, it shows later."""
    wanted = [("Secret", secret.name, "secrets") for secret in spec.secrets]
    wanted += [("Secret", secret, "image.pull_secrets") for secret in spec.image.pull_secrets]
    wanted += [("ConfigMap", volume.config_map, "volumes") for volume in spec.volumes if volume.config_map]
    wanted += [("PersistentVolumeClaim", volume.claim, "volumes") for volume in spec.volumes if volume.claim]
    if spec.scheduling.service_account:
        wanted.append(("ServiceAccount", spec.scheduling.service_account, "scheduling.service_account"))
    if spec.scheduling.queue:
        wanted.append(("LocalQueue", spec.scheduling.queue, "scheduling.queue"))
    if spec.scheduling.priority:
        kind = "WorkloadPriorityClass" if spec.scheduling.queue else "PriorityClass"
        wanted.append((kind, spec.scheduling.priority, "scheduling.priority"))
    problems, unseen = [], []
    for kind, object_name, field in wanted:
        try:
            found = cluster.get(kind, object_name)
        except NotFound as problem:
            if "could not find the requested resource" in problem.message:
                continue  # no such kind: the add-ons' line says so
            where = f" in namespace {cluster.namespace}" if KINDS[kind].namespaced else ""
            problems.append(f"{field}: there is no {kind} {object_name}{where}")
        except ClusterError:
            unseen.append(f"{kind} {object_name}")
        else:
            problems += [f"{field}: {text}" for text in (_unfit(cluster, found, spec, config),) if text]
    if problems:
        return error("; ".join(problems), "create what is missing, or correct the name in the job file")
    if unseen:
        return ok(f"{len(wanted) - len(unseen)} there; you may not look at {', '.join(unseen)}: the pods will tell")
    return ok("all that the job file names is there" if wanted else "the job file names nothing else of the namespace")


@JOB_CHECKS.check(
    "references",
    60,
    what="Secrets, ConfigMaps, claims, service account, queue, priority class",
    error_when="one is not there; a claim that the workers cannot share",
)
def _references(on: Candidate) -> Finding:
    return references(on.cluster, on.job.spec, on.job.config)


def _unfit(cluster: Cluster, found: Manifest, spec: JobSpec, config: TrainConfig) -> str:
    """Why an object that is there is of no use to the job; empty when it is."""
    name = found["metadata"]["name"]
    if found["kind"] == "LocalQueue":
        active = condition(found, "Active")
        if active and active["status"] != "True":
            return f"LocalQueue {name} is not active: {active.get('message', active.get('reason', ''))}"
    if found["kind"] == "PersistentVolumeClaim":
        holds_run = volume_of_run_directory(config.run_directory, spec.volumes)
        if holds_run is not None and holds_run.claim == name:
            return claim_problem(found, config.workers, _volume_behind(cluster, found))
        return unshared_claim(found, config.workers)
    return ""


def _volume_behind(cluster: Cluster, claim: Manifest) -> Manifest | None:
    """The PersistentVolume of a bound claim, where the user may look."""
    volume = claim["spec"].get("volumeName")
    if not volume:
        return None
    with contextlib.suppress(Forbidden):
        return cluster.find("PersistentVolume", volume)
    return None


def unshared_claim(claim: Manifest, workers: int) -> str:
    """Why several workers cannot share a claim with data: pods on other nodes would wait for it for ever."""
    modes = access_modes(claim)
    if workers == 1 or not modes or {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
        return ""
    name = claim["metadata"]["name"]
    return f"claim {name} is {', '.join(modes)}: {workers} workers on several nodes cannot share it"
