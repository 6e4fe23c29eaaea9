"""GoReplay's documents into Elasticsearch: request and response of each replayed exchange.

Owns the document of --output-http-elasticsearch. Documents go the way of `elasticsearch://`: into a bounded
spool on disk, and from there to the server, once each.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from replaykit.engine import head
from replaykit.errors import UsageError
from replaykit.goreplay.pipeline import Log
from replaykit.outputs.bulk import Bulk, Operation
from replaykit.outputs.delivery.drain import Drain
from replaykit.outputs.elastic_place import connect, parse_place
from replaykit.replaying.job import Job, Response

_RECORD = 500
_EVERY_S = 0.5
_SPOOLS = 16

_REQUEST = (
    ("Req_User-Agent", b"user-agent"), ("Req_Accept-Language", b"accept-language"), ("Req_Accept", b"accept"),
    ("Req_Accept-Encoding", b"accept-encoding"), ("Req_If-Modified-Since", b"if-modified-since"),
    ("Req_Connection", b"connection"), ("Req_Cookies", b"cookie"),
)  # fmt: skip
_RESPONSE = (
    ("Resp_Content-Length", b"content-length"), ("Resp_Content-Type", b"content-type"),
    ("Resp_Transfer-Encoding", b"transfer-encoding"), ("Resp_Content-Encoding", b"content-encoding"),
    ("Resp_Expires", b"expires"), ("Resp_Cache-Control", b"cache-control"), ("Resp_Vary", b"vary"),
    ("Resp_Set-Cookie", b"set-cookie"),
)  # fmt: skip


def document(request: bytes, response: bytes, took_ns: int, now: datetime.datetime) -> dict[str, Any]:
    """GoReplay's document; RTT in ms."""
    line = head.request(request)
    method, target = (request[slice(*at)].decode("latin-1") for at in line) if line else ("", "")
    status = response[9:12].decode("latin-1")
    out = {"Req_URL": target, "Req_Method": method}
    for name, value in _values(request, _REQUEST):
        if value or name == "Req_User-Agent":
            out[name] = value
    out |= {"Resp_Status": status, "Resp_Status-Code": status, "Resp_Proto": response[:8].decode("latin-1")}
    out |= {name: value for name, value in _values(response, _RESPONSE) if value}
    return out | {"RTT": took_ns // 1_000_000, "Timestamp": now.isoformat()}


def _values(payload: bytes, names: tuple[tuple[str, bytes], ...]) -> list[tuple[str, str]]:
    h = payload[: head.end(payload)]
    found = ((name, head.value(h, field)) for name, field in names)
    return [(name, "" if at is None else h[slice(*at)].decode("latin-1")) for name, at in found]


class ElasticsearchSink:
    """url: `[http[s]://][user:password@]host:port/index[?spool=DIR]`. Raises UsageError.

    `lost`: documents that the server refused or the spool's bound cost, known when it is closed.
    """

    lost = 0

    def __init__(self, url: str, log: Log) -> None:
        scheme, _, rest = url.rpartition("://")
        mark = "&" if "?" in rest else "?"
        target = f"elasticsearch://{rest}{mark}tls=1" if scheme == "https" else f"elasticsearch://{rest}"
        if not urlsplit(target).path.strip("/"):
            raise UsageError(f"{url!r}: write host:port/index_name")
        self._place = parse_place(target)
        self.index, self._log = self._place.name, log
        self._drain = self._open(self._place.spool)
        self._pending: list[tuple[str, dict[str, Any]]] = []
        self._task = asyncio.create_task(self._work())

    def _open(self, folder: Path) -> Drain:
        """Several of us may run beside each other: the first spool that is free."""
        for number in range(1, _SPOOLS + 1):
            name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            try:
                return Drain(
                    name, self._place.spool_bytes, lambda: Bulk(connect(self._place), self._operations)
                )
            except UsageError as error:
                if "another process" not in str(error) or number == _SPOOLS:
                    raise
        raise AssertionError("not reached")

    def heard(self, job: Job, response: Response) -> None:
        """A response; nobody waits for the server."""
        if not response.payload:
            return
        now = datetime.datetime.now(datetime.UTC)
        made = document(bytes(job.request), response.payload, response.done_ns - job.sent_ns, now)
        self._pending.append((uuid.uuid4().hex, made))
        if len(self._pending) >= _RECORD:
            self._put()

    def _put(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        self._drain.put(json.dumps(pending).encode(), len(pending))

    def _operations(self, record: bytes) -> list[Operation]:
        return [
            (json.dumps({"create": {"_index": self.index, "_id": name}}).encode(), json.dumps(made).encode())
            for name, made in json.loads(record)
        ]

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self._put()

    async def close(self) -> None:
        """Sends what waits, for some seconds; says what was lost, and what still waits in the spool."""
        self._task.cancel()
        self._put()
        state = await asyncio.get_running_loop().run_in_executor(None, self._drain.stop)
        host, trouble = f"elasticsearch {self._place.url}", state["trouble"]
        self.lost = state["refused"] + state["dropped"]
        if state["waiting_bytes"]:
            self._log(
                0,
                f"{host}: {trouble}; {state['waiting_bytes']:,} bytes of documents wait in"
                f" {self._drain.folder} for the next run",
            )
        if self.lost:
            self._log(0, f"{host}: {self.lost:,} documents are lost ({trouble})")
