"""Where an archive lies: a directory, or a bucket of S3 or compatible; files are named relative to it.

Owns the list of files that count. A compacted file carries beside it, until its sources are gone, the list
of them (`NAME.replaces`): readers leave those out, so nothing counts twice at any moment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from replaykit.archive import s3
from replaykit.archive.parquet_file import PART, file_of, is_written, left_behind
from replaykit.atomic_files import cannot_write
from replaykit.errors import UsageError

REPLACES = ".replaces"


class Store(Protocol):
    """Names are relative, with `/`. Methods raise UsageError."""

    place: str

    def names(self) -> dict[str, int]:
        """Every file below, and its size in bytes."""

    def read(self, name: str) -> bytes: ...

    def parquet(self, name: str) -> Any:
        """A pyarrow ParquetFile."""

    def put(self, path: Path, name: str) -> None:
        """A finished local file under this name, at once or not at all; the local one is gone."""

    def delete(self, name: str) -> None: ...


class Folder:
    """An archive in a directory."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._root = Path(place)

    def names(self) -> dict[str, int]:
        found = [
            *self._root.glob("*.parquet"),
            *self._root.glob("date=*/**/*.parquet"),
            *self._root.glob(f"date=*/**/*{REPLACES}"),
            *self._left_behind(),
        ]
        sizes = {}
        for path in sorted(found):
            try:
                sizes[path.relative_to(self._root).as_posix()] = path.stat().st_size
            except FileNotFoundError:  # compacted or rotated away meanwhile
                continue
        return sizes

    def _left_behind(self) -> Iterator[Path]:
        """Finished parts of files that a killed run did not finish."""
        for folder in (*self._root.glob(".*.parts"), *self._root.glob("date=*/hour=*/.*.parts")):
            path = file_of(folder)
            if not path.exists() and not is_written(path):
                yield from left_behind(path)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def parquet(self, name: str) -> Any:
        return open_parquet(str(self._root / name))

    def put(self, path: Path, name: str) -> None:
        target = self._root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            if os.stat(path).st_dev == os.stat(target.parent).st_dev:
                part = path
            else:
                part.write_bytes(path.read_bytes())
                path.unlink()
            os.replace(part, target)
        except OSError as error:
            raise cannot_write(target, error) from None

    def delete(self, name: str) -> None:
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or any(folder.iterdir()):
                    break
                folder.rmdir()
        except OSError as error:
            raise cannot_write(path, error) from None


class Bucket:
    """An archive at `s3://bucket/prefix/`."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") + "/"
        s3.split(place)
        self._client = s3.client()

    def names(self) -> dict[str, int]:
        return {
            url.removeprefix(self.place): size
            for url, size in s3.sizes(self.place).items()
            if url.endswith((".parquet", REPLACES))
        }

    def read(self, name: str) -> bytes:
        with s3.open_object(self.place + name) as file:
            return file.read()

    def parquet(self, name: str) -> Any:
        return open_parquet(self.place + name)

    def put(self, path: Path, name: str) -> None:
        s3.put_file(path, self.place + name, self._client)
        path.unlink()

    def delete(self, name: str) -> None:
        s3.delete([self.place + name])


def open_store(place: str) -> Store:
    """Raises UsageError."""
    if place.startswith("s3://"):
        return Bucket(place)
    if Path(place).exists() and not Path(place).is_dir():
        raise UsageError(f"{place}: a file; a directory of Parquet files is needed, or s3://bucket/prefix/")
    if not Path(place).is_dir():
        raise UsageError(f"{place}: there is no such directory")
    return Folder(place)


def open_parquet(name: str, texts: Sequence[str] = ()) -> Any:
    """A ParquetFile by path or s3:// URL; these columns are read as dictionaries. Raises UsageError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if name.startswith("s3://"):
            return pq.ParquetFile(
                name.removeprefix("s3://"),
                filesystem=s3.file_system(),
                pre_buffer=True,
                read_dictionary=texts,
            )
        return pq.ParquetFile(name, read_dictionary=texts)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{name}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def counting(store: Store) -> dict[str, int]:
    """The Parquet files that count, and their sizes: without what a compacted file replaces."""
    names = store.names()
    gone: set[str] = set()
    for name in names:
        if name.endswith(REPLACES) and name.removesuffix(REPLACES) in names:
            gone |= set(json.loads(store.read(name)))
    return {n: size for n, size in names.items() if n.endswith((".parquet", PART)) and n not in gone}
