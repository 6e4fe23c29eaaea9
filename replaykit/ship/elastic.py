"""Exchanges into Elasticsearch, by way of a spool on disk (the extra `elasticsearch`).

Owns the set-up (templates, and data streams with ILM where the server has them), bulk requests with
retries, and the order: into the spool first, so that whoever measures never waits for the server, and
nothing is lost before the spool's bound. Ids depend on the exchange, so a repeat counts once.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from replaykit.attribution.sizes import parse_size
from replaykit.errors import UsageError
from replaykit.ship.ecs import documents, mappings
from replaykit.ship.output import Output, Rotation
from replaykit.ship.spool import Spool
from replaykit.wire.message import Messages

NAME = "replaykit-exchanges"
BULK = 1000
_ROWS = 4096
_LONGEST_WAIT_S = 30.0
_LAST_S = 10.0
"""So long an end tries to send what waits; the rest stays in the spool."""

HOT = {"max_primary_shard_size": "25gb", "max_age": "1d"}
POLICY = {
    "phases": {
        "hot": {"actions": {"rollover": HOT}},
        "warm": {"min_age": "2d", "actions": {"forcemerge": {"max_num_segments": 1}}},
        "cold": {"min_age": "14d", "actions": {"set_priority": {"priority": 0}}},
        "delete": {"min_age": "90d", "actions": {"delete": {}}},
    }
}


@dataclass(frozen=True)
class Place:
    """url: of the server, without credentials. name: of the data stream, or what index names begin with."""

    url: str
    name: str
    spool: Path
    spool_bytes: int
    login: tuple[str, str] | None = None
    api_key: str | None = None
    ca: str | None = None
    verify: bool = True


def parse_place(target: str) -> Place:
    """`elasticsearch://[user:password@]host:9200[/NAME][?spool=DIR&spool-size=1GB&tls=1&ca=FILE&insecure=1]`.

    Credentials may also come from ELASTICSEARCH_API_KEY, ELASTICSEARCH_USERNAME and
    ELASTICSEARCH_PASSWORD, or from files named by these with _FILE. Raises UsageError.
    """
    parts = urlsplit(target)
    given = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = set(given) - {"spool", "spool-size", "tls", "ca", "insecure"}
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    try:
        port = parts.port or 9200
    except ValueError:
        port = 0
    if not parts.hostname or unknown or not port:
        reason = (
            f"there is no option {sorted(unknown)[0]!r}"
            if unknown
            else "write elasticsearch://HOST:9200/NAME"
        )
        raise UsageError(f"{shown}: {reason}")
    name = parts.path.strip("/") or NAME
    if name != name.lower() or "/" in name or name[0] in "-_+":
        raise UsageError(f"{shown}: {name!r} is no name for an index: lower case, no slash")
    login = None if parts.username is None else (parts.username, parts.password or "")
    user, password = _secret("ELASTICSEARCH_USERNAME"), _secret("ELASTICSEARCH_PASSWORD")
    if login is None and user is not None:
        login = (user, password or "")
    tls = given.get("tls") not in (None, "0") or "ca" in given
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    folder = given.get("spool") or str(_state_folder() / f"elasticsearch-{parts.hostname}-{port}-{name}")
    return Place(
        f"{'https' if tls else 'http'}://{host}:{port}",
        name,
        Path(folder),
        parse_size(given.get("spool-size", "1GB")),
        login,
        _secret("ELASTICSEARCH_API_KEY"),
        given.get("ca"),
        given.get("insecure") in (None, "0"),
    )


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "replaykit"


def _secret(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    if path is None:
        return os.environ.get(name) or None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise UsageError(f"{name}_FILE: {path}: {(error.strerror or str(error)).lower()}") from None


def connect(place: Place) -> Any:
    """The official client. Raises UsageError where it is not installed."""
    try:
        from elasticsearch import Elasticsearch
    except ImportError:
        raise UsageError(
            "elasticsearch:// needs its client: pip install 'replaykit[elasticsearch]'"
        ) from None
    options: dict[str, Any] = {"request_timeout": 30}
    if place.api_key is not None:
        options["api_key"] = place.api_key
    elif place.login is not None:
        options["basic_auth"] = place.login
    if place.url.startswith("https"):
        options |= {"verify_certs": place.verify, "ssl_show_warn": False}
        if place.ca is not None:
            options["ca_certs"] = place.ca
    return Elasticsearch(place.url, **options)


def set_up(client: Any, name: str) -> bool:
    """Installs the templates, and ILM where the server has it; may be repeated. True: a data stream.

    Raises UsageError.
    """
    from elasticsearch import ApiError, TransportError

    try:
        streams = _has_streams(client)
        settings: dict[str, Any] = {
            "index": {"number_of_replicas": "1", "sort": {"field": "@timestamp", "order": "desc"}}
        }
        if streams:
            client.ilm.put_lifecycle(name=name, policy=POLICY)
            settings["index"]["lifecycle"] = {"name": name}
        client.cluster.put_component_template(name=f"{name}-mappings", template={"mappings": mappings()})
        client.cluster.put_component_template(name=f"{name}-settings", template={"settings": settings})
        template: dict[str, Any] = {
            "name": name,
            "index_patterns": [name, f"{name}-*"],
            "composed_of": [f"{name}-mappings", f"{name}-settings"],
            "priority": 200,
        }
        if streams:
            template |= {"data_stream": {}, "index_patterns": [name]}
        client.indices.put_index_template(**template)
    except (ApiError, TransportError) as error:
        raise UsageError(f"elasticsearch: cannot be set up: {_reason(error)}") from None
    return streams


def _has_streams(client: Any) -> bool:
    """Data streams and ILM are there; the distribution without x-pack has neither."""
    from elasticsearch import ApiError

    try:
        client.indices.get_data_stream(name="*")
        client.ilm.get_lifecycle()
    except ApiError as error:
        if error.status_code in (400, 404, 405):
            return False
        raise
    return True


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class Shipper:
    """Sends what is in the spool, in a thread of its own.

    `sent`, `refused`: documents the server took, and those it will never take.
    """

    def __init__(self, place: Place, spool: Spool, lock: threading.Lock) -> None:
        self._place, self._spool, self._lock = place, spool, lock
        self._client = connect(place)
        self._streams: bool | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self.sent = 0
        self.refused = 0
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        tries = 0
        while True:
            with self._lock:
                waiting = self._spool.peek()
            if waiting is None:
                if self._stopping.is_set():
                    return
                self._wake.wait(0.5)
                self._wake.clear()
                continue
            try:
                self._ship(waiting[0])
            except _Later as error:
                self.trouble = str(error)
                tries += 1
                if time.monotonic() > self._deadline:
                    return
                # Full jitter: many hosts that lost the same server do not return at once.
                self._stopping.wait(random.uniform(0, min(0.2 * 2**tries, _LONGEST_WAIT_S)))
                if self._stopping.is_set():
                    time.sleep(0.2)
                continue
            except Exception as error:  # ends the thread, and is told at the end: the spool keeps everything
                self.trouble = f"{type(error).__name__}: {error}"
                return
            tries = 0
            try:
                with self._lock:
                    self._spool.take()
            except UsageError as error:  # a full disk: after a restart it is sent again, and counts once
                self.trouble = str(error)

    def _ship(self, record: bytes) -> None:
        """One record of the spool; returns when the server has it. Raises _Later."""
        if self._streams is None:
            try:
                self._streams = set_up(self._client, self._place.name)
            except UsageError as error:
                raise _Later(str(error)) from None
        with pa.ipc.open_stream(record) as stream:
            batches = list(stream)
        observer, name = socket.gethostname(), self._place.name
        operations: list[dict[str, Any]] = []
        for batch in batches:
            for identifier, at, document in documents(batch, observer):
                index = (
                    name if self._streams else f"{name}-{time.strftime('%Y.%m.%d', time.gmtime(at // 10**9))}"
                )
                operations += [{"create": {"_index": index, "_id": identifier}}, document]
        for begin in range(0, len(operations), 2 * BULK):
            self._bulk(operations[begin : begin + 2 * BULK])

    def _bulk(self, operations: list[dict[str, Any]]) -> None:
        from elasticsearch import ApiError, TransportError

        while operations:
            try:
                answer = self._client.bulk(
                    operations=operations, filter_path="errors,items.*.status,items.*.error.reason"
                )
            except (ApiError, TransportError) as error:
                raise _Later(_reason(error)) from None
            again: list[dict[str, Any]] = []
            for i, item in enumerate(answer["items"]):
                result = item["create"]
                if result["status"] < 300 or result["status"] == 409:  # 409: it is there already
                    self.sent += 1
                elif result["status"] == 429 or result["status"] >= 500:
                    again += operations[2 * i : 2 * i + 2]
                else:
                    self.refused += 1
                    self.trouble = f"a document was refused: {result.get('error', {}).get('reason')}"
            operations = again
            if again:
                time.sleep(random.uniform(0, 0.5))

    def stop(self) -> None:
        """Sends what waits, for some seconds at most."""
        self._deadline = time.monotonic() + _LAST_S
        self._stopping.set()
        self._wake.set()
        self._thread.join(_LAST_S + 35)
        self._client.close()


class _Later(Exception):
    """The server is away or overloaded: the same is sent again later."""


class ElasticOutput:
    """`elasticsearch://host:9200/name`. Exchanges go into the spool; a thread sends them."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.place = parse_place(target)
        self.target = f"{self.place.url}/{self.place.name}"
        self._lock = threading.Lock()
        self._spool = Spool(self.place.spool, self.place.spool_bytes)
        self._dropped_before = self._spool.dropped
        self._lost = 0
        try:
            self._shipper = Shipper(self.place, self._spool, self._lock)
        except BaseException:
            self._spool.close()
            raise

    def exchanges(self, batch: pa.RecordBatch) -> None:
        for begin in range(0, batch.num_rows, _ROWS):
            part = batch.slice(begin, _ROWS)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(
                sink, part.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
            ) as stream:
                stream.write_batch(part)
            try:
                with self._lock:
                    self._spool.put(sink.getvalue().to_pybytes(), part.num_rows)
            except UsageError as error:  # a full disk costs these exchanges, not the capture
                self._lost += part.num_rows
                self._shipper.trouble = str(error)
        self._shipper.wake()

    def messages(self, messages: Messages) -> None:
        """Elasticsearch gets exchanges only."""

    def flush(self) -> None:
        """What was taken is in the spool."""

    @property
    def state(self) -> dict[str, Any]:
        """sent, refused, dropped: documents. waiting_bytes: in the spool. trouble: the last, or None."""
        shipper = self._shipper
        return {
            "sent": shipper.sent, "refused": shipper.refused, "dropped": self._spool.dropped - self._dropped_before + self._lost,
            "waiting_bytes": self._spool.waiting_bytes, "trouble": shipper.trouble,
        }  # fmt: skip

    def close(self) -> None:
        """Raises UsageError if something was refused, dropped, or is left in the spool."""
        self._shipper.stop()
        state = self.state
        self._spool.close()
        if state["waiting_bytes"]:
            raise UsageError(
                f"{self.target}: not everything could be sent ({state['trouble']}); {state['waiting_bytes']:,} bytes "
                f"wait in {self.place.spool} and are sent by the next run with this spool"
            )
        for what in ("refused", "dropped"):
            if state[what]:
                raise UsageError(f"{self.target}: {state[what]:,} documents were {what} ({state['trouble']})")


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `elasticsearch://`."""
    return ElasticOutput(target, rotation) if target.startswith("elasticsearch://") else None
