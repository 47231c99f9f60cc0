"""What is rendered means the same to every YAML reader."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.manifests.yaml_writer import to_yaml


def test_words_with_another_meaning_in_yaml_1_1_are_quoted() -> None:
    for text in (
        "N",
        "y",
        "on",
        "Off",
        "1e3",
        "0o17",
        "12:30:00",
        "1_000",
        "~",
        "null",
        "=",
        ".inf",
        "0x1f",
        "2001-01-01",
        "",
    ):
        assert to_yaml([{"value": text}]) == f'---\nvalue: "{text}"\n'


@given(st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.booleans() | st.none(), max_size=4))
@settings(deadline=None)
def test_any_text_comes_back_as_it_was(value: dict[str, object]) -> None:
    assert list(yaml.safe_load_all(to_yaml([value]))) == [value]
