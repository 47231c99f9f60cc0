"""The namespace of the kubectl context, read from the kubeconfig alone: no cluster is asked, no client is imported."""

import os
from pathlib import Path
from typing import Any

import yaml


def context_namespace() -> str:
    """The namespace of the current context; `default` where none is named or no kubeconfig can be read."""
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    current: str | None = None
    contexts: dict[str, Any] = {}
    for path in filter(None, paths.split(os.pathsep)):
        try:
            content = yaml.safe_load(Path(path).read_bytes())
        except (OSError, yaml.YAMLError):
            continue
        if not isinstance(content, dict):
            continue
        # As kubectl merges several files: the first one that names something wins.
        current = current or content.get("current-context")
        for entry in content.get("contexts") or []:
            contexts.setdefault(entry.get("name"), entry.get("context") or {})
    return contexts.get(current or "", {}).get("namespace") or "default"
