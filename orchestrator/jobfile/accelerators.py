"""The table of TPU slices and GPUs: what a job file may name, and what a pod then needs (resource, labels, taints).

Pure data and lookups. Sizes and labels are those of GKE; counts in TPU names follow Google: v4 and v5p count
TensorCores, two a chip; v5litepod and v6e count chips.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from trainer.errors import ConfigError

TPU_LABEL = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
COUNT_LABEL = "cloud.google.com/gke-accelerator-count"
GPU_LABEL = "cloud.google.com/gke-accelerator"

_GIB = 1024**3
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Accelerator:
    """One choice of hardware, as a pod needs it."""

    kind: Literal["tpu", "gpu"]
    name: str
    """As a job file writes it, in its full form: v5litepod-16, nvidia-l4:2."""
    chips: int
    """Chips of the whole slice (TPU); GPUs of one worker (GPU)."""
    hosts: int | None
    """Workers of the slice (TPU); None where the user chooses the number of workers (GPU)."""
    chips_per_host: int
    """What one pod asks for: all chips of its host (TPU), its GPUs (GPU)."""
    topology: str | None
    """The shape of the slice: 4x4, 2x2x4. None for GPUs."""
    resource: str
    """The extended resource: google.com/tpu, nvidia.com/gpu."""
    memory_per_chip_bytes: int | None
    """HBM of one chip, or memory of one GPU; None where the name does not tell (gpu)."""
    node_selector: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    """Labels of the nodes that have it."""
    tolerations: tuple[Mapping[str, str], ...] = ()
    """Tolerations in Kubernetes' own form."""
    privileged: bool = False
    """Whether the container must be privileged to reach the device."""
    note: str = ""
    """What a person should know before using it."""

    @property
    def multi_host(self) -> bool:
        """Whether one slice spans several hosts, which are then scheduled and replaced together."""
        return self.hosts is not None and self.hosts > 1

    @property
    def resources(self) -> dict[str, int]:
        """What one pod asks for, by resource name."""
        return {self.resource: self.chips_per_host}

    def replicas(self, workers: int) -> int:
        """Devices that compute a gradient, over all `workers`: one a chip."""
        return self.chips_per_host * workers


class AcceleratorError(ConfigError):
    """No such accelerator. `field` is the key of `resources` that is to blame: accelerator, topology or workers."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class _Shape:
    """One node pool shape of a TPU generation."""

    topology: str
    hosts: int
    chips_per_host: int

    @property
    def chips(self) -> int:
        return self.hosts * self.chips_per_host


@dataclass(frozen=True)
class _Generation:
    prefix: str
    """The word before the count in names."""
    label: str
    """cloud.google.com/gke-tpu-accelerator."""
    counted_per_chip: int
    """How many a chip counts for in names: 2 where names count TensorCores."""
    memory_gib: int
    shapes: tuple[_Shape, ...]
    note: str = ""

    def name(self, shape: _Shape) -> str:
        return f"{self.prefix}-{shape.chips * self.counted_per_chip}"


def _flat_shapes() -> tuple[_Shape, ...]:
    """v5e and v6e: two dimensions. 2x4 exists twice; the single host comes first, so it is the default."""
    several_hosts = ("4x4", "4x8", "8x8", "8x16", "16x16")
    return (
        _Shape("1x1", 1, 1),
        _Shape("2x2", 1, 4),
        _Shape("2x4", 1, 8),
        _Shape("2x4", 2, 4),
        *(_Shape(topology, _product(topology) // 4, 4) for topology in several_hosts),
    )


def _cubic_shapes(cubes: int) -> tuple[_Shape, ...]:
    """v4 and v5p: parts of one 4x4x4 cube, then AxBxC with A <= B <= C in multiples of 4, up to so many cubes. Among
    shapes of equal size the most compact comes first: it has the shortest ways."""
    small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
    large = [
        (4 * a, 4 * b, 4 * c)
        for a in range(1, math.isqrt(cubes) + 1)
        for b in range(a, math.isqrt(cubes // a) + 1)
        for c in range(b, cubes // (a * b) + 1)
    ]
    large.sort(key=lambda shape: (math.prod(shape), sum(shape)))
    return tuple(_Shape("x".join(map(str, shape)), math.prod(shape) // 4, 4) for shape in [*small, *large])


def _product(topology: str) -> int:
    return math.prod(int(side) for side in topology.split("x"))


_UNPRIVILEGED = "Unprivileged pods reach TPUs from GKE 1.28.7-gke.1020000 and 1.29.2-gke.1035000 on."

TPU_GENERATIONS: tuple[_Generation, ...] = (
    _Generation("v4", "tpu-v4-podslice", 2, 32, _cubic_shapes(64), _UNPRIVILEGED),
    _Generation("v5litepod", "tpu-v5-lite-podslice", 1, 16, _flat_shapes(), _UNPRIVILEGED),
    _Generation("v5p", "tpu-v5p-slice", 2, 95, _cubic_shapes(140), _UNPRIVILEGED),
    _Generation("v6e", "tpu-v6e-slice", 1, 32, _flat_shapes(), _UNPRIVILEGED),
)
_OTHER_NAMES = {"v5e": "v5litepod"} | {generation.label: generation.prefix for generation in TPU_GENERATIONS}


@dataclass(frozen=True)
class _Gpu:
    memory_gib: int
    most_per_host: int


GPUS: Mapping[str, _Gpu] = MappingProxyType(
    {
        "nvidia-tesla-p4": _Gpu(8, 4),
        "nvidia-tesla-p100": _Gpu(16, 4),
        "nvidia-tesla-v100": _Gpu(16, 8),
        "nvidia-tesla-t4": _Gpu(16, 4),
        "nvidia-l4": _Gpu(24, 8),
        "nvidia-tesla-a100": _Gpu(40, 16),
        "nvidia-a100-80gb": _Gpu(80, 8),
        "nvidia-h100-80gb": _Gpu(80, 8),
        "nvidia-h100-mega-80gb": _Gpu(80, 8),
        "nvidia-h200-141gb": _Gpu(141, 8),
        "nvidia-b200": _Gpu(180, 8),
        "nvidia-rtx-pro-6000": _Gpu(96, 8),
    }
)
ANY_GPU = "gpu"
"""A GPU of whatever kind the cluster has: the resource alone, no label. For clusters other than GKE."""


def parse(text: str, topology: str | None = None, workers: int | None = None) -> Accelerator:
    """The accelerator that a job file names.

    Args:
        text: `v5litepod-16`, `nvidia-l4:2`, `nvidia-l4` (one), `gpu:2` (any NVIDIA GPU), or a TPU generation alone
            (`v5litepod`, or its GKE label) together with a topology.
        topology: the slice's shape, where the name leaves a choice or carries no size.
        workers: chooses between one host of 8 chips and two hosts of 4, which share a name and a topology.

    Raises:
        AcceleratorError: no such accelerator, topology, or number of hosts; says what there is.
    """
    name, _, count = text.strip().partition(":")
    if name == ANY_GPU or name in GPUS:
        if topology is not None:
            raise AcceleratorError("topology", f"a topology belongs to a TPU slice; {name} is a GPU: leave it out")
        return _gpu(name, count if ":" in text else "1")
    if re.match(r"(tpu-?)?7x|tpu-?v7|v7x", name.removeprefix("tpu-").removeprefix("tpu")) or name.startswith("tpu7"):
        raise AcceleratorError(
            "accelerator", f"{name}: TensorFlow does not run on TPU7x; use v4, v5litepod, v5p or v6e"
        )
    prefix, _, size = name.rpartition("-") if re.search(r"-\d+$", name) else (name, "", "")
    generation = next((g for g in TPU_GENERATIONS if g.prefix == _OTHER_NAMES.get(prefix, prefix)), None)
    if generation is None:
        raise AcceleratorError("accelerator", _unknown(name))
    if ":" in text:
        raise AcceleratorError("accelerator", f"{text}: a TPU's name carries its size already; write {name}")
    return _tpu(generation, int(size) if size else None, topology, workers)


def every() -> Iterator[Accelerator]:
    """All entries of the table: each TPU shape, each GPU with each count that a host can have."""
    for generation in TPU_GENERATIONS:
        for shape in generation.shapes:
            yield _slice(generation, shape)
    for name, gpu in GPUS.items():
        for count in range(1, gpu.most_per_host + 1):
            yield _gpu(name, str(count))


def named(name: str) -> list[Accelerator]:
    """All entries that a name may mean: of a generation or a GPU alone each size, of v5litepod-8 both shapes.

    Raises:
        AcceleratorError: there is none; says what there is.
    """
    wanted = _OTHER_NAMES.get(name, name)
    kinds = [entry for entry in every() if wanted in (entry.name.rpartition("-")[0], entry.name.partition(":")[0])]
    tpus = [entry for entry in kinds if entry.kind == "tpu"]
    return tpus or [entry for entry in kinds if entry.name.startswith(f"{wanted}:")] or _of_size(parse(name))


def _of_size(entry: Accelerator) -> list[Accelerator]:
    return [other for other in every() if other.name == entry.name] or [entry]


def from_labels(labels: Mapping[str, str], chips_per_host: int | None = None) -> Accelerator | None:
    """What the nodes with these labels are, the other way round: also for the node selector of a pod.

    Args:
        labels: of a node, or a node selector.
        chips_per_host: how many chips or GPUs the node has, or the pod asks for, where the labels leave it open. A GPU without
            a count is taken as one.

    Returns:
        The entry of the table; None where the labels name none.
    """
    count = chips_per_host or (int(text) if (text := labels.get(COUNT_LABEL, "")).isdigit() else None)
    if GPU_LABEL in labels:
        name = labels[GPU_LABEL]
        return _gpu(name, str(count or 1)) if name in GPUS and (count or 1) <= GPUS[name].most_per_host else None
    generation = next((item for item in TPU_GENERATIONS if item.label == labels.get(TPU_LABEL)), None)
    if generation is None:
        return None
    shapes = [shape for shape in generation.shapes if shape.topology == labels.get(TOPOLOGY_LABEL)]
    fitting = [shape for shape in shapes if shape.chips_per_host == count] if count is not None else shapes
    return _slice(generation, fitting[0]) if fitting else None


def _gpu(name: str, count_text: str) -> Accelerator:
    gpu = GPUS.get(name)
    most = gpu.most_per_host if gpu else 16
    if not count_text.isascii() or not count_text.isdigit() or not 1 <= int(count_text) <= most:
        raise AcceleratorError(
            "accelerator", f"{name}:{count_text}: one worker has 1 to {most} of it; write {name}:1 to {name}:{most}"
        )
    count = int(count_text)
    return Accelerator(
        kind="gpu",
        name=f"{name}:{count}",
        chips=count,
        hosts=None,
        chips_per_host=count,
        topology=None,
        resource="nvidia.com/gpu",
        memory_per_chip_bytes=gpu.memory_gib * _GIB if gpu else None,
        node_selector=MappingProxyType({GPU_LABEL: name} if gpu else {}),
        tolerations=(MappingProxyType({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}),),
        note="" if gpu else "Any NVIDIA GPU of the cluster: no node label is asked for.",
    )


def _tpu(generation: _Generation, size: int | None, topology: str | None, workers: int | None) -> Accelerator:
    shapes = generation.shapes
    name = generation.prefix if size is None else f"{generation.prefix}-{size}"
    if size is None and topology is None:
        raise AcceleratorError(
            "accelerator", f"{name} has no size; write one of {_names(generation)}, or give a topology"
        )
    if size is not None:
        shapes = tuple(shape for shape in shapes if shape.chips * generation.counted_per_chip == size)
        if not shapes:
            raise AcceleratorError(
                "accelerator", f"{name} does not exist; {generation.prefix} slices are {_names(generation)}"
            )
    if topology is not None:
        fitting = tuple(shape for shape in shapes if shape.topology == topology)
        if not fitting:
            raise AcceleratorError("topology", _unknown_topology(generation, name, size, topology, shapes))
        shapes = fitting
    if workers is not None:
        fitting = tuple(shape for shape in shapes if shape.hosts == workers)
        if not fitting:
            hosts = sorted({shape.hosts for shape in shapes})
            choices = " or ".join(map(str, hosts))
            name = generation.name(shapes[0])
            raise AcceleratorError(
                "workers",
                f"{name} has {choices} {_plural('host', hosts[-1])}, one worker each, not {workers}; leave workers out",
            )
        shapes = fitting
    return _slice(generation, shapes[0])


def _slice(generation: _Generation, shape: _Shape) -> Accelerator:
    labels = {TPU_LABEL: generation.label, TOPOLOGY_LABEL: shape.topology}
    if sum(other.topology == shape.topology for other in generation.shapes) > 1:
        # 2x4 is one host of 8 chips or two hosts of 4; the count a host tells their node pools apart.
        labels[COUNT_LABEL] = str(shape.chips_per_host)
    return Accelerator(
        kind="tpu",
        name=generation.name(shape),
        chips=shape.chips,
        hosts=shape.hosts,
        chips_per_host=shape.chips_per_host,
        topology=shape.topology,
        resource="google.com/tpu",
        memory_per_chip_bytes=generation.memory_gib * _GIB,
        node_selector=MappingProxyType(labels),
        tolerations=(MappingProxyType({"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}),),
        note=generation.note,
    )


def _names(generation: _Generation) -> str:
    names = list(dict.fromkeys(generation.name(shape) for shape in generation.shapes))
    return ", ".join(names) if len(names) <= 10 else ", ".join(names[:6]) + f", ... {names[-1]}"


def _unknown_topology(
    generation: _Generation, name: str, size: int | None, topology: str, shapes: tuple[_Shape, ...]
) -> str:
    choices = list(dict.fromkeys(shape.topology for shape in shapes))
    if size is not None:
        shown = ", ".join(choices[:8])
        try:
            chips = f" ({_product(topology)} chips)"
        except ValueError:
            chips = ""
        count = f"{shapes[0].chips} {_plural('chip', shapes[0].chips)}"
        return f"{name} has {count}, so its topology is {shown}; not {topology}{chips}"
    near = difflib.get_close_matches(topology, choices, n=1, cutoff=0.0)
    shown = ", ".join(choices) if len(choices) <= 10 else ", ".join(choices[:8]) + ", ..."
    return f'topology {topology} does not exist for {name}; nearest is "{near[0]}"; there are {shown}'


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _unknown(name: str) -> str:
    """What there is instead: near names first, then one of each kind."""
    names = [*GPUS, *(generation.prefix for generation in TPU_GENERATIONS)]
    names += [generation.name(shape) for generation in TPU_GENERATIONS for shape in generation.shapes[:10]]
    wanted = name.lower()
    near = [known for known in names if wanted and (known.endswith(f"-{wanted}") or wanted in known.split("-"))]
    near = near[:3] or difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f'"{name}" is no accelerator orch knows{hint or ";"} GPUs: {", ".join(GPUS)} (each with :COUNT), '
        "gpu:COUNT for any; TPU slices: v4-N, v5litepod-N, v5p-N, v6e-N"
    )
