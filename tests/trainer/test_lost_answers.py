"""A local object that got its name, and whose maker never heard of it: killed right after link(2), or told of an error.

The same on GCS, where answers are lost on the network, is in tests/integration/test_checkpoint_writer.py.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support_checkpoints import attempt, ref
from test_commits import commit

from trainer.errors import ObjectExists, StoreError
from trainer.rundir import local_store
from trainer.rundir.attempts import append_record, close_attempt, is_closed, read_records
from trainer.rundir.commits import list_commits, read_commit, write_commit
from trainer.rundir.local_store import LocalStore

KILLED_AFTER_LINK = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from support_checkpoints import attempt
from test_commits import commit
from trainer.rundir.attempts import append_record, close_attempt
from trainer.rundir.commits import write_commit
from trainer.rundir.local_store import LocalStore

link, left = os.link, int(sys.argv[1].partition(":")[0])

def last(*arguments, **options):
    global left
    link(*arguments, **options)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

os.link = last
store = LocalStore(sys.argv[1].partition(":")[2])
append_record(store, attempt(1))
write_commit(store, commit(200, 1, "writer-1"))
close_attempt(store, 1, by="zero")
"""


@pytest.mark.parametrize("links", [1, 2, 3])
def test_what_was_linked_by_a_killed_process_is_found_by_its_nonce(tmp_path: Path, links: int) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED_AFTER_LINK, f"{links}:{tmp_path}", str(here), str(here.parent)]
    assert subprocess.run(command, cwd=here.parents[1]).returncode == -signal.SIGKILL
    store = LocalStore(tmp_path)
    assert [record.nonce for record in read_records(store)] == ["nonce-1"]
    assert list_commits(store) == ([ref(200, 1)] if links > 1 else [])
    assert is_closed(store, 1) == (links > 2)
    # Who asks again under the same nonce has won; under another one it is told who did.
    assert append_record(store, ours := attempt(1)) is ours
    theirs = attempt(1).model_copy(update={"nonce": "theirs"})
    assert append_record(store, theirs).nonce == "nonce-1"
    write_commit(store, commit(200, 1, "writer-1"))
    with pytest.raises(ObjectExists):
        write_commit(store, commit(200, 1, "theirs"))
    close_attempt(store, 1, by="another")
    assert is_closed(store, 1)


def test_an_error_after_the_link_is_a_lost_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def refuse(folder: Path) -> None:
        raise OSError(5, os.strerror(5), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(local_store, "_sync_folder", refuse)
        for write in (lambda: append_record(store, attempt(1)), lambda: write_commit(store, commit(200, 1))):
            with pytest.raises(StoreError):
                write()
    assert append_record(store, ours := attempt(1)) is ours
    write_commit(store, commit(200, 1))
    assert read_commit(store, ref(200, 1)).nonce == "mine"
