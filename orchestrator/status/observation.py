"""What was seen of a job of a cluster at one moment: what observe.py gathers and judge.py judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.diagnose.scheduling import NodeRoom
from orchestrator.kube.objects import Manifest
from orchestrator.runs.past import Past
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.wire.coordinator import JobState


@dataclass(frozen=True)
class Observation:
    """All that was seen of a job at one moment."""

    job: Manifest
    pods: list[Manifest]
    events: list[Manifest] = field(default_factory=list)
    live: JobState | None = None
    """The coordinator's answer, where it could be asked."""
    live_error: str = ""
    records: list[AttemptRecord | EndRecord] | None = None
    """The run directory's, where it was read."""
    records_error: str = ""
    saved_step: int = 0
    """Of the newest checkpoint that counts, where the run directory was read."""
    past: Past = field(default_factory=Past)
    """What went on before, where the run directory could tell it in time."""
    nodes: Sequence[NodeRoom] = ()
    """What the nodes offer, where a pod finds none and the user may look."""
    hosts: Mapping[str, Manifest] = field(default_factory=dict)
    """Name -> the Node of pods that may be out of reach, where the user may look at it."""
    workload: Manifest | None = None
    """Kueue's object for a queued job."""
    ahead: int | None = None
    """How many jobs wait before it, where Kueue tells."""
    log_tails: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """UID of a pod that the coordinator does not hear -> the last lines of its log."""
