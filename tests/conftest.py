"""Fixtures that tests of several rooms share."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support_gcs import FakeGcs

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """One GCS server for the whole test run. Tests that stop or pause it start their own FakeGcs."""
    server = FakeGcs(tmp_path_factory.mktemp("gcs"))
    yield server
    server.stop()


@pytest.fixture
def gcs_url(gcs_server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> str:
    """gs://bucket/run of a fresh bucket; STORAGE_EMULATOR_HOST is set in this process and so in what it starts.

    No other test run on this machine has a bucket of that name: `orch run` locks it by its name.
    """
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
    return gcs_server.make_bucket(f"bucket-{os.getpid()}-{next(_numbers)}") + "/run"


@pytest.fixture(params=["local", "gcs"])
def run_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh run directory: once as a local path, once in a GCS bucket over HTTP."""
    if request.param == "local":
        return str(tmp_path / "run")
    url = request.getfixturevalue("gcs_url")
    assert isinstance(url, str)
    return url
