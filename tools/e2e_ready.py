"""Says what `make e2e` lacks before pytest starts: an image, a run directory, a cluster that answers."""

import os
import sys
from pathlib import Path

_HELP = {
    "ORCH_TEST_IMAGE": "the trainer image, as the nodes pull it: ORCH_TEST_IMAGE=registry.example/trainer:dev",
    "ORCH_TEST_RUN_ROOT": "where the runs go, readable from here and from pods: ORCH_TEST_RUN_ROOT=gs://bucket/prefix",
}


def what_is_missing() -> list[str]:
    """One line for each thing that the tests cannot do without."""
    missing = [f"{name} is not set: {text}" for name, text in _HELP.items() if not os.environ.get(name)]
    kubeconfig = os.environ.get("KUBECONFIG", "")
    if not kubeconfig and not Path("~/.kube/config").expanduser().is_file():
        return [
            *missing,
            "KUBECONFIG is not set and ~/.kube/config is not there: start kind, minikube or another cluster",
        ]

    from kubernetes import client, config

    try:
        config.load_kube_config()
        client.VersionApi().get_code(_request_timeout=10)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        missing.append(f"the cluster of {kubeconfig or '~/.kube/config'} does not answer: {reason}")
    return missing


def main() -> int:
    """0 when all is there."""
    missing = what_is_missing()
    if not missing:
        return 0
    print("make e2e cannot start:", *(f"  - {line}" for line in missing), sep="\n", file=sys.stderr)
    print("CONTRIBUTING.md says how to get each of them on kind, minikube or GKE.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
