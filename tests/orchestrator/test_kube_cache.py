"""A list and what follows it: each object is kept once, the newest version of it, trimmed, and no more than asked for."""

import random
from typing import Any

from support_api import pod

from orchestrator.kube.cache import Change, Known, trim


def names(known: Known) -> list[str]:
    return [item["metadata"]["name"] for item in known.items.values()]


def bookmark(version: str) -> Change:
    return Change("BOOKMARK", {"metadata": {"resourceVersion": version}})


def test_changes_after_a_list_keep_the_newest_of_each_object_and_the_version_to_go_on_from() -> None:
    known = Known()
    assert known.replace([pod("a", "1"), pod("b", "2")], "5")
    assert known.apply(Change("MODIFIED", pod("a", "6", "Failed")))
    assert known.apply(Change("ADDED", pod("c", "7")))
    assert known.apply(Change("DELETED", pod("b", "8")))
    assert names(known) == ["a", "c"]
    assert known.items["uid-a"]["status"]["phase"] == "Failed"
    assert known.version == "8"


def test_a_bookmark_moves_the_version_and_changes_nothing() -> None:
    known = Known()
    known.replace([pod("a", "1")], "5")
    assert not known.apply(bookmark("90"))
    assert (known.version, names(known)) == ("90", ["a"])


def test_after_410_a_list_tells_what_went_and_what_came_meanwhile() -> None:
    known = Known()
    known.replace([pod("a", "1"), pod("b", "2")], "5")
    known.too_old()
    assert known.version == ""
    assert names(known) == ["a", "b"], "what is known stays until the list is there"
    assert known.replace([pod("b", "2"), pod("c", "9")], "20")
    assert names(known) == ["b", "c"]
    assert not known.replace([pod("b", "2"), pod("c", "9")], "21"), "the same again is no news"


def test_what_is_of_no_interest_is_not_kept_and_of_events_only_the_newest() -> None:
    known = Known(keep=lambda item: item["metadata"]["name"] != "other", most=2)
    known.replace([pod("other", "1"), pod("a", "2")], "2")
    assert not known.apply(Change("ADDED", pod("other", "3")))
    assert known.version == "3"
    known.apply(Change("ADDED", pod("b", "4")))
    known.apply(Change("MODIFIED", pod("a", "5")))
    known.apply(Change("ADDED", pod("c", "6")))
    assert names(known) == ["a", "c"], "b was the one that had not changed for longest"


def test_a_watch_interrupted_anywhere_ends_with_the_same_objects_as_one_that_was_not() -> None:
    generator = random.Random(7)
    for _ in range(200):
        there: dict[str, Any] = {}
        steady, disturbed = Known(), Known()
        steady.replace([], "0")
        disturbed.replace([], "0")
        for version in range(1, 40):
            name = generator.choice("abcdef")
            kind = "DELETED" if name in there and generator.random() < 0.4 else "MODIFIED" if name in there else "ADDED"
            item = pod(name, str(version))
            there.pop(name, None)
            if kind != "DELETED":
                there[name] = item
            change = Change(kind, item)  # type: ignore[arg-type]
            steady.apply(change)
            if disturbed.version:
                disturbed.apply(change)
            if generator.random() < 0.1:
                disturbed.too_old()
            elif not disturbed.version:
                disturbed.replace(there.values(), str(version))
        if not disturbed.version:
            disturbed.replace(there.values(), "40")
        assert disturbed.items == steady.items == {f"uid-{name}": item for name, item in there.items()}


def test_objects_are_trimmed_to_what_is_read_of_them() -> None:
    whole = {"kind": "Pod"} | pod("a", "1")
    whole["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"}
    small = trim(whole)
    assert small["metadata"]["annotations"] == {"mine": "1"}
    assert "managedFields" not in small["metadata"]
    assert small["spec"] == {"containers": [{"name": "trainer", "image": "trainer"}]}
    assert "managedFields" in whole["metadata"], "what is given stays as it is"
