"""Objects as YAML text that every reader takes the same way.

YAML 1.1 readers, Kubernetes' own among them, turn N, on, 1e3, 0o17 or 12:30 into something else than text: whatever is
not plainly a word is quoted.
"""

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./=-]*(?::[A-Za-z][A-Za-z0-9_./-]*)?")
_OTHER_MEANING = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class _Dumper(yaml.SafeDumper):
    # Lists stand under their key with two spaces, as people write them.
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # A block keeps \n alone: readers turn the other line breaks of YAML into it.
    if "\n" in value and not any(other in value for other in "\r\x85\u2028\u2029"):
        style = "|"
    elif _PLAIN.fullmatch(value) and value.lower() not in _OTHER_MEANING:
        style = None
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """One YAML document an object, in order, keys as given."""
    return yaml.dump_all(
        objects,
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        width=1000,
        default_flow_style=False,
    )
