"""One list and one watch a view, whatever the API server does: it ends watches, forgets versions, is busy, is away."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support_api import Answer, Script, api_server, listed, pod, refused

from orchestrator.kube import connection
from orchestrator.kube import watch as watching
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterUnreachable, Forbidden, ServerTrouble
from orchestrator.kube.watch import View, Watch
from trainer.retry import Backoff, retry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.01)


@contextmanager
def cluster_of(
    answers: list[Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Script, Cluster]]:
    with api_server(answers, folder) as (script, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield script, Cluster()


def until(watch: Watch, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        watch.wait(0.2)


def added(name: str, version: str) -> dict[str, object]:
    return {"type": "ADDED", "object": {"kind": "Pod"} | pod(name, version)}


def bookmark(version: str) -> dict[str, object]:
    return {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": version}}}


def gone() -> dict[str, object]:
    return {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}


def names(watch: Watch) -> list[str]:
    return sorted(item["metadata"]["name"] for item in watch.items("Pod"))


def test_a_watch_that_ended_goes_on_from_the_last_bookmark_without_another_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        listed("10", pod("a", "3")),
        Answer(lines=[added("b", "11"), bookmark("50")]),
        Answer(lines=[added("c", "51")], stays=True),
    ]
    with cluster_of(answers, tmp_path, monkeypatch) as (script, cluster), Watch(cluster, [View("Pod")]) as watch:
        until(watch, lambda: names(watch) == ["a", "b", "c"])
        assert [asked.get("resourceVersion") for asked in script.asked] == [None, "10", "50"]
        assert script.asked[1]["allowWatchBookmarks"] == "true"
        assert "managedFields" not in watch.items("Pod")[0]["metadata"]


def test_after_410_it_lists_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        listed("10", pod("a", "3")),
        Answer(lines=[gone()]),
        listed("90", pod("b", "80")),
        refused(410, "too old"),
        listed("95", pod("c", "92")),
        Answer(lines=[], stays=True),
    ]
    with cluster_of(answers, tmp_path, monkeypatch) as (script, cluster), Watch(cluster, [View("Pod")]) as watch:
        until(watch, lambda: names(watch) == ["c"])
        until(watch, lambda: len(script.asked) == len(answers))
        assert [asked.get("resourceVersion") for asked in script.asked] == [None, "10", None, "90", None, "95"]


def test_a_server_in_trouble_is_told_and_what_was_known_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        listed("10", pod("a", "3")),
        refused(500, "etcd is away"),
        # What was granted before and is refused now: an API server that has just started.
        refused(403, 'pods is forbidden: RBAC: role "orch-submitter" not found'),
        Answer(lines=[added("b", "11")], stays=True),
    ]
    with cluster_of(answers, tmp_path, monkeypatch) as (script, cluster), Watch(cluster, [View("Pod")]) as watch:
        told = set()

        def over() -> bool:
            told.add(watch.away)
            return names(watch) == ["a", "b"] and not watch.away

        until(watch, over)
        assert script.asked[-1]["resourceVersion"] == "10"


def test_a_refusal_at_the_beginning_is_an_error_but_of_an_optional_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        cluster_of([refused(403, "no")], tmp_path, monkeypatch) as (_, cluster),
        Watch(cluster, [View("Pod")]) as watch,
    ):
        with pytest.raises(Forbidden):
            until(watch, lambda: False)
    answers = [refused(403, "no")]
    with cluster_of(answers, tmp_path, monkeypatch) as (_, cluster):
        with Watch(cluster, [View("Event", optional=True)]) as watch:
            until(watch, lambda: watch.ready)
            assert watch.items("Event") == []


def test_an_optional_view_that_is_refused_later_on_hides_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STARTING_S", 0.0)
    answers = [
        listed("10", pod("a", "3")),
        refused(403, "no watch"),
        refused(403, "no watch"),
        refused(403, "no watch"),
    ]
    with cluster_of(answers, tmp_path, monkeypatch) as (script, cluster):
        with Watch(cluster, [View("Pod", optional=True)]) as watch:
            until(watch, lambda: len(script.asked) >= 3)
            assert names(watch) == ["a"]
            assert watch.away == ""


@pytest.mark.parametrize("status", [200, 500])
def test_a_connection_that_ends_within_an_answer_is_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answer = Answer({"metadata": {}, "message": "long enough to be cut"}, status, cut=True)
    with cluster_of([answer] * 6, tmp_path, monkeypatch) as (_, cluster), pytest.raises(ClusterUnreachable):
        cluster.get("Pod", "a")


def test_a_refusal_soon_after_an_outage_is_not_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Answer({"metadata": {}}, cut=True)
    with cluster_of([away, refused(403, "no role yet"), refused(403, "no")], tmp_path, monkeypatch) as (_, cluster):
        with pytest.raises(ClusterUnreachable):
            cluster.get("Pod", "a")
        with pytest.raises(ServerTrouble, match="was away, still refuses it: no role yet"):
            cluster.get("Pod", "a")
        monkeypatch.setattr(connection, "STARTING_S", 0.0)
        with pytest.raises(Forbidden):
            cluster.get("Pod", "a")


def test_an_api_server_that_is_away_is_told_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of([listed("10", pod("a", "3")), Answer(lines=[])], tmp_path, monkeypatch) as (_, cluster):
        watch = Watch(cluster, [View("Pod")])
        watch.__enter__()
        until(watch, lambda: names(watch) == ["a"])
    until(watch, lambda: "does not answer" in watch.away)
    assert names(watch) == ["a"]
    watch.__exit__(None, None, None)


def test_pauses_double_up_to_a_bound_and_begin_anew() -> None:
    pauses = Backoff(0.01, watching.LAST_PAUSE_S)
    assert [pauses.next_s() for _ in range(4)] == [0.01, 0.02, 0.04, 0.08]
    assert Backoff(0.01, watching.LAST_PAUSE_S, failures=50).next_s() == watching.LAST_PAUSE_S
    pauses.reset()
    assert pauses.next_s() == 0.01


@pytest.mark.parametrize("bound", [{"tries": 3}, {"for_s": 0.6}])
def test_what_fails_is_done_again_so_often_or_so_long_and_the_last_error_is_raised(bound: dict[str, Any]) -> None:
    failures = iter([ClusterUnreachable("first"), ClusterUnreachable("second"), ClusterUnreachable("last")])

    def fails() -> None:
        raise next(failures)

    with pytest.raises(ClusterUnreachable, match="last"):
        retry(fails, ClusterUnreachable, Backoff(0.1, 1.0), **bound)
    assert retry(lambda: 7, ClusterUnreachable, Backoff(0.01, 1.0), **bound) == 7


def test_a_busy_server_is_asked_again_when_it_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep, this = time.sleep, threading.current_thread()
    # Threads that other tests left sleeping are none of this one's.
    monkeypatch.setattr(
        "orchestrator.kube.connection.time.sleep",
        lambda s: slept.append(s) if threading.current_thread() is this else sleep(s),
    )
    busy = refused(429, "too many requests", **{"Retry-After": "3"})
    created = Answer({"kind": "Job", "metadata": {"name": "digits"}})
    item = {"kind": "Job", "metadata": {"name": "digits"}}
    with cluster_of([busy, busy, created], tmp_path, monkeypatch) as (_, cluster):
        assert cluster.create(item)["metadata"]["name"] == "digits"
    assert slept == [3.0, 3.0]
    slept.clear()
    with cluster_of([refused(429, "no", **{"Retry-After": "3600"})], tmp_path, monkeypatch) as (_, cluster):
        with pytest.raises(ServerTrouble, match="429"):
            cluster.create(item)
    assert slept == [], "an hour is not waited for"


def test_a_list_comes_in_pages_and_begins_anew_when_its_moment_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        listed("10", pod("a", "3"), more="next"),
        refused(410, "the provided continue parameter is too old"),
        listed("20", pod("a", "3"), more="next"),
        listed("20", pod("b", "4")),
    ]
    with cluster_of(answers, tmp_path, monkeypatch) as (script, cluster):
        items, version = cluster.listed("Pod", labels="app=x")
    assert ([item["metadata"]["name"] for item in items], version) == (["a", "b"], "20")
    assert [asked.get("continue") for asked in script.asked] == [None, "next", None, "next"]
    assert {asked["labelSelector"] for asked in script.asked} == {"app=x"}
