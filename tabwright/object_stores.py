"""Tables in object stores: what a URI such as ``s3://bucket/folder`` names, through pyarrow.

Credentials, region and endpoint are found as the vendors' own tools find them: in the environment,
in their configuration files, or from the machine's role. Nothing of them is kept or shown.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import IO, Any, Final

from tabwright.errors import TableError, TableNotFoundError, install_command, nearest_name

_SCHEMES: Final = ("s3", "gs")
_MAGIC: Final = re.compile(r"[*?\[]")
# Seconds until a store that does not answer counts as out of reach.
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 60.0
_ATTEMPTS: Final = 3
_REFUSED: Final = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
    "MISSING_AUTHENTICATION_TOKEN",
    "EXPIRED_TOKEN",
    "ExpiredToken",
    "InvalidToken",
    "HTTP status 401",
    "HTTP status 403",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
)
# Google's library asks for a token first, from whatever account it finds.
_NO_TOKEN: Final = "OAuth2 access token"
_OUT_OF_REACH: Final = ("NETWORK_CONNECTION", "curl", "REQUEST_TIMEOUT", "UNAVAILABLE", "Timeout")


@dataclass(frozen=True)
class StoredObject:
    """One object of a store, read like a file.

    `modified`: when it was written, in nanoseconds since 1970.
    """

    uri: str
    size: int
    modified: int

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.uri).name

    @property
    def suffix(self) -> str:
        """The extension with its dot."""
        return PurePosixPath(self.uri).suffix

    @property
    def key(self) -> str:
        """Bucket and key."""
        return self.uri.partition("://")[2]

    def is_file(self) -> bool:
        """It was there when the store was asked."""
        return True

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The bytes, from any place on; reading is all that can be done.

        Raises `TableError` if the store does not give them.
        """
        if mode != "rb":
            raise ValueError(f"an object can be read only, in mode 'rb'; got {mode!r}")
        with _naming_source(self.uri):
            stream: IO[bytes] = _file_system(self.uri).open_input_file(self.key)
        return stream


def is_object_uri(source: str) -> bool:
    """Whether a source lies in a store that can be read."""
    return source.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def find_objects(source: str) -> tuple[list[StoredObject], bool]:
    """The objects that a URI names: one, those in a folder, or those that match a pattern.

    Returns `objects`: sorted; those of a folder whatever their names.
    Returns `is_folder`: whether the URI names a folder.
    Raises `TableError`: naming the URI: nothing there, no such bucket, credentials that are
        refused, a store that does not answer.
    Raises `ImportError`: naming the install line, if pyarrow is absent.
    """
    scheme, _, key = source.partition("://")
    key = key.rstrip("/")
    bucket, _, inner = key.partition("/")
    if not bucket or _MAGIC.search(bucket):
        raise TableError(
            f"a table in a store must be named as {scheme}://bucket/key, the bucket in full; "
            f"got {source}"
        )
    if "**" in key:
        raise TableError(f"a pattern in a store must be of * ? and [...], without **; got {source}")
    with _naming_source(source):
        store = _file_system(source)
        if _MAGIC.search(inner):
            return _matching(store, source, scheme, key), False
        info = store.get_file_info(key)
        if info.type.name == "File":
            return [_stored(scheme, info)], False
        if info.type.name == "NotFound":
            raise _not_found(store, source, key)
        return _listed(store, scheme, key, recursive=False), True


def _matching(store: Any, source: str, scheme: str, key: str) -> list[StoredObject]:
    """The objects whose key matches a pattern, part by part."""
    parts = key.split("/")
    fixed = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    listed = _listed(store, scheme, "/".join(parts[:fixed]), recursive=fixed < len(parts) - 1)
    found = [
        entry
        for entry in listed
        if len(entry.key.split("/")) == len(parts)
        and all(map(fnmatch.fnmatchcase, entry.key.split("/"), parts))
    ]
    if not found:
        raise TableNotFoundError(
            f"no object matches the pattern {source}; check bucket, folder and spelling"
        )
    return found


def _listed(store: Any, scheme: str, folder: str, *, recursive: bool) -> list[StoredObject]:
    """The objects of a folder, by name."""
    from pyarrow.fs import FileSelector

    selector = FileSelector(folder, allow_not_found=True, recursive=recursive)
    infos = [info for info in store.get_file_info(selector) if info.type.name == "File"]
    return sorted(
        (_stored(scheme, info) for info in infos),
        key=lambda entry: entry.uri,
    )


def _stored(scheme: str, info: Any) -> StoredObject:
    return StoredObject(f"{scheme}://{info.path}", info.size, info.mtime_ns)


def _not_found(store: Any, source: str, key: str) -> TableNotFoundError:
    """The error for an object that is not there, with the nearest name."""
    bucket, _, inner = key.partition("/")
    if not inner or store.get_file_info(bucket).type.name == "NotFound":
        return TableNotFoundError(f"there is no bucket {bucket!r}, which {source} lies in")
    folder, _, name = key.rpartition("/")
    siblings = [entry.name for entry in _listed(store, "", folder, recursive=False)]
    hint = nearest_name(name, siblings, otherwise=f"the bucket {bucket!r} is there")
    return TableNotFoundError(f"there is no object and no folder {source}{hint}")


def put_object(uri: str, data: bytes) -> None:
    """Write an object, whole or not at all: it is there when all of its bytes are.

    Raises `TableError` if the store does not take it.
    Raises `ImportError`: naming the install line, if pyarrow is absent.
    """
    with (
        _naming_source(uri),
        _file_system(uri).open_output_stream(uri.partition("://")[2]) as stream,
    ):
        stream.write(data)


def remove_object(uri: str) -> None:
    """Remove an object that is there.

    Raises `TableError` if the store does not do it.
    """
    with _naming_source(uri):
        _file_system(uri).delete_file(uri.partition("://")[2])


def _file_system(uri: str) -> Any:
    """The store that a URI lies in, as the environment of this moment describes it."""
    if find_spec("pyarrow") is None:
        raise ImportError(
            f"reading {uri} needs pyarrow, which is not installed; run: "
            f"{install_command('objects')}"
        )
    scheme, _, key = uri.partition("://")
    if scheme == "gs":
        return _google(os.environ.get("STORAGE_EMULATOR_HOST"))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Two processes of credentials have two file systems; the secret itself is no key of the cache.
    account = os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE")
    return _amazon(endpoint, region, account, None if endpoint or region else key.split("/")[0])


@functools.lru_cache(maxsize=16)
def _amazon(
    endpoint: str | None, region: str | None, account: str | None, bucket: str | None
) -> Any:
    """The file system of S3, or of an endpoint that speaks its protocol."""
    from pyarrow import fs

    options: dict[str, Any] = {}
    if endpoint is not None:
        options["scheme"], _, options["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
        options["scheme"] = options["scheme"] or "https"
    if bucket is not None:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region or "us-east-1",
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_READ_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


@functools.lru_cache(maxsize=16)
def _google(endpoint: str | None) -> Any:
    """The file system of Google Cloud Storage, or of an emulator at an address."""
    from pyarrow import fs

    options: dict[str, Any] = {}
    if endpoint is not None:
        # As Google's own libraries have it: an address with or without its scheme, and no account.
        scheme, _, address = endpoint.rstrip("/").rpartition("://")
        options = {"scheme": scheme or "http", "endpoint_override": address, "anonymous": True}
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_CONNECT_SECONDS), **options)


def _endpoint_variable(source: str) -> str:
    """The variable of the environment that says where a store is."""
    return "STORAGE_EMULATOR_HOST" if source.startswith("gs://") else "AWS_ENDPOINT_URL"


@contextmanager
def _naming_source(source: str) -> Iterator[None]:
    """What pyarrow says of a store, as one sentence that names the source."""
    try:
        yield
    except TableError:
        raise
    except OSError as error:
        reason = re.sub(r"\s*\(Request ID: [^)]*\)", "", " ".join(str(error).split()))
        if "NO_SUCH_BUCKET" in reason or ("Bucket '" in reason and "not found" in reason):
            bucket = source.partition("://")[2].split("/")[0]
            raise TableNotFoundError(
                f"there is no bucket {bucket!r}, which {source} lies in"
            ) from error
        # What follows repeats the message for programs.
        reason = reason.partition(" error_info={")[0]
        if _NO_TOKEN in reason:
            cause = reason.rpartition("error message was: ")[2]
            raise TableError(
                f"{source}: an account of Google must be found and let in; none was ({cause}); set "
                "GOOGLE_APPLICATION_CREDENTIALS to its file, or run `gcloud auth "
                "application-default login`, and check the network"
            ) from error
        if any(mark in reason for mark in _REFUSED):
            raise TableError(
                f"{source}: the store must let these credentials in; it refused them ({reason}); "
                "check the keys or the profile in the environment, and what they may read"
            ) from error
        if any(mark in reason for mark in _OUT_OF_REACH):
            raise TableError(
                f"{source}: the store must answer; it did not ({reason}); check the network, the "
                f"region and the endpoint ({_endpoint_variable(source)})"
            ) from error
        raise TableError(f"{source} cannot be used ({reason}); try it again") from error
