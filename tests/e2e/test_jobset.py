"""A JobSet as the carrier: what the cluster says of a TPU slice of several hosts."""

import pytest
from support_cluster import Room

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _with_jobset(room: Room) -> None:
    if not room.serves("jobset.x-k8s.io"):
        pytest.skip("JobSet is not installed on this cluster")


def test_a_slice_of_several_hosts_is_taken_by_the_cluster_and_refused_by_submit(room: Room) -> None:
    # Of the longest name there may be: the names of its pods and of its Jobs are derived from it.
    job = str(room.job_file("s" * 40, resources={"accelerator": "v5litepod-16", "cpu": 1, "memory": "1Gi"}))
    dry = room.orch("submit", job, "--dry-run=server", "-o", "json")
    assert "JobSet" in dry.stderr
    jobset = dry.json()["objects"][-1]
    assert jobset["kind"] == "JobSet"
    assert "nothing was created" in dry.stderr
    refused = room.orch("submit", job, check=False)
    assert refused.code == 78
    assert "a TPU slice of 4 hosts" in refused.stderr
    assert "not built yet" in refused.stderr
    assert room.objects() == []
