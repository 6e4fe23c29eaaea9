"""Objects in S3, by boto3 (the extra `s3`). AWS_ENDPOINT_URL names another store of the kind."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

from replaykit.errors import UsageError
from replaykit.extras import needs


def client() -> Any:
    """Raises UsageError where boto3 is not installed."""
    try:
        import boto3
    except ImportError:
        raise needs("s3:// needs the package boto3", "s3") from None
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=60)
    return boto3.client(
        "s3", region_name=region, endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or None, config=config
    )


def check(by: Any, bucket: str) -> None:
    """Raises UsageError where the store says that nothing can be put there; one that is away says nothing."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as Unreachable

    try:
        by.head_bucket(Bucket=bucket)
    except (HTTPClientError, Unreachable):
        return
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status in (401, 403, 404):
            reason = "there is no such bucket" if status == 404 else f"access is refused ({status})"
            raise UsageError(f"s3://{bucket}: {reason}") from None
    except BotoCoreError as error:
        raise UsageError(f"s3://{bucket}: {str(error).lower()}") from None


def split(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Raises UsageError."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError(f"{url}: name a bucket, as in s3://bucket/key")
    return bucket, key


def _trouble(url: str, error: Exception) -> UsageError:
    return UsageError(f"{url}: {error}")


def keys(url: str) -> list[str]:
    """The URLs of all objects whose key begins so. Raises UsageError."""
    return list(sizes(url))


def sizes(url: str) -> dict[str, int]:
    """The URLs of all objects whose key begins so, and their bytes, sorted. Raises UsageError."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = split(url)
    found: dict[str, int] = {}
    try:
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            found |= {f"s3://{bucket}/{entry['Key']}": entry["Size"] for entry in page.get("Contents", ())}
    except (BotoCoreError, ClientError) as error:
        raise _trouble(url, error) from None
    return dict(sorted(found.items()))


class _Body(io.RawIOBase):
    """An object's content as a stream."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def delete(urls: Iterable[str]) -> None:
    """Deletes objects. Raises UsageError."""
    from botocore.exceptions import BotoCoreError, ClientError

    for url in urls:
        bucket, key = split(url)
        try:
            client().delete_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            raise _trouble(url, error) from None


def file_system() -> Any:
    """Arrow's own S3 file system, with the same environment: reads only the parts of a file that are
    wanted.
    """
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    if not endpoint:
        return fs.S3FileSystem(region=region)
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(region=region, endpoint_override=host.rstrip("/"), scheme=scheme or "https")


def open_object(url: str) -> IO[bytes]:
    """An object, read as a stream. Raises UsageError."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = split(url)
    try:
        body = client().get_object(Bucket=bucket, Key=key)["Body"]
    except (BotoCoreError, ClientError) as error:
        raise _trouble(url, error) from None
    return cast("IO[bytes]", io.BufferedReader(_Body(body), 4 << 20))


def put_file(path: Path, url: str, by: Any = None) -> None:
    """Uploads a file. by: the client to use. Raises UsageError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = split(url)
    try:
        (by or client()).upload_file(str(path), bucket, key)
    except (Boto3Error, BotoCoreError, ClientError, OSError) as error:
        raise _trouble(url, error) from None
