"""From the URL of a run directory to its store, and to what is to be known of its bucket.

google-cloud-storage is loaded only when a gs:// URL is opened.
"""

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from trainer.errors import ConfigError
from trainer.rundir.bucket import is_bucket
from trainer.rundir.store import Store


def open_store(url: str, *, timeout_s: float = 60.0, on_trouble: Callable[[str], None] | None = None) -> Store:
    """The store of a run directory: an absolute or relative path, file:///path, or gs://bucket/prefix.

    `timeout_s` is how long one call tries before it raises StoreUnavailable; bytes that move give it more time, a second
    for each MB. `on_trouble` gets a message, once a call, when the call is about to try again; what it raises ends the call.
    Both are for GCS: a local call takes what it takes, and tries once.

    Raises:
        ConfigError: another scheme, a gs:// URL without a bucket.
    """
    if "://" not in url:
        from trainer.rundir.local_store import LocalStore

        if not url:
            raise ConfigError("the run directory is empty", remedy="Give a path or gs://bucket/prefix.")
        return LocalStore(url)
    parts = urlsplit(url)
    if parts.scheme == "file":
        from trainer.rundir.local_store import LocalStore

        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(f"the run directory {url} names no path", remedy="Write file:///absolute/path.")
        return LocalStore(unquote(parts.path))
    if parts.scheme == "gs":
        if not parts.netloc:
            raise ConfigError(f"the run directory {url} names no bucket", remedy="Write gs://bucket/prefix.")
        from trainer.rundir.gcs_store import GcsStore

        # All after the bucket belongs to the name: GCS allows ? and # in it, so urlsplit's path alone would not do.
        prefix = url.removeprefix("gs://").partition("/")[2].strip("/")
        return GcsStore(parts.netloc, prefix, timeout_s=timeout_s, on_trouble=on_trouble)
    raise ConfigError(
        f'the run directory {url} has an unknown scheme "{parts.scheme}"',
        remedy="Write an absolute path, file:///path or gs://bucket/prefix.",
    )


def bucket_notices(url: str, *, timeout_s: float) -> list[str]:
    """The notices about the bucket of a run directory; none for a local path.

    Raises:
        StoreError: there are no credentials.
    """
    if not is_bucket(url):
        return []
    from trainer.rundir.gcs_store import GcsStore

    store = open_store(url, timeout_s=timeout_s)
    assert isinstance(store, GcsStore)
    return store.bucket_notices()
