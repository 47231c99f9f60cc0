"""The image, asked of its registry: is it there, for the nodes' architecture, and of which orch."""

from collections.abc import Callable

from orchestrator.image.model import LABEL_TRAINER
from orchestrator.image.registry import ImageInfo, ImageNotFound, RegistryDenied, RegistryError
from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.objects import Manifest, labels
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Unknown
from orchestrator.preflight.subject import JOB_CHECKS, Candidate
from orchestrator.text import megabytes
from trainer.errors import OrchError

_ARCHITECTURE = "kubernetes.io/arch"


def image(
    spec: JobSpec,
    nodes: list[Manifest] | Unknown,
    selector: dict[str, str],
    version: str,
    *,
    describe: Callable[..., ImageInfo],
) -> Finding:
    """Whether nodes can pull and run the image.

    The nodes pull with credentials and ways of their own: only a registry that says "there is no such image" is believed at
    once, and not even that where a node has the image already.
    """
    ref = spec.image.ref
    if ref is None:
        return ok(f"is built from {spec.image.build} and pushed to {spec.image.repository} by the submit")
    wanted = architectures(nodes, selector)
    try:
        found = describe(ref, platform=f"linux/{wanted[0]}")
    except ImageNotFound as problem:
        if spec.image.pull_policy != "Always" and on_a_node(ref, nodes):
            return ok(f"{ref}: a node has it already; its registry does not know it")
        if spec.image.pull_policy == "Never":
            return warning(f"{ref}: no node is known to have it, and image.pull_policy is Never")
        return error(problem.message, problem.remedy or "build and push it, or correct image.ref")
    except RegistryDenied as problem:
        return warning(
            f"not known from here: {problem.message}",
            "log in (docker login) to have it checked; the nodes use their own credentials, or image.pull_secrets",
        )
    except RegistryError as problem:
        return warning(f"not known: {problem.message}", "nothing is wrong if the nodes reach the registry")
    except OrchError as problem:
        return error(problem.message, problem.remedy)
    return _fits(ref, found, wanted, version)


@JOB_CHECKS.check(
    "image",
    130,
    what="the registry: is it there, for the nodes' architecture, built with this orch",
    error_when="not there and on no node, or for another architecture",
)
def _image(on: Candidate) -> Finding:
    from orchestrator.image.registry import describe

    selector = on.job.template["spec"].get("nodeSelector") or {}
    return image(on.job.spec, on.facts.nodes, selector, on.job.version, describe=describe)


def _fits(ref: str, found: ImageInfo, wanted: list[str], version: str) -> Finding:
    has = [platform.split("/")[1] for platform in found.platforms if platform.count("/") >= 1]
    missing = [architecture for architecture in wanted if architecture not in has]
    if found.platforms and len(missing) == len(wanted):
        return error(
            f"{ref} is for {', '.join(found.platforms)}, the nodes are {', '.join(wanted)}",
            f"build it for linux/{wanted[0]} (docker build --platform linux/{wanted[0]})",
        )
    text = f"{ref}: {megabytes(found.size_bytes)} for {', '.join(found.platforms)}, {found.digest[:19]}"
    if missing:
        return warning(
            f"{text}; some nodes are {', '.join(missing)}",
            f"scheduling.node_selector: {{{_ARCHITECTURE}: {has[0]}}} keeps the workers off them",
        )
    built = found.labels.get(LABEL_TRAINER, "")
    if built and built != version:
        return warning(f"{text}; built with orch {built}, this is {version}", "build the image anew with this version")
    return ok(f"{text}{f', orch {built}' if built else ''}")


def architectures(nodes: list[Manifest] | Unknown, selector: dict[str, str]) -> list[str]:
    """Of the nodes that workers may go to; amd64 where nothing is known."""
    if _ARCHITECTURE in selector:
        return [selector[_ARCHITECTURE]]
    known = [] if isinstance(nodes, Unknown) else nodes
    found = {of[_ARCHITECTURE] for of in map(labels, known) if _ARCHITECTURE in of and selector.items() <= of.items()}
    return sorted(found) or ["amd64"]


def on_a_node(ref: str, nodes: list[Manifest] | Unknown) -> bool:
    """Whether a node says that it has the image: loaded by hand (kind load), as a rule. Nodes name their 50 largest."""
    known = [] if isinstance(nodes, Unknown) else nodes
    names = {
        name
        for node in known
        for item in (node.get("status") or {}).get("images") or []
        for name in item.get("names") or []
    }
    return any(name == ref or name.endswith(f"/{ref}") for name in names)
