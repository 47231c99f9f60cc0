"""The coordinator's thread and a run directory that is not there any more."""

import time
from datetime import UTC, datetime
from pathlib import Path

from trainer.coordinator.driver import Duty
from trainer.coordinator.job import Job
from trainer.rundir.attempts import AttemptRecord, Launch
from trainer.rundir.local_store import LocalStore
from trainer.wire.coordinator import AgentReport

LAUNCH = Launch(id="launch", started=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_volume_that_is_not_mounted_any_more_is_no_empty_run_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    store = LocalStore(run)
    # An attempt that restored nothing: with its record gone, nothing would tell that there ever was progress.
    record = AttemptRecord(
        number=1, nonce="n", launch=LAUNCH, created=LAUNCH.started, members=[], restore=None, world_size=1
    )
    store.put_if_absent("attempts/1.json", record.model_dump_json().encode())
    duty = Duty(Job("job", 1, "uid", LAUNCH, steps_asked=10), store, on_change=lambda: None)
    try:
        deadline = time.monotonic() + 30
        while duty.state().attempt != 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.rename(tmp_path / "elsewhere")
        run.mkdir()
        report = AgentReport(launch="launch", index=0, uid="uid", address="a", port=1, state="idle", attempt=0)
        while "is it mounted?" not in duty.poll(report).reason:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert list(run.iterdir()) == []
        run.rmdir()
        (tmp_path / "elsewhere").rename(run)
        while duty.poll(report).kind != "run":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (run / "attempts/2.json").exists()
    finally:
        duty.close()
