"""What a bucket does behind our back is noticed and said: pure, and over HTTP with the answers that GCS gives."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_gcs import FakeGcs, Proxy
from support_run import OrchRun

from orchestrator.preflight.check import Level
from orchestrator.preflight.storage import bucket
from trainer.config import TrainConfig
from trainer.rundir.bucket_policy import BucketPolicy, DeleteRule, notices
from trainer.rundir.open import bucket_notices, open_store

RULE = DeleteRule(age_days=30)


def said(policy: BucketPolicy, prefix: str = "team/digits") -> str:
    return "\n".join(notices(policy, "acme", prefix))


def test_a_bucket_that_does_nothing_is_not_talked_of() -> None:
    assert said(BucketPolicy()) == ""


def test_soft_delete_names_its_days_and_how_to_turn_it_off() -> None:
    text = said(BucketPolicy(soft_delete_s=604_800))
    assert "billed for 7 days more" in text
    assert "gcloud storage buckets update gs://acme --clear-soft-delete" in text


@pytest.mark.parametrize(
    "rule, hit",
    [
        (RULE, True),
        (DeleteRule(30, prefixes=("team/",)), True),
        (DeleteRule(30, prefixes=("other/", "team/digits/checkpoints/data/")), True),
        (DeleteRule(30, prefixes=("team/digits/att",)), True),
        (DeleteRule(30, prefixes=("team/digits/logs/", "team/digits/tmp/")), False),
        (DeleteRule(30, prefixes=("team/digits-2/",)), False),
        (DeleteRule(30, suffixes=(".safetensors",)), True),
        (DeleteRule(30, suffixes=(".log", ".tmp")), False),
    ],
)
def test_a_lifecycle_rule_counts_where_it_can_hit_checkpoints_or_records(rule: DeleteRule, hit: bool) -> None:
    text = said(BucketPolicy(delete_rules=(rule,)))
    assert ("after 30 days" in text) is hit
    assert bool(text) is hit


def test_what_forbids_deleting_is_said() -> None:
    text = said(BucketPolicy(retention_s=3600, held=True, versioned=True))
    assert "retention policy of 1 hours" in text
    assert "--no-default-event-based-hold" in text
    assert "--no-versioning" in text


@pytest.fixture
def answering(gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A bucket whose own description is what the test says: an answer of GCS, or a status."""
    proxies: list[Proxy] = []
    bucket = gcs_url.removeprefix("gs://").partition("/")[0]

    def answer(verdict: dict[str, Any] | int | None) -> str:
        def rule(method: str, path: str, body: bytes) -> dict[str, Any] | int | None:
            about_bucket = method == "GET" and path.partition("?")[0].endswith(f"/b/{bucket}")
            if not about_bucket:
                return None
            return verdict

        proxies.append(Proxy(gcs_server.url, rule))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxies[-1].url)
        return gcs_url

    yield answer
    for proxy in proxies:
        proxy.close()


# As the JSON API answers a GET of a bucket.
DESCRIPTION = {
    "kind": "storage#bucket",
    "name": "acme",
    "softDeletePolicy": {"retentionDurationSeconds": "604800", "effectiveTime": "2024-03-01T00:00:00Z"},
    "lifecycle": {
        "rule": [
            {"action": {"type": "Delete"}, "condition": {"age": 14, "matchesPrefix": ["run/"]}},
            {"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": ["elsewhere/"]}},
            {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 3, "isLive": False}},
            {"action": {"type": "SetStorageClass", "storageClass": "COLDLINE"}, "condition": {"age": 5}},
        ]
    },
    "retentionPolicy": {"retentionPeriod": "86400", "effectiveTime": "2024-03-01T00:00:00Z"},
    "defaultEventBasedHold": True,
    "versioning": {"enabled": True},
}


def test_the_policy_of_a_bucket_is_read_over_http(answering: Callable[..., str]) -> None:
    found = bucket_notices(answering(DESCRIPTION), timeout_s=10)
    assert len(found) == 5
    assert "under run/ after 14 days" in found[0]
    assert "retention policy of 1 day:" in found[1]
    assert "on hold" in found[2]
    assert "7 days (soft delete)" in found[3]
    assert "versions" in found[4]


def test_a_plain_bucket_of_the_server_itself_gives_no_notice(answering: Callable[..., str]) -> None:
    assert bucket_notices(answering(None), timeout_s=10) == []


def test_a_missing_permission_is_said_and_is_no_error(answering: Callable[..., str]) -> None:
    (notice,) = bucket_notices(answering(403), timeout_s=10)
    assert "is not known" in notice
    assert "storage.buckets.get" in notice


def test_preflight_passes_the_notices_on(answering: Callable[..., str]) -> None:
    url = answering({"softDeletePolicy": {"retentionDurationSeconds": "86400"}})
    config = TrainConfig.model_validate(
        {"name": "digits", "run_directory": url, "train": {"task": "trainer.tasks.digits:Digits", "steps": 1}}
    )
    check = bucket(config)
    assert check.level is Level.WARNING
    assert "for 1 day (soft delete)" in check.text
    assert bucket(config.model_copy(update={"run_directory": "/some/path"})).level is Level.OK


@pytest.mark.slow
def test_worker_0_says_it_in_its_log_and_trains_on(answering: Callable[..., str], tmp_path: Path) -> None:
    url = answering({"softDeletePolicy": {"retentionDurationSeconds": "604800"}})
    (tmp_path / "job.yaml").write_text(
        "{name: bucket, train: {task: trainer.tasks.digits:Digits, steps: 40, global_batch_size: 64}, checkpoint: {every: 20}}"
    )
    run = OrchRun(tmp_path / "job.yaml", "--directory", url, cwd=tmp_path)
    try:
        assert run.result()["state"] == "succeeded"
    finally:
        run.close()
    store = open_store(url)
    text = b"".join(store.get(entry.name) for entry in store.list("logs/worker-0/agent-")).decode()
    assert text.count("7 days (soft delete)") == 1
