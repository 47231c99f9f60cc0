"""A pod has a node and its container does not start: image, settings, volumes. Texts of Kubernetes 1.34 and containerd."""

import re

from orchestrator.diagnose.trouble import Trouble, after
from orchestrator.kube.objects import Manifest, container_status


def image(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """An image that cannot be pulled."""
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    name = pod["spec"]["containers"][0]["image"]
    if reason == "InvalidImageName":
        return Trouble(
            f"{name} is no valid name of an image", "correct image.ref: registry/repository@sha256:... or :tag"
        )
    if reason not in ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "RegistryUnavailable"):
        return None
    # While the kubelet backs off, only the events still hold the registry's own words.
    said = [
        str(event["message"])
        for event in events
        if event.get("reason") == "Failed" and "pull" in event.get("message", "")
    ]
    detailed = [text for text in said if "Back-off" not in text and not text.startswith("Error: ")]
    message = (detailed or [str(waiting.get("message", ""))])[-1]
    if any(word in message for word in ("not found", "manifest unknown", "does not exist")):
        why, remedy = "there is no such image", "push it, or correct image.ref, then `orch delete` and submit again"
    elif any(word in message for word in ("unauthorized", "denied", "forbidden", "401", "403", "no basic auth")):
        why, remedy = (
            "the registry refuses the node",
            "let the nodes read it, or name a pull secret in image.pull_secrets",
        )
    elif reason == "ErrImageNeverPull":
        why, remedy = "the node does not have it and may not pull it", "change image.pull_policy"
    else:
        why, remedy = _last_words_of(message), "check image.ref, and that the nodes reach the registry"
    return Trouble(f"the node cannot pull the image {name}: {why}", remedy)


def _last_words_of(message: str) -> str:
    return message.rsplit(": ", 2)[-1].strip() or "no reason given"


def cannot_start(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """A container that lacks what it refers to, or whose program is not there."""
    state = container_status(pod).get("state", {})
    waiting, ended = state.get("waiting", {}), state.get("terminated", {})
    message = str(waiting.get("message") or ended.get("message") or "")
    if waiting.get("reason") == "CreateContainerConfigError":
        if match := re.search(r"(secret|configmap) \"([^\"]+)\" not found", message):
            what = {"secret": "Secret", "configmap": "ConfigMap"}[match[1]]
            return Trouble(
                f"{what} {match[2]} does not exist", f"create it (kubectl create {match[1]} ...): the pod then starts"
            )
        if match := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S+?/(\S+)", message):
            return Trouble(
                f"{match[2]} {match[3]} has no key {match[1]}", "add the key, or correct secrets: in the job file"
            )
        return Trouble(f"the container's settings do not fit: {message}", "correct the job file and submit again")
    if waiting.get("reason") in ("CreateContainerError", "RunContainerError") or ended.get("reason") in (
        "StartError",
        "ContainerCannotRun",
    ):
        return Trouble(
            f"the container cannot start: {after(message, 'unable to start container process: ')}",
            "the image must be built from the project's Dockerfile, or FROM an image that was",
        )
    return None


def volume(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """A volume, or the pod's network, that cannot be set up."""
    status = container_status(pod)
    creating = status.get("state", {}).get("waiting", {}).get("reason") in ("ContainerCreating", "PodInitializing")
    failed = [
        event
        for event in events
        if event.get("reason") in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
        # The kubelet has not heard of the object yet; a moment later it has.
        and "failed to sync" not in event.get("message", "")
    ]
    if not creating or not failed:
        return None
    message = str(failed[-1].get("message", ""))
    if match := re.search(r"(secret|configmap|persistentvolumeclaim) \"([^\"]+)\" not found", message):
        return Trouble(f"{match[1]} {match[2]} does not exist", "create it: the pod then starts")
    return Trouble(
        f"the pod's surroundings cannot be set up: {message}",
        f"kubectl describe pod {pod['metadata']['name']} says more",
    )
