"""Which volumes can hold a run directory, and why the others cannot."""

from typing import Any

import pytest

from orchestrator.jobfile.sections import Volume
from orchestrator.manifests.volumes import check_run_directory, claim_problem
from trainer.errors import ConfigError


def volume(name: str, mount: str, **source: Any) -> Volume:
    return Volume(name=name, mount=mount, **source)


def why_not(directory: str, *volumes: Volume) -> str:
    with pytest.raises(ConfigError) as caught:
        check_run_directory("digits", directory, volumes)
    return caught.value.message


def test_a_bucket_needs_no_volume() -> None:
    check_run_directory("digits", "gs://acme/digits", [])


@pytest.mark.parametrize("directory", ["/mnt/runs", "/mnt/runs/digits"])
def test_a_claim_that_can_be_written_to_holds_a_run_directory(directory: str) -> None:
    check_run_directory("digits", directory, [volume("runs", "/mnt/runs", claim="shared")])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"claim": "shared", "read_only": True}, "mounted read-only"),
        ({"empty_dir": "10Gi"}, "gone with its pod"),
        ({"config_map": "settings"}, "cannot write to"),
        ({"gcs_bucket": "acme-runs"}, "no hard links"),
    ],
)
def test_other_volumes_are_refused_with_the_reason(source: dict[str, Any], says: str) -> None:
    message = why_not("/mnt/runs/digits", volume("runs", "/mnt/runs", **source))
    assert says in message
    assert "volume runs" in message


def test_a_directory_beside_the_volume_is_not_on_it() -> None:
    assert "lies on no volume" in why_not("/mnt/runs2/digits", volume("runs", "/mnt/runs", claim="shared"))


def test_of_nested_mounts_the_innermost_counts() -> None:
    outer, inner = volume("outer", "/mnt", claim="shared"), volume("inner", "/mnt/runs", empty_dir="1Gi")
    assert "volume inner" in why_not("/mnt/runs/digits", outer, inner)
    check_run_directory("digits", "/mnt/other", [outer, inner])


def claim(*modes: str, bound: tuple[str, ...] = (), **spec: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "shared"},
        "spec": {"accessModes": list(modes)} | spec,
        "status": {"accessModes": list(bound)} if bound else {},
    }


def on(driver: str) -> dict[str, Any]:
    return {"spec": {"csi": {"driver": driver}}}


@pytest.mark.parametrize(
    ("item", "workers"),
    [
        (claim("ReadWriteMany"), 8),
        (claim("ReadWriteOnce"), 1),
        (claim("ReadWriteOncePod"), 1),
        (claim("ReadWriteOnce", bound=("ReadWriteOnce", "ReadWriteMany")), 2),
        (claim("ReadOnlyMany", "ReadWriteMany"), 2),
    ],
)
def test_claims_that_all_workers_can_write_to_are_fine(item: dict[str, Any], workers: int) -> None:
    assert claim_problem(item, workers) == ""
    assert claim_problem(item, workers, on("nfs.csi.k8s.io")) == ""


@pytest.mark.parametrize(
    ("item", "workers", "volume", "says"),
    [
        (claim("ReadWriteOnce"), 2, None, "2 workers need ReadWriteMany"),
        (claim("ReadWriteOncePod"), 2, None, "2 workers need ReadWriteMany"),
        (claim("ReadOnlyMany"), 1, None, "can only be read"),
        (claim("ReadWriteMany", volumeMode="Block"), 1, None, "block device"),
        (claim("ReadWriteMany"), 2, on("gcsfuse.csi.storage.gke.io"), "GCS FUSE, which has no hard links"),
        (claim("ReadWriteMany"), 2, on("smb.csi.k8s.io"), "SMB, which has no hard links"),
    ],
)
def test_claims_that_cannot_hold_a_run_directory_say_why(
    item: dict[str, Any], workers: int, volume: dict[str, Any] | None, says: str
) -> None:
    problem = claim_problem(item, workers, volume)
    assert says in problem
    assert "claim shared" in problem
