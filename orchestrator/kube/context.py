"""The namespace of the kubectl context, read from the kubeconfig alone: no cluster is asked, no client is imported."""

import os
from pathlib import Path
from typing import Any

import yaml


def current(context: str | None = None) -> tuple[str, str]:
    """The name and the namespace of a context, by default of the current one; `none` and `default` where none is named or
    no kubeconfig can be read."""
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    contexts: dict[str, Any] = {}
    for path in filter(None, paths.split(os.pathsep)):
        try:
            content = yaml.safe_load(Path(path).read_bytes())
        except (OSError, yaml.YAMLError):
            continue
        if not isinstance(content, dict):
            continue
        # As kubectl merges several files: the first one that names something wins.
        context = context or content.get("current-context")
        for entry in content.get("contexts") or []:
            contexts.setdefault(entry.get("name"), entry.get("context") or {})
    return context or "none", contexts.get(context or "", {}).get("namespace") or "default"


def context_namespace() -> str:
    """The namespace of the current context."""
    return current()[1]
