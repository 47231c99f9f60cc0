"""The fast part of the suite, and that its list is complete. `make conformance-ci` and `make conformance` run more."""

import inspect
from pathlib import Path

import pytest

from tests.conformance import catalogue
from tests.conformance.report import DOCS, check
from tests.conformance.suite import planned, run
from tests.conformance.verdict import Verdict

pytestmark = pytest.mark.conformance

_entries = catalogue.load()


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Verdict]:
    """All of the fast part, run once."""
    found = run(tmp_path_factory.mktemp("conformance"), "fast")
    return {(one.entry.id, one.mode): one for one in found}


@pytest.mark.parametrize(("id", "mode"), [(one.id, mode) for one, mode in planned("fast")])
def test_trains_what_keras_trains(id: str, mode: str, verdicts: dict[tuple[str, str], Verdict]) -> None:
    assert not verdicts[id, mode].faults


@pytest.mark.parametrize("kind", ["optimizers", "losses", "metrics", "callbacks"])
def test_each_of_keras_own_is_in_a_task(kind: str) -> None:
    import keras

    bases = {"Optimizer", "Loss", "Metric", "Callback"}
    # Orbax is a package of its own, which orch does not install.
    bases |= {"OrbaxCheckpoint"}
    names = {name for name, value in vars(getattr(keras, kind)).items() if inspect.isclass(value)} - bases
    text = Path(__file__).with_name(f"{kind}.py").read_text()
    assert not [name for name in names if name not in text]


def test_the_page_has_every_task() -> None:
    assert not check(DOCS, [], _entries.values())
