"""Whether a run directory lies in a bucket, which this machine reaches too, or on a disk or volume, which it may not."""

SCHEME = "gs://"


def is_bucket(directory: str) -> bool:
    """Whether a run directory is gs://bucket/prefix."""
    return directory.startswith(SCHEME)
