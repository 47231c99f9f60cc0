"""Volumes of the pods, and which of them can hold a run directory. Pure.

A run directory on a volume needs what a bucket gives by itself: all workers write to it, it outlives the pods, and a name can
be taken by one of several at once, which on a file system is a hard link (trainer/rundir/store.py).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.kube.objects import Manifest, access_modes
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.jobfile.sections import SecretRef, Volume


GCS_FUSE_OPTIONS = "implicit-dirs,uid=1000,gid=1000"
"""Folders that exist only as prefixes of objects are seen too; files belong to the user that the pods run as."""

_NO_HARD_LINKS = {
    "gcsfuse.csi.storage.gke.io": "GCS FUSE",
    "s3.csi.aws.com": "Mountpoint for S3",
    "blob.csi.azure.com": "Azure Blob storage",
    "smb.csi.k8s.io": "SMB",
}
"""Drivers of volumes whose file systems have no hard links."""


def volume_source(volume: "Volume") -> Manifest:
    """A volume of the pod template."""
    source: Manifest
    if volume.claim is not None:
        source = {"persistentVolumeClaim": {"claimName": volume.claim}}
    elif volume.config_map is not None:
        source = {"configMap": {"name": volume.config_map}}
    elif volume.empty_dir is not None:
        source = {"emptyDir": {"sizeLimit": volume.empty_dir}}
    else:
        attributes = {"bucketName": volume.gcs_bucket, "mountOptions": GCS_FUSE_OPTIONS}
        driver = "gcsfuse.csi.storage.gke.io"
        source = {"csi": {"driver": driver, "readOnly": volume.read_only, "volumeAttributes": attributes}}
    return {"name": volume.name} | source


def secret_volume(item: "SecretRef") -> Manifest:
    """The volume of a Secret whose keys appear as files."""
    return {"name": f"secret-{item.name}", "secret": {"secretName": item.name, "defaultMode": 0o440}}


def volume_of_run_directory(directory: str, volumes: "Iterable[Volume]") -> "Volume | None":
    """The volume that a local run directory lies on: of nested mounts the innermost."""
    holding = [item for item in volumes if directory == item.mount or directory.startswith(item.mount + "/")]
    return max(holding, key=lambda volume: len(volume.mount), default=None)


def check_run_directory(name: str, directory: str, volumes: "Iterable[Volume]") -> None:
    """Whether a run directory outlives the pods of job `name` and can be written to, as far as the job file tells.

    Raises:
        ConfigError: it does not, with the reason.
    """
    if "://" in directory:
        return
    volume = volume_of_run_directory(directory, volumes)
    if volume is None:
        why = f"lies on no volume that outlives the pods of job {name}"
    elif volume.empty_dir is not None:
        why = f"lies on volume {volume.name}, an emptyDir: it is gone with its pod, and each worker has its own"
    elif volume.config_map is not None:
        why = f"lies on volume {volume.name}, a ConfigMap, which pods cannot write to"
    elif volume.gcs_bucket is not None:
        raise ConfigError(
            f"run.directory {directory} lies on volume {volume.name}, a bucket through GCS FUSE: it has no hard links, "
            "by which a commit is made once and never twice",
            remedy=f"give the bucket itself: run: {{directory: gs://{volume.gcs_bucket}/prefix}}",
        )
    elif volume.read_only:
        why = f"lies on volume {volume.name}, which is mounted read-only"
    else:
        return
    raise ConfigError(
        f"run.directory {directory} {why}",
        remedy="give gs://bucket/prefix, or add the volume (a ReadWriteMany claim whose file system has hard links, such as "
        "NFS) under volumes:",
    )


def claim_problem(claim: Manifest, workers: int, volume: Manifest | None = None) -> str:
    """Why a claim cannot hold the run directory of so many workers; empty where nothing speaks against it.

    Args:
        claim: the PersistentVolumeClaim, as the cluster has it.
        workers: how many workers the job has.
        volume: the PersistentVolume it is bound to, where that may be seen: its driver tells whether there are hard links.
    """
    name, spec = claim["metadata"]["name"], claim["spec"]
    modes = access_modes(claim)
    if spec.get("volumeMode") == "Block":
        return f"claim {name} is a block device; a run directory needs a file system"
    if not any(mode.startswith("ReadWrite") for mode in modes):
        return f"claim {name} can only be read ({', '.join(modes)}); a run directory needs ReadWriteMany"
    if workers > 1 and "ReadWriteMany" not in modes:
        return (
            f"claim {name} is {', '.join(modes)}: one node at a time; {workers} workers need ReadWriteMany "
            "(NFS or the like), or a bucket: run: {directory: gs://bucket/prefix}"
        )
    driver = ((volume or {}).get("spec", {}).get("csi") or {}).get("driver", "")
    if driver in _NO_HARD_LINKS:
        return (
            f"claim {name} is {_NO_HARD_LINKS[driver]}, which has no hard links, by which a commit is made once and never "
            "twice; use NFS or the like, or a bucket: run: {directory: gs://bucket/prefix}"
        )
    return ""
