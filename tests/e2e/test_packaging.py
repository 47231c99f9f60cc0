"""A user's folder as an image: packaged, submitted, trained under Pod Security restricted; then a change of the code."""

import secrets

import pytest
from support_cluster import Room, place_of

pytestmark = pytest.mark.e2e

TASK = """
import os

from trainer.tasks.digits import Digits


class Mine(Digits):
    pass


print("the {version} image holds", os.listdir(os.path.dirname(__file__)))
"""


def test_a_folder_is_packaged_and_trains_and_a_change_sends_the_code_alone(room: Room) -> None:
    place = place_of(room.image)
    if not place:
        pytest.skip(f"{room.image} names no registry to push to")
    code = room.folder / "mine"
    code.mkdir()
    (code / "task.py").write_text(TASK.format(version="first"))
    (code / ".env").write_text("TOKEN=hidden")
    image = {"repository": f"{place}/mine-{secrets.token_hex(4)}", "build": "mine", "base": room.image}
    train = {"task": "mine/task.py:Mine", "steps": 20, "global_batch_size": 64}
    job = room.job_file("mine", image=image, train=train, resources={"workers": 1, "cpu": 1, "memory": "1500Mi"})

    first = room.orch("package", str(job), "-o", "json", cluster=False)
    assert "not packed: .env (" in first.stderr
    assert first.json()["layers"][-1]["state"] == "sent"
    again = room.orch("package", str(job), "-o", "json", cluster=False).json()
    assert (again["ref"], again["pushed_bytes"]) == (first.json()["ref"], 0)

    (code / "task.py").write_text(TASK.format(version="second"))
    second = room.orch("package", str(job), "-o", "json", cluster=False).json()
    assert second["ref"] != first.json()["ref"]
    assert [item["name"] for item in second["layers"] if item["state"] == "sent"] == ["code"]
    assert second["pushed_bytes"] == second["layers"][-1]["size_bytes"]

    # Submit makes the image by itself: the same code, so the same image.
    room.orch("submit", str(job))
    assert room.wait_for_status("mine", lambda status: status["state"] == "succeeded")["step"] == 20
    assert room.pods("mine")[0].spec.containers[0].image == second["ref"]
    assert "the second image holds ['task.py']" in room.orch("logs", "mine").stdout
