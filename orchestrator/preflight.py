"""What must hold before a submit, asked of the cluster and of the bucket. Nothing is changed but a probe in the bucket.

Problems are collected, so that one run shows them all.
"""

import secrets

from orchestrator.kube import Cluster, ClusterError, Forbidden, NotFound
from orchestrator.manifests import RUN_DIRECTORY
from orchestrator.spec import JobSpec
from trainer.config import TrainConfig
from trainer.errors import ConfigError, OrchError, StoreDenied
from trainer.rundir.bucket import of_run_directory
from trainer.rundir.store import open_store

OLDEST = (1, 31)
"""The oldest Kubernetes whose Jobs have all that is used: podFailurePolicy and backoffLimitPerIndex of Indexed Jobs."""
_STORE_S = 15.0

# What submit, and its undoing, do; then what status and logs read.
_NEEDED = [
    ("create", "Job", ""),
    ("patch", "Job", ""),
    ("delete", "Job", ""),
    ("create", "Service", ""),
    ("create", "ConfigMap", ""),
    ("create", "Secret", ""),
    ("create", "NetworkPolicy", ""),
    ("list", "Pod", ""),
    ("get", "Pod", "log"),
]


def check_cluster(cluster: Cluster, spec: JobSpec, config: TrainConfig) -> None:
    """The API server, its version, the namespace, permissions, the name, the queue.

    Raises:
        ClusterUnreachable, Forbidden: at once.
        ConfigError: all other problems together, one a line.
    """
    major, minor = cluster.version()
    if (major, minor) < OLDEST:
        raise ConfigError(f"the cluster runs Kubernetes {major}.{minor}; orch needs {OLDEST[0]}.{OLDEST[1]} or newer")
    if cluster.namespace_exists() is False:
        raise ConfigError(
            f"there is no namespace {cluster.namespace} in context {cluster.context}",
            remedy=f"create it (kubectl create namespace {cluster.namespace}), or choose another with --namespace",
        )
    missing = [
        f"{verb} {kind}{'/' + subresource if subresource else ''}"
        for verb, kind, subresource in _NEEDED
        if not cluster.can_i(verb, kind, subresource=subresource)
    ]
    if missing:
        raise Forbidden(
            f"you may not do this in namespace {cluster.namespace} of context {cluster.context}: {', '.join(missing)}",
            remedy="ask an administrator for the role orch-submitter (k8s/setup), or use another --namespace",
        )
    problems = [
        text for text in (_name_taken(cluster, spec.name), _directory_taken(cluster, spec.name, config)) if text
    ]
    problems += _missing_objects(cluster, spec)
    if problems:
        raise ConfigError("\n".join(problems))


def check_run_directory(config: TrainConfig) -> None:
    """Write, list and delete a probe in the run directory, as the user.

    The pods have an identity of their own, but what the user may not reach is most often misspelled.

    Raises:
        ConfigError: the bucket refuses or does not answer.
    """
    if not config.run_directory.startswith("gs://"):
        return
    probe = f"tmp/preflight-{secrets.token_hex(8)}"
    try:
        store = open_store(config.run_directory, timeout_s=_STORE_S)
        store.put_if_absent(probe, b"orch writes, lists and deletes this before a submit\n")
        found = any(entry.name == probe for entry in store.list(probe))
        store.delete(probe)
    except OrchError as error:
        refused = isinstance(error, StoreDenied)
        raise ConfigError(
            f"run.directory {config.run_directory} {'refuses' if refused else 'cannot be used'}: {error.message}",
            remedy="correct run.directory, or get the role storage.objectUser on the bucket; "
            "--skip-bucket-check submits all the same (the pods have an identity of their own)",
        ) from None
    if not found:
        raise ConfigError(f"run.directory {config.run_directory} does not list what was just written")


def bucket_notices(config: TrainConfig) -> list[str]:
    """What the bucket of the run directory does behind our back: soft delete, lifecycle rules. Nothing of it is an error."""
    if not config.run_directory.startswith("gs://"):
        return []
    try:
        return of_run_directory(config.run_directory, timeout_s=_STORE_S)
    except OrchError:
        return []  # check_run_directory says it better


def _name_taken(cluster: Cluster, name: str) -> str:
    job = cluster.find("Job", name)
    if job is None:
        return ""
    if (job["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != "orch":
        return f"the name {name} is taken: namespace {cluster.namespace} has a Job of that name that orch did not make"
    ended = [item["type"] for item in job.get("status", {}).get("conditions") or [] if item["status"] == "True"]
    state = "has ended" if {"Complete", "Failed"} & set(ended) else "is still there"
    return (
        f"the name {name} is taken: a job of that name {state} in namespace {cluster.namespace}; "
        f"`orch delete {name}` removes it (its run directory stays, and the new job goes on from there), or choose another name"
    )


def _directory_taken(cluster: Cluster, name: str, config: TrainConfig) -> str:
    for job in cluster.select("Job", labels="app.kubernetes.io/managed-by=orch"):
        other = job["metadata"]["name"]
        same = (job["metadata"].get("annotations") or {}).get(RUN_DIRECTORY, "").rstrip(
            "/"
        ) == config.run_directory.rstrip("/")
        conditions = job.get("status", {}).get("conditions") or []
        ended = any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
        if same and not ended and other != name:
            return f"run.directory {config.run_directory} is in use by job {other}, which has not ended; give another"
    return ""


def _missing_objects(cluster: Cluster, spec: JobSpec) -> list[str]:
    """What the job file names and the namespace does not have. Where the user may not look, Kubernetes will say it later."""
    wanted = [("Secret", secret.name, "secrets") for secret in spec.secrets]
    wanted += [("Secret", name, "image.pull_secrets") for name in spec.image.pull_secrets]
    wanted += [("ConfigMap", volume.config_map, "volumes") for volume in spec.volumes if volume.config_map]
    wanted += [("PersistentVolumeClaim", volume.claim, "volumes") for volume in spec.volumes if volume.claim]
    if spec.scheduling.service_account:
        wanted.append(("ServiceAccount", spec.scheduling.service_account, "scheduling.service_account"))
    if spec.scheduling.queue:
        wanted.append(("LocalQueue", spec.scheduling.queue, "scheduling.queue"))
    missing = []
    for kind, name, field in wanted:
        try:
            cluster.get(kind, name)
        except NotFound as error:
            no_such_kind = "could not find the requested resource" in error.message
            why = (
                "Kueue is not installed in this cluster"
                if no_such_kind
                else f"there is no {kind} {name} in {cluster.namespace}"
            )
            missing.append(f"{field}: {why}")
        except ClusterError:
            continue
    return missing
