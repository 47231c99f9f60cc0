"""The parts of an agent that need no training process: limits of silence, output nobody reads, HTTP with its token."""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.agent import output
from trainer.agent.child import Child, Lines
from trainer.agent.link import CoordinatorClient, Link
from trainer.agent.output import LossyPipe, LossyQueue, Segments
from trainer.agent.report import TerminationMessage
from trainer.agent.server import AgentServer
from trainer.agent.watchdog import Watchdog
from trainer.agent.writers import Writers
from trainer.cluster import identity, tf_config
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode, code_of_exception, code_of_status, title_of
from trainer.memory import oom_kills
from trainer.process.strategy import make_strategy
from trainer.rundir.attempts import Member
from trainer.rundir.local_store import LocalStore
from trainer.rundir.open import open_store
from trainer.rundir.store import Entry
from trainer.wire.coordinator import AgentReport, Directive, ExitReport, JobState
from trainer.wire.process import Phase
from trainer.wire.termination import LastWords, general_remedy
from trainer.wire.writer import SaveFailed, SaveTrouble, Snapshot, WriterStart

REPORT = AgentReport(launch="l", index=1, uid="u", address="127.0.0.1", port=20000, state="idle", attempt=0)
STATE = JobState(
    name="job", launch="l", state="running", reason="", attempt=1, restarts=0, budget_used=0, budget_max=20, step=5,
    total_steps=10, rate=1.0, metrics={}, workers=[REPORT],
)  # fmt: skip


def test_hang_limit_follows_the_longest_of_recent_blocks_and_is_never_under_ten_seconds() -> None:
    dog = Watchdog(None)
    dog.entered(Phase.TRAIN)
    assert dog.limit_s() == 120, "before the first block nobody knows how long one takes"
    dog.block(0.1)
    assert dog.limit_s() == 10
    dog.block(4.0)
    dog.block(0.1)
    assert dog.limit_s() == 40
    for _ in range(20):
        dog.block(0.1)
    assert dog.limit_s() == 10, "a slow block is forgotten after twenty others"


def test_hang_limit_of_the_job_file_holds_for_blocks_alone() -> None:
    dog = Watchdog(3.0)
    assert dog.limit_s() == 120, "the import has a limit of its own"
    dog.entered(Phase.TRAIN)
    assert dog.limit_s() == 3
    dog.entered(Phase.EVALUATE)
    assert dog.limit_s() == 1800
    dog.evaluated(30.0)
    assert dog.limit_s() == 300


@pytest.mark.parametrize("phase", [Phase.DATA, Phase.CALLBACK])
def test_the_tasks_own_code_may_take_its_time_unless_the_job_file_says_how_much(phase: Phase) -> None:
    dog = Watchdog(None)
    dog.block(0.5)
    dog.entered(phase)
    assert dog.limit_s() == 1800
    dog = Watchdog(40.0)
    dog.entered(phase)
    assert dog.limit_s() == 40


def test_a_large_state_may_take_longer_to_restore() -> None:
    dog = Watchdog(None)
    dog.entered(Phase.RESTORE)
    assert dog.limit_s() == 1800
    dog.entered(Phase.RESTORE, state_bytes=2_000_000_000)
    assert dog.limit_s() == 1840
    dog.entered(Phase.RESTORE)
    assert dog.limit_s() == 1840, "what is known of the size is not forgotten"


def test_output_nobody_reads_costs_lines_and_says_how_many() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    pipe = LossyPipe(write)
    for _ in range(200):
        pipe.write(b"x" * 65535 + b"\n")
    got = b""
    while b"dropped" not in got:
        got += os.read(read, 1 << 20)
        pipe.write(b"after\n")
    assert b"lines dropped: the reader was too slow" in got
    os.close(read)
    pipe.close(2.0)
    os.close(write)


def test_queue_gives_what_fits_and_counts_the_rest() -> None:
    queue: LossyQueue[str] = LossyQueue(capacity_bytes=10)
    for text in ("aaaa", "bbbb", "cccc"):
        queue.put(text, len(text))
    assert queue.take_dropped() == 1
    assert queue.take_dropped() == 0
    queue.close()
    assert [queue.get(), queue.get(), queue.get()] == ["aaaa", "bbbb", None]


def test_segments_hold_all_that_was_written_in_order(tmp_path: Path) -> None:
    segments = Segments(open_store(str(tmp_path)), "logs/worker-0/attempt-1/", ".log", immediate=True)
    for number in range(1000):
        segments.write(b"%d\n" % number)
    segments.close(10)
    files = sorted((tmp_path / "logs/worker-0/attempt-1").iterdir())
    assert b"".join(path.read_bytes() for path in files) == b"".join(b"%d\n" % number for number in range(1000))


def test_output_that_is_held_back_is_written_when_asked_for(tmp_path: Path) -> None:
    held = Segments(open_store(str(tmp_path)), "logs/a/", ".log", immediate=True, hold=lambda: True)
    held.write(b"never\n")
    held.close(10)
    assert not (tmp_path / "logs").exists()
    failed = Segments(open_store(str(tmp_path)), "logs/b/", ".log", immediate=True, hold=lambda: True)
    failed.write(b"why it failed\n")
    failed.flush()
    failed.close(10)
    assert (tmp_path / "logs/b/segment-000001.log").read_bytes() == b"why it failed\n"


def test_of_too_much_output_that_is_held_back_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEEP_FAILED_BYTES", 1000)
    held = Segments(open_store(str(tmp_path)), "logs/a/", ".log", immediate=True, hold=lambda: True)
    for number in range(300):
        held.write(b"line %d\n" % number)
    held.flush()
    held.close(5.0)
    first, *lines = (tmp_path / "logs/a/segment-000001.log").read_text().splitlines()
    assert first.endswith("bytes of output were dropped here]")
    assert lines[-1] == "line 299"
    assert lines == [f"line {number}" for number in range(300 - len(lines), 300)], (
        "whole lines, none missing among them"
    )


def test_a_store_that_does_not_answer_keeps_nobody_from_polling(tmp_path: Path) -> None:
    over = threading.Event()
    polls: list[float] = []

    class Stalled(LocalStore):
        def list(self, *_: object) -> list[Entry]:
            over.wait(30)
            return []

    def poll(_: AgentReport) -> Directive:
        polls.append(time.monotonic())
        if len(polls) == 2:
            raise RuntimeError("can't start new thread")
        raise ConnectionRefusedError

    link = Link(poll, lambda: REPORT, Stalled(str(tmp_path)), "l", lambda: None)
    deadline = time.monotonic() + 20
    while len(polls) < 5:
        assert time.monotonic() < deadline, "it stopped polling"
        link.hurry()
        time.sleep(0.05)
    over.set()
    link.close()


def test_a_save_for_which_no_writer_can_be_started_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = os.memfd_create("test")
    start = WriterStart(
        run_directory=str(tmp_path), attempt=1, nonce="n", keep=1, shard_size_bytes=1, memory_fd=memory,
        last_save_timeout_s=10.0,
    )  # fmt: skip
    writing = Writers(start, os.environ)
    try:
        writing.save(Snapshot(step=7, why="last", tensors=[], size_bytes=0, epoch=0, examples_seen=0), 0.0)
        writing.child.kill_group()
        writing.child.reaped(os.waitpid(writing.child.pid, 0)[1])
        monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
        said = [writing.tick(float(now)) for now in range(200)]
    finally:
        monkeypatch.undo()
        writing.close()
        os.close(memory)
    assert isinstance(said[0], SaveTrouble)
    failed = [item for item in said[1:] if item is not None]
    assert [(type(item), item.step) for item in failed] == [(SaveFailed, 7)]


def test_writers_that_die_idle_are_replaced_ever_more_slowly_and_at_once_when_there_is_a_save(tmp_path: Path) -> None:
    memory = os.memfd_create("test")
    start = WriterStart(run_directory=str(tmp_path), attempt=1, nonce="n", keep=1, shard_size_bytes=1, memory_fd=memory)
    writing = Writers(start, os.environ)

    def dies() -> None:
        writing.child.kill_group()
        writing.child.reaped(os.waitpid(writing.child.pid, 0)[1])

    def replaced_after(now: float) -> float:
        dead = writing.child
        assert isinstance(writing.tick(now), SaveTrouble)
        later = now
        while writing.child is dead:
            later += 0.25
            writing.tick(later)
        return later - now

    try:
        dies()
        waits = [replaced_after(0.0)]
        for now in (100.0, 200.0):
            dies()
            waits.append(replaced_after(now))
        assert waits == sorted(waits)
        assert waits[2] >= 4 * waits[0] > 0
        dies()
        assert isinstance(writing.tick(300.0), SaveTrouble)
        writing.save(Snapshot(step=7, why="last", tensors=[], size_bytes=0, epoch=0, examples_seen=0), 300.0)
        dead = writing.child
        writing.tick(300.6)
        assert writing.child is not dead
    finally:
        writing.close()
        os.close(memory)


def test_lines_are_cut_where_they_have_no_end() -> None:
    lines = Lines(line_max_bytes=8)
    assert lines.feed(b"one\ntw") == [b"one\n"]
    assert lines.feed(b"o\n") == [b"two\n"]
    assert lines.feed(b"0123456789") == [b"0123456789\n"]
    assert lines.feed(b"rest") == []
    assert lines.rest() == [b"rest\n"]


def test_child_gets_messages_larger_than_its_socket_takes() -> None:
    program = (
        "import os, socket; s = socket.socket(fileno=int(os.environ['ORCH_CHANNEL_FD'])); f = s.makefile('rb');"
        "line = f.readline(); s.sendall(b'%d\\n' % len(line))"
    )
    child = Child.start([sys.executable, "-c", program], dict(os.environ), inherit=(), channel=True)
    large = REPORT.model_copy(update={"node": "n" * 3_000_000})
    child.signal(signal.SIGSTOP)  # so that it takes nothing yet
    child.send(large)
    assert child.wants_to_write
    child.signal(signal.SIGCONT)
    answers: list[bytes] = []
    deadline = threading.Event()
    for _ in range(1000):
        child.flush()
        answers += child.read_messages()
        if answers:
            break
        deadline.wait(0.01)
    assert int(answers[0]) == len(large.model_dump_json()) + 1
    _, status = os.waitpid(child.pid, 0)
    child.reaped(status)
    assert child.status == 0
    child.close()


@pytest.fixture
def server() -> Iterator[AgentServer]:
    server = AgentServer(
        ("127.0.0.1", 0),
        "secret",
        poll=lambda report: Directive(kind="wait", coordinator="c", attempt=report.attempt),
        state=lambda: STATE,
        metrics=lambda: "orch_step 1\n",
    )
    yield server
    server.close()


def request(server: AgentServer, path: str, *, token: str | None = None, data: bytes | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    port = server.address[1]
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_strangers_are_refused_and_peers_served(server: AgentServer) -> None:
    body = REPORT.model_dump_json().encode()
    assert request(server, "/v1/poll", data=body) == 401
    assert request(server, "/v1/poll", data=body, token="wrong") == 401
    assert request(server, "/v1/poll", data=body, token="secret") == 200
    assert request(server, "/v1/state") == 401
    assert request(server, "/v1/state", token="secret") == 200
    assert request(server, "/healthz") == 200
    assert request(server, "/metrics") == 200
    assert request(server, "/v1/other", token="secret") == 404


def test_nonsense_is_refused_and_the_server_goes_on(server: AgentServer) -> None:
    assert request(server, "/v1/poll", data=b"{}", token="secret") == 400
    assert request(server, "/v1/poll", data=json.dumps({"launch": 5}).encode(), token="secret") == 400
    assert request(server, "/v1/poll", data=b"x" * 300_000, token="secret") == 413
    client = CoordinatorClient(("127.0.0.1", server.address[1]), "secret")
    assert client.poll(REPORT).kind == "wait"
    assert client.state() == STATE
    client.close()


def test_identity_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    whole = {
        "ORCH_INDEX": "1", "ORCH_COORDINATOR": "job-0.job:8471", "ORCH_TOKEN_FILE": str(tmp_path / "token"),
        "ORCH_LAUNCH": "l", "ORCH_ADDRESS": "10.0.0.1",
    }  # fmt: skip
    assert identity(whole).coordinator == ("job-0.job", 8471)
    assert identity(whole).token == "t"
    for name in whole:
        with pytest.raises(ConfigError, match=name if name != "ORCH_TOKEN_FILE" else "TOKEN"):
            identity({key: value for key, value in whole.items() if key != name})
    with pytest.raises(ConfigError, match="not a number"):
        identity({**whole, "ORCH_INDEX": "one"})


def test_workers_of_a_jobset_are_counted_through_its_groups(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    pod = {
        "ORCH_INDEX": "1", "ORCH_COORDINATOR": "job-worker-0-0.job:8471", "ORCH_TOKEN_FILE": str(tmp_path / "token"),
        "ORCH_LAUNCH": "l", "ORCH_ADDRESS": "10.0.0.1", "ORCH_GROUP": "2", "ORCH_GROUP_WORKERS": "3",
    }  # fmt: skip
    assert identity(pod).index == 7
    with pytest.raises(ConfigError, match="ORCH_GROUP_WORKERS"):
        identity({key: value for key, value in pod.items() if key != "ORCH_GROUP_WORKERS"})


def test_several_tpu_hosts_are_refused_before_each_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member(index=index, uid=str(index), address=f"10.0.0.{index}", port=20000 + index) for index in (0, 1)]
    monkeypatch.setenv("TF_CONFIG", tf_config(members, 0) or "")
    with pytest.raises(ConfigError, match="2 TPU hosts") as caught:
        make_strategy(tpu=True)
    assert caught.value.code == ExitCode.CONFIGURATION


def test_tf_config_lists_workers_by_index_and_a_single_worker_has_none() -> None:
    members = [Member(index=index, uid=str(index), address=f"10.0.0.{index}", port=20000 + index) for index in (1, 0)]
    config = json.loads(tf_config(members, 1) or "")
    assert config == {
        "cluster": {"worker": ["10.0.0.0:20000", "10.0.0.1:20001"]},
        "task": {"type": "worker", "index": 1},
    }
    assert tf_config(members[:1], 1) is None


class UnavailableError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.CONFIGURATION),
        (UnavailableError("Collective ops is aborted"), ExitCode.LOST_PEER),
        (ConnectionResetError(), ExitCode.LOST_PEER),
        (TimeoutError(), ExitCode.LOST_PEER),
        (KeyboardInterrupt(), ExitCode.STOPPED),
        (ValueError("heartbeat"), ExitCode.TASK_ERROR),
        (MemoryError(), ExitCode.TASK_ERROR),
    ],
)
def test_one_table_turns_exceptions_into_codes(error: BaseException, code: ExitCode) -> None:
    assert code_of_exception(error) == code


def test_signals_are_shown_as_the_shell_shows_them() -> None:
    assert code_of_status(-9) == 137
    assert code_of_status(70) == 70
    assert title_of(137) == "killed (SIGKILL)"
    assert title_of(130) == "signal 2"


def test_kills_for_want_of_memory_are_counted_by_both_versions_of_cgroups(tmp_path: Path) -> None:
    first, second, absent = tmp_path / "memory.oom_control", tmp_path / "memory.events", tmp_path / "absent"
    first.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    second.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert oom_kills((absent, first)) == 3
    assert oom_kills((second, first)) == 1
    assert oom_kills((absent,)) is None


def test_what_a_failed_process_says_is_to_be_done_is_in_its_last_words_and_no_other_line_of_its_message_is(
    tmp_path: Path,
) -> None:
    def told(code: int, **said: str) -> str:
        words = TerminationMessage(str(tmp_path / "log"), None)
        report = ExitReport(attempt=1, code=code, message="it does not fit:\ndense has shape [2]", **said)
        words.write("attempt 1 ended", step=1, attempt=1, report=report)
        return LastWords.model_validate_json((tmp_path / "log").read_bytes()).remedy

    assert told(78, remedy="Train the model that was saved.") == "Train the model that was saved."
    assert told(78) == general_remedy(78)
    assert told(70, remedy="mend it") == general_remedy(70)
