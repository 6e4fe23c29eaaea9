"""GoReplay's documents into Elasticsearch: request and answer of each replayed exchange.

Owns the document of --output-http-elasticsearch, and a bounded queue before the official client (the
extra `elasticsearch`): what it cannot hold while the server is away is counted.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import Any
from urllib.parse import urlsplit

from replaykit.errors import UsageError
from replaykit.replay.job import Answer, Job
from replaykit.traffic.pipeline import Log
from replaykit.wire import head

_BULK = 500
_QUEUE = 20_000
_EVERY_S = 1.0
_TRIES = 3

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


def document(request: bytes, answer: bytes, took_ns: int, now: datetime.datetime) -> dict[str, Any]:
    """GoReplay's document; RTT in ms."""
    line = head.request(request)
    method, target = (request[slice(*at)].decode("latin-1") for at in line) if line else ("", "")
    status = answer[9:12].decode("latin-1")
    out = {"Req_URL": target, "Req_Method": method}
    for name, value in _values(request, _REQUEST):
        if value or name == "Req_User-Agent":
            out[name] = value
    out |= {"Resp_Status": status, "Resp_Status-Code": status, "Resp_Proto": answer[:8].decode("latin-1")}
    out |= {name: value for name, value in _values(answer, _RESPONSE) if value}
    return out | {"RTT": took_ns // 1_000_000, "Timestamp": now.isoformat()}


def _values(payload: bytes, names: tuple[tuple[str, bytes], ...]) -> list[tuple[str, str]]:
    h = payload[: head.end(payload)]
    found = ((name, head.value(h, field)) for name, field in names)
    return [(name, "" if at is None else h[slice(*at)].decode("latin-1")) for name, at in found]


class ElasticsearchSink:
    """url: `[http[s]://][user:password@]host:port/index`. Raises UsageError. `lost`: documents dropped."""

    def __init__(self, url: str, log: Log) -> None:
        try:
            from elasticsearch import AsyncElasticsearch
        except ImportError:
            raise UsageError(
                "--output-http-elasticsearch needs its client: pip install 'replaykit[elasticsearch]'"
            ) from None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self.index = parts.path.rpartition("/")[2]
        if not parts.hostname or not self.index:
            raise UsageError(f"{url!r}: write host:port/index_name")
        host = f"{parts.scheme}://{parts.hostname}:{parts.port or 9200}"
        login = None if parts.username is None else (parts.username, parts.password or "")
        self._client = AsyncElasticsearch(host, basic_auth=login, request_timeout=10)
        self._host, self._log = host, log
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUE)
        self._task = asyncio.create_task(self._work())
        self._ending = False
        self.sent = 0
        self.lost = 0

    def heard(self, job: Job, answer: Answer) -> None:
        """An answer; nobody waits for the server."""
        if not answer.payload:
            return
        now = datetime.datetime.now(datetime.UTC)
        made = document(bytes(job.request), answer.payload, answer.done_ns - job.sent_ns, now)
        try:
            self._queue.put_nowait(made)
        except asyncio.QueueFull:
            self._lose(1, "the queue is full")

    def _lose(self, count: int, why: str) -> None:
        if not self.lost:
            self._log(0, f"elasticsearch {self._host}: {why}; documents are lost, and counted")
        self.lost += count

    async def _work(self) -> None:
        while not (self._ending and self._queue.empty()):
            documents: list[dict[str, Any]] = []
            while not self._queue.empty() and len(documents) < _BULK:
                documents.append(self._queue.get_nowait())
            if documents:
                await self._send(documents)
            else:
                await asyncio.sleep(0.05 if self._ending else _EVERY_S / 10)

    async def _send(self, documents: list[dict[str, Any]]) -> None:
        from elasticsearch import ApiError, TransportError

        operations: list[dict[str, Any]] = []
        for each in documents:
            operations += [{"index": {"_index": self.index}}, each]
        for attempt in range(_TRIES):
            try:
                found = await self._client.bulk(operations=operations)
            except (ApiError, TransportError) as error:
                if attempt == _TRIES - 1:
                    return self._lose(len(documents), str(error))
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            bad = [i["index"] for i in found["items"] if i["index"]["status"] >= 300]
            self.sent += len(documents) - len(bad)
            if bad:
                self._lose(len(bad), str(bad[0].get("error")))
            return

    async def close(self) -> None:
        """Sends what waits; gives up after some seconds."""
        self._ending = True
        try:
            async with asyncio.timeout(15):
                await self._task
        except TimeoutError:
            self._lose(self._queue.qsize(), "not sent when the run ended")
        await self._client.close()
