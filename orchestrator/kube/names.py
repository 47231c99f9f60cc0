"""The labels, annotations and names by which orch, Kubernetes, JobSet and Kueue know the objects of a job. Pure."""

CONTAINER = "trainer"
"""The container of a pod in which the agent runs."""
RUN_DIRECTORY = "orch/run-directory"
"""The annotation of the Job or JobSet that says where the job keeps what it leaves behind."""
GROUP_WORKERS = "orch/workers-per-group"
"""The annotation of a pod that says how many workers a group has."""

JOB_LABEL = "app.kubernetes.io/instance"
"""Of every object of a job: the job's name."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
"""Of every object that orch made: `orch`."""
OURS = f"{MANAGED_BY_LABEL}=orch"
"""The label selector of all that orch made."""

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""A label and an annotation of a pod: which worker of its Job it is. Set by the Job controller."""
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
"""Of a pod: the UID of its Job. Set by the Job controller."""
GROUP_LABEL = "jobset.sigs.k8s.io/job-index"
"""Of a pod: the Job, and so the group of workers, that it belongs to. Set by JobSet."""
JOBSET_UID_LABEL = "jobset.sigs.k8s.io/jobset-uid"
"""Of a pod: the UID of the JobSet, which tells a launch from the next. Set by JobSet."""
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Of a Job: the JobSet that it belongs to. Set by JobSet."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Of a carrier: the queue in which it waits for Kueue."""
WORKLOAD_OF_LABEL = "kueue.x-k8s.io/job-uid"
"""Of a Workload: the UID of the carrier. Set by Kueue."""


def labels_of(name: str) -> dict[str, str]:
    """The labels of every object of a job, and the selector of its pods."""
    return {"app.kubernetes.io/name": "trainer", JOB_LABEL: name, MANAGED_BY_LABEL: "orch"}


def selector_of(name: str) -> str:
    """The same as a label selector."""
    return ",".join(f"{key}={value}" for key, value in labels_of(name).items())
