"""A run directory in a GCS bucket, by google-cloud-storage (loaded with the first store, not with this module).

put_if_absent is an upload with if_generation_match=0. The client tries again by itself, so after a lost acknowledgement
it may answer 412 though the object is ours: ObjectExists here, and the caller tells the two apart by what it wrote.
STORAGE_EMULATOR_HOST names another server, which is spoken to without credentials.

A call tries again by itself until it is over (deadline.py): after its time, which bytes that move prolong.
"""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainer.errors import ObjectExists, ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from trainer.rundir.bucket_policy import BucketPolicy, DeleteRule, notices, unknown
from trainer.rundir.store import Data, Entry, buffers, check_name, check_prefix

if TYPE_CHECKING:
    from trainer.rundir.deadline import Call

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
# Of one request: one that is lost leaves time for another within the call.
_REQUEST_TIMEOUT_S = 15.0
# A chunk of a large upload is one request, and is copied once: small enough for memory, large enough for throughput.
_CHUNK_BYTES = 32 * 1024 * 1024
# Conditions of lifecycle rules that our objects never meet: they are live, and carry no time of their own.
_NOT_OURS = {
    "numNewerVersions",
    "daysSinceNoncurrentTime",
    "noncurrentTimeBefore",
    "daysSinceCustomTime",
    "customTimeBefore",
}
_PERMISSIONS = {
    "write": "storage.objects.create",
    "replace": "storage.objects.create and storage.objects.delete",
    "read": "storage.objects.get",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
    "look at": "storage.buckets.get",
}


class GcsStore:
    """Store of gs://bucket/prefix. Calls try again by themselves for `timeout_s`."""

    def __init__(
        self, bucket: str, prefix: str, *, timeout_s: float = 60.0, on_trouble: Callable[[str], None] | None = None
    ) -> None:
        """`on_trouble` gets a message, once a call, when the call is about to try again; what it raises ends the call.
        Without one, the message is logged."""
        from google.api_core.retry import Retry

        from trainer.rundir import deadline

        self.url = f"gs://{bucket}/{prefix}" if prefix else f"gs://{bucket}"
        self._bucket_name = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._bucket_seen = False
        self._timeout_s = timeout_s
        self._on_trouble = on_trouble
        with self._call("read", self.url):
            self._client = _client()
            deadline.limit(self._client._http)
        self._bucket = self._client.bucket(bucket)
        self._options: dict[str, Any] = {
            "timeout": (min(_CONNECT_TIMEOUT_S, timeout_s), min(_REQUEST_TIMEOUT_S, timeout_s)),
            "retry": Retry(
                predicate=_worth_another_try,
                initial=0.25,
                maximum=8.0,
                multiplier=2.0,
                timeout=timeout_s,
                on_error=self._troubled,
            ),
        }

    def put_if_absent(self, name: str, data: Data) -> Entry:
        """See Store."""
        from google.api_core.exceptions import PreconditionFailed

        with self._call("write", name) as call:
            try:
                return self._upload(call, name, data, if_generation_match=0)
            except PreconditionFailed:
                raise ObjectExists(f"{self._place(name)} exists already") from None

    def put(self, name: str, data: Data) -> Entry:
        """See Store."""
        with self._call("replace", name) as call:
            return self._upload(call, name, data)

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        """See Store."""
        blob = self._bucket.blob(self._base + check_name(name), generation=generation)
        with self._call("read", name) as call:
            sink = _Counted(call)
            # raw: the stored bytes, whatever their encoding. No checksum: a flipped bit is for the caller to find, who
            # knows what to do about it.
            blob.download_to_file(sink, raw_download=True, checksum=None, **self._options)
            return sink.getvalue()

    def bucket_notices(self) -> list[str]:
        """What the bucket does with objects behind our back, for a person to know. What cannot be read is said as well."""
        try:
            with self._call("look at", ""):
                self._bucket.reload(**self._options)
        except StoreError as error:
            return [unknown(self._bucket_name, f"{error.message} (this takes {_PERMISSIONS['look at']})")]
        return notices(_policy(self._bucket), self._bucket_name, self._base.rstrip("/"))

    def list(self, prefix: str) -> list[Entry]:
        """See Store."""
        with self._call("list", prefix):
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._base + check_prefix(prefix),
                fields="items(name,size,generation,crc32c,updated),nextPageToken",
                **self._options,
            )
            entries = [self._entry(blob) for blob in blobs]
        self._bucket_seen = True
        return sorted(entries, key=lambda entry: entry.name)

    def delete(self, name: str, *, generation: int | None = None) -> None:
        """See Store."""
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(self._base + check_name(name))
        with contextlib.suppress(ObjectNotFound, PreconditionFailed), self._call("delete", name):
            blob.delete(if_generation_match=generation, **self._options)

    def _upload(self, call: "Call", name: str, data: Data, **preconditions: int) -> Entry:
        parts = buffers(data)
        blob = self._bucket.blob(self._base + check_name(name), chunk_size=_CHUNK_BYTES)
        blob.upload_from_file(
            _Joined(parts, call),
            size=sum(part.nbytes for part in parts),
            content_type="application/octet-stream",
            checksum="crc32c",
            **preconditions,
            **self._options,
        )
        self._bucket_seen = True
        return self._entry(blob)

    def _entry(self, blob: Any) -> Entry:
        try:
            size_bytes, generation = int(blob.size), int(blob.generation)
        except TypeError:
            raise StoreUnavailable(f"the answer about {self._place(blob.name)} is not one of GCS") from None
        return Entry(
            name=blob.name.removeprefix(self._base),
            size_bytes=size_bytes,
            generation=generation,
            crc32c=blob.crc32c,
            written_ns=int(blob.updated.timestamp()) * 10**9 if blob.updated else 0,
        )

    def _place(self, name: str) -> str:
        return f"gs://{self._bucket_name}/{self._base}{name}"

    def _troubled(self, error: Exception) -> None:
        from trainer.rundir.deadline import current

        call = current()
        if call is not None and not call.troubled:
            call.troubled = True
            message = f"{self.url}: {_first_line(error)}"
            if self._on_trouble is not None:
                self._on_trouble(message)
            else:
                log.warning("the store makes trouble, trying again: %s", message)

    @contextlib.contextmanager
    def _call(self, action: str, name: str) -> Iterator["Call"]:
        import http.client

        import requests
        import urllib3
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth
        from google.cloud.storage import exceptions as storage

        from trainer.rundir.deadline import Call

        call = Call(self._timeout_s)
        try:
            with call:
                yield call
        except (StoreError, api.PreconditionFailed):
            raise
        except api.RetryError as error:
            raise self._as_store_error(action, name, error.cause or error) from error
        except (api.GoogleAPICallError, auth.GoogleAuthError, storage.InvalidResponse, storage.DataCorruption) as error:
            raise self._as_store_error(action, name, error) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            if call.is_over:
                raise StoreUnavailable(
                    f"cannot {action} {self._place(name)}: no whole answer within {self._timeout_s:g} s"
                ) from error
            raise self._as_store_error(action, name, error) from error
        if call.hung_up:
            raise StoreUnavailable(f"cannot {action} {self._place(name)}: no whole answer within {self._timeout_s:g} s")

    def _as_store_error(self, action: str, name: str, error: Exception) -> StoreError:
        from google.auth import exceptions as auth

        message = f"cannot {action} {self._place(name)}: {_first_line(error)}"
        status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
        if status == 404:
            if action in ("read", "delete") and self._bucket_exists(error):
                return ObjectNotFound(f"{self._place(name)} does not exist")
            return StoreDenied(
                f"the bucket {self._bucket_name} does not exist, or is hidden from these credentials",
                remedy=f"Create it (gcloud storage buckets create gs://{self._bucket_name}) or correct run.directory.",
            )
        if isinstance(error, auth.DefaultCredentialsError):
            return StoreDenied(
                message,
                remedy="Run `gcloud auth application-default login`, or give the pod a service account with access to "
                f"the bucket {self._bucket_name} (scheduling.service_account).",
            )
        if isinstance(error, auth.RefreshError) and not getattr(error, "retryable", False):
            status = 401
        if status in (401, 403):
            return StoreDenied(
                message,
                remedy=f"Grant {_PERMISSIONS[action]} on the bucket {self._bucket_name} to the account that runs this "
                "(roles/storage.objectUser has all that a run directory needs).",
            )
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
            return StoreDenied(message, remedy=f"The bucket {self._bucket_name} refuses this; see the message above.")
        return StoreUnavailable(message)

    def _bucket_exists(self, error: Exception) -> bool:
        """Whether a 404 is about the object. The server's text differs between its interfaces, so it is asked once."""
        if not self._bucket_seen:
            if "bucket does not exist" in str(error):
                return False
            try:
                self.list("attempts/")
            except StoreDenied as denied:
                return "does not exist" not in denied.message
        return True


class _Counted(io.BytesIO):
    """What a download writes into."""

    def __init__(self, call: "Call") -> None:
        super().__init__()
        self._call = call

    def write(self, data: Any) -> int:
        self._call.moved(len(data))
        return super().write(data)


class _Joined(io.RawIOBase):
    """Several buffers as one readable, seekable stream: what an upload reads, and rewinds when it tries again."""

    def __init__(self, parts: list[memoryview], call: "Call") -> None:
        self._parts = parts
        self._at = 0
        self._furthest = 0
        self._call = call

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: sum(part.nbytes for part in self._parts)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        chosen: list[memoryview] = []
        begin, wanted = 0, size if size >= 0 else 1 << 62
        for part in self._parts:
            end = begin + part.nbytes
            if wanted and self._at < end:
                piece = part[self._at - begin : self._at - begin + wanted]
                chosen.append(piece)
                self._at += piece.nbytes
                wanted -= piece.nbytes
            begin = end
        if self._at > self._furthest:  # sent again, bytes prolong nothing
            self._call.moved(self._at - self._furthest)
            self._furthest = self._at
        return b"".join(chosen)


def _policy(bucket: Any) -> BucketPolicy:
    rules = [dict(rule) for rule in bucket.lifecycle_rules]
    return BucketPolicy(
        soft_delete_s=int(bucket.soft_delete_policy.retention_duration_seconds or 0),
        delete_rules=tuple(
            DeleteRule(
                age_days=condition.get("age"),
                prefixes=tuple(condition.get("matchesPrefix", ())),
                suffixes=tuple(condition.get("matchesSuffix", ())),
            )
            for rule in rules
            if rule["action"]["type"] == "Delete"
            and not _NOT_OURS & (condition := rule.get("condition", {})).keys()
            and condition.get("isLive", True)
        ),
        retention_s=int(bucket.retention_period or 0),
        held=bool(bucket.default_event_based_hold),
        versioned=bool(bucket.versioning_enabled),
    )


def _client() -> Any:
    from google.auth import credentials
    from google.cloud import storage

    # The client would ask for the bucket's metadata on its own, for traces nobody reads: in threads that keep no deadline, at
    # the start and after every object that is not there.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    anonymous: Any = credentials.AnonymousCredentials  # has no annotations
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client(project="orch", credentials=anonymous())
    return storage.Client()


def _worth_another_try(error: Exception) -> bool:
    from google.cloud.storage.retry import DEFAULT_RETRY

    from trainer.rundir.deadline import current

    call = current()
    return not (call is not None and call.is_over) and bool(DEFAULT_RETRY._predicate(error))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
