"""The versions that the tests run on are those that go into the images."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins_of(path: Path) -> dict[str, str]:
    """Name -> version of every `name==version` line; names are compared as pip compares them."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


@pytest.mark.parametrize(
    "constraints, image",
    [("constraints.txt", "docker/requirements-cpu.txt"), ("constraints-tf219.txt", "docker/requirements-tpu.txt")],
)
def test_the_image_holds_the_versions_that_were_tested(constraints: str, image: str) -> None:
    tested, shipped = pins_of(ROOT / constraints), pins_of(ROOT / image)
    assert len(tested) > 40
    assert len(shipped) > 30
    assert {name: version for name, version in shipped.items() if tested.get(name, version) != version} == {}


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-tf219.txt"])
def test_every_line_of_a_lock_is_an_exact_version(constraints: str) -> None:
    lines = [line for line in (ROOT / constraints).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
