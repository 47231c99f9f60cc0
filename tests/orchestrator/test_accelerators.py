"""The table of accelerators: every entry can be named, and wrong names lead to right ones."""

import math

import pytest

from orchestrator.jobfile.accelerators import (
    GPUS,
    TPU_GENERATIONS,
    Accelerator,
    AcceleratorError,
    every,
    from_labels,
    parse,
)

ENTRIES = list(every())
TPUS = [entry for entry in ENTRIES if entry.kind == "tpu"]


def refusal(text: str, topology: str | None = None, workers: int | None = None) -> AcceleratorError:
    with pytest.raises(AcceleratorError) as caught:
        parse(text, topology, workers)
    return caught.value


def test_every_entry_is_found_again_by_its_name_topology_and_hosts() -> None:
    assert len(ENTRIES) > 500
    for entry in ENTRIES:
        assert parse(entry.name, entry.topology, entry.hosts) == entry


def test_every_slice_has_as_many_chips_as_its_topology_and_its_hosts() -> None:
    for entry in TPUS:
        assert entry.topology is not None
        assert entry.hosts is not None
        assert entry.chips == math.prod(map(int, entry.topology.split("x"))) == entry.hosts * entry.chips_per_host
        assert entry.node_selector["cloud.google.com/gke-tpu-topology"] == entry.topology
        assert entry.resources == {"google.com/tpu": entry.chips_per_host}


def test_no_two_slices_ask_for_the_same_nodes() -> None:
    asked = [tuple(sorted(entry.node_selector.items())) for entry in TPUS]
    assert len(asked) == len(set(asked))


def test_every_entry_is_found_again_by_the_labels_of_its_nodes() -> None:
    for entry in ENTRIES:
        # Nodes have many labels more.
        labels = dict(entry.node_selector) | {
            "kubernetes.io/hostname": "node2",
            "cloud.google.com/gke-nodepool": "pool",
        }
        assert from_labels(labels, entry.chips_per_host) == entry
        if entry.kind == "tpu":
            assert from_labels(labels) == entry


@pytest.mark.parametrize(
    "labels, count",
    [
        ({}, None),
        ({"kubernetes.io/hostname": "node2"}, 4),
        ({"cloud.google.com/gke-accelerator": "nvidia-mystery"}, 1),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, 99),
        ({"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"}, None),
        ({"cloud.google.com/gke-tpu-accelerator": "tpu7x", "cloud.google.com/gke-tpu-topology": "2x2x1"}, 4),
        ({"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice", "cloud.google.com/gke-tpu-topology": "4x4"}, 3),
    ],
)
def test_nodes_that_are_in_no_table_have_no_name(labels: dict[str, str], count: int | None) -> None:
    assert from_labels(labels, count) is None


def test_the_count_a_host_tells_the_two_kinds_of_eight_chips_apart() -> None:
    labels = {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }
    assert from_labels(labels, 8) == parse("v5litepod-8", workers=1)
    assert from_labels(labels, 4) == parse("v5litepod-8", workers=2)
    assert from_labels(labels | {"cloud.google.com/gke-accelerator-count": "4"}) == parse("v5litepod-8", workers=2)


@pytest.mark.parametrize("generation", TPU_GENERATIONS, ids=lambda generation: generation.prefix)
def test_a_slice_is_found_by_generation_or_gke_label_and_topology(generation: object) -> None:
    for shape in generation.shapes:  # type: ignore[attr-defined]
        by_prefix = parse(generation.prefix, shape.topology, shape.hosts)  # type: ignore[attr-defined]
        assert parse(generation.label, shape.topology, shape.hosts) == by_prefix  # type: ignore[attr-defined]
        assert by_prefix.topology == shape.topology


@pytest.mark.parametrize(
    "name, topology, hosts, chips_per_host",
    [
        ("v4-8", "2x2x1", 1, 4),
        ("v4-32", "2x2x4", 4, 4),
        ("v4-128", "4x4x4", 16, 4),
        ("v5p-8", "2x2x1", 1, 4),
        ("v5p-16", "2x2x2", 2, 4),
        ("v5litepod-1", "1x1", 1, 1),
        ("v5litepod-4", "2x2", 1, 4),
        ("v5litepod-8", "2x4", 1, 8),
        ("v5litepod-16", "4x4", 4, 4),
        ("v5e-16", "4x4", 4, 4),
        ("v6e-256", "16x16", 64, 4),
    ],
)
def test_names_mean_what_google_documents(name: str, topology: str, hosts: int, chips_per_host: int) -> None:
    entry = parse(name)
    assert (entry.topology, entry.hosts, entry.chips_per_host) == (topology, hosts, chips_per_host)


def test_eight_v5e_chips_are_one_host_unless_two_workers_are_asked_for() -> None:
    assert parse("v5litepod-8").hosts == 1
    assert parse("v5litepod-8", workers=2).chips_per_host == 4


def test_topology_chooses_among_shapes_of_one_size() -> None:
    assert parse("v4-512").topology == "4x8x8"
    assert parse("v4-512", "4x4x16").topology == "4x4x16"


def test_every_gpu_asks_for_its_label_and_tolerates_its_taint() -> None:
    for name in GPUS:
        entry = parse(name)
        assert entry == parse(f"{name}:1")
        assert entry.node_selector == {"cloud.google.com/gke-accelerator": name}
        assert entry.tolerations[0]["key"] == "nvidia.com/gpu"
        assert entry.memory_per_chip_bytes is not None
        assert entry.memory_per_chip_bytes >= 8 * 2**30
        assert entry.hosts is None


def test_any_gpu_asks_for_no_label() -> None:
    entry: Accelerator = parse("gpu:2")
    assert entry.resources == {"nvidia.com/gpu": 2}
    assert entry.node_selector == {}


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("l4", "nvidia-l4"),
        ("nvidia-l40", "nvidia-l4"),
        ("v100", "nvidia-tesla-v100"),
        ("nvidia-t4", "nvidia-tesla-t4"),
        ("H200", "nvidia-h200-141gb"),
        ("v5lite-16", "v5litepod-16"),
        ("v5-lite-pod", "v5litepod"),
    ],
)
def test_a_wrong_name_leads_to_a_near_one(wrong: str, right: str) -> None:
    assert right in refusal(wrong).message.split("?")[0]


@pytest.mark.parametrize("name", ["tpu7x", "tpu7x-8", "v7x-8", "tpu-v7x-8", "tpu7x-standard-4t"])
def test_tpu7x_is_refused_by_name(name: str) -> None:
    assert "TensorFlow does not run on TPU7x" in refusal(name).message


@pytest.mark.parametrize(
    "text, topology, workers, field, words",
    [
        ("v5litepod-17", None, None, "accelerator", "v5litepod-16"),
        ("v5litepod", None, None, "accelerator", "has no size"),
        ("v5litepod-16", "2x8", None, "topology", "its topology is 4x4; not 2x8"),
        ("v5litepod-16", "4by4", None, "topology", "4x4"),
        ("v6e", "4x5", None, "topology", "4x4"),
        ("v4", "4x4x6", None, "topology", "4x4x"),
        ("v5litepod-16", None, 3, "workers", "4 host"),
        ("v5litepod-16:2", None, None, "accelerator", "write v5litepod-16"),
        ("nvidia-l4:9", None, None, "accelerator", "1 to 8"),
        ("nvidia-l4:0", None, None, "accelerator", "1 to 8"),
        ("nvidia-l4:", None, None, "accelerator", "1 to 8"),
        ("nvidia-l4:two", None, None, "accelerator", "1 to 8"),
        ("nvidia-l4:2", "2x2", None, "topology", "is a GPU"),
        ("", None, None, "accelerator", "no accelerator"),
        ("v2-8", None, None, "accelerator", "no accelerator"),
    ],
)
def test_what_does_not_exist_names_the_key_to_blame(
    text: str, topology: str | None, workers: int | None, field: str, words: str
) -> None:
    error = refusal(text, topology, workers)
    assert error.field == field
    assert words in error.message
    assert "\n" not in error.message
