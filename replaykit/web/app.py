"""The REST API: document 000's shapes, and what it wished for: history, reports, rules, and statistics that are pushed.

Every answer is `{"success": …, "message": …, "data": …}`. With a token, every call but /health needs it
(`Authorization: Bearer …`). OpenAPI's description is at /openapi.json.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from replaykit import __version__
from replaykit.errors import UsageError
from replaykit.forwarder.mapping import client as read_client
from replaykit.forwarder.mapping import mapping as read_mapping
from replaykit.forwarder.mapping import plain
from replaykit.forwarder.server import Forwarder
from replaykit.ledger import calendar
from replaykit.ledger.guard import effects, log
from replaykit.ledger.history import history, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.report import usage as shown

STATIC = Path(__file__).parent / "static"
_PAGE = {
    # Nothing is loaded from elsewhere, and nobody may frame it. Vue makes functions of its templates.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}  # fmt: skip
PUSH_S = 1.0
MOST_ROWS = 100_000
_LAST = {"minute": 3600, "hour": 86_400, "day": 30 * 86_400, "month": 366 * 86_400}
Period = Literal["minute", "hour", "day", "month"]


class Moved(BaseModel):
    """Bytes to visitors and from them, ever; when they last moved, in seconds since the epoch (0: never)."""

    bytes_sent: int
    bytes_received: int
    last_update: int


class PortMoved(BaseModel):
    """The same of the mapping of a port."""

    port: int
    bytes_sent: int
    bytes_received: int
    last_update: int


class Traffic(BaseModel):
    tunnel: Moved
    mappings: list[PortMoved]
    total_sent: int
    total_received: int
    timestamp: int


class Answer(BaseModel):
    success: bool = True
    message: str = "ok"


class TrafficAnswer(Answer):
    data: Traffic


class DataAnswer(Answer):
    data: dict[str, Any]


class ListAnswer(Answer):
    data: list[dict[str, Any]]


class ErrorAnswer(BaseModel):
    success: Literal[False] = False
    message: str


class NewMapping(BaseModel):
    """A mapping; what it has already is changed. `rate_limit` in bytes a second; `flow_limit_mb` in MB of 2^20."""

    model_config = ConfigDict(extra="forbid", strict=True)
    source_port: int = Field(ge=1, le=65_535)
    target_host: str = Field(min_length=1, max_length=255)
    target_port: int = Field(ge=1, le=65_535)
    protocol: Literal["tcp", "udp", "host"] = "tcp"
    listen: str = "127.0.0.1"
    host: str = ""
    client: str = ""
    use_tunnel: bool = False
    flow_limit_mb: int | None = Field(None, ge=0, le=2**43)
    max_connections: int | None = Field(None, ge=0, le=2**31)
    rate_limit: int | None = Field(None, ge=1, le=2**43)
    allow: list[str] = []
    deny: list[str] = []
    proxy_protocol: Literal["", "v1", "v2"] = ""
    accept_proxy: bool = False
    remark: str = Field("", max_length=255)


class NewClient(BaseModel):
    """Who owns mappings; its limits are over all of them together."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=255)
    flow_limit_mb: int | None = Field(None, ge=0, le=2**43)
    max_connections: int | None = Field(None, ge=0, le=2**31)
    rate_limit: int | None = Field(None, ge=1, le=2**43)
    max_mappings: int | None = Field(None, ge=0, le=2**31)
    remark: str = Field("", max_length=255)


class Named(BaseModel):
    """Which mapping: its `name` as the list gives it, or the `source_port` of a TCP mapping."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str | None = Field(None, max_length=300)
    source_port: int | None = Field(None, ge=1, le=65_535)


class Problem(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in (
        (400, "wrong request"),
        (401, "no or wrong token"),
        (404, "no such thing"),
        (409, "not possible now"),
    )
}


def create_app(ledger: Ledger, forwarder: Forwarder, token: str | None = None) -> FastAPI:
    """The application. token: what every call but /health must bring; None: nothing."""

    async def authorized(request: Request) -> None:
        if token is None and not local(request.headers.get("host", "")):
            raise Problem(400, "without a token the API answers to 127.0.0.1, [::1] and localhost only")
        if not permitted(request.headers.get("authorization", ""), token):
            raise Problem(401, "give the token: Authorization: Bearer …")

    app = FastAPI(title="replaykit", version=__version__, docs_url=None, redoc_url=None)
    api = APIRouter(dependencies=[Depends(authorized)], responses=_ERRORS)
    _traffic(api, app, forwarder, token)
    _mappings(api, forwarder)
    _history(api, ledger)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    @app.get("/api/stats/monitor", response_class=FileResponse)
    async def monitor() -> FileResponse:
        """The live page. It asks for the token itself, where one is needed."""
        return FileResponse(STATIC / "index.html", media_type="text/html", headers=_PAGE)

    @app.get("/health")
    async def health() -> DataAnswer:
        return DataAnswer(
            data={"status": "ok", "mappings": len(forwarder.mappings), "ledger": forwarder.trouble or "ok"}
        )

    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(UsageError, _usage)
    return app


def permitted(header: str, token: str | None) -> bool:
    """Whether an Authorization header brings the token."""
    if token is None:
        return True
    kind, _, given = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def local(host: str) -> bool:
    """Whether a Host header names this machine: a page of somebody else's could have its own name lead here."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _error(error.status, error.message)


async def _usage(request: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"][1:])
    return _error(400, f"{where}: {first['msg']}" if where else str(first["msg"]))


def _error(status: int, message: str) -> Response:
    return JSONResponse({"success": False, "message": message}, status)


def traffic(forwarder: Forwarder) -> Traffic:
    """What all mappings and the tunnel have moved, ever."""
    mappings = []
    for name, one in sorted(forwarder.mappings.items(), key=lambda m: (m[1].source_port, m[0])):
        meter = forwarder.meter("mapping", name)
        mappings.append(
            PortMoved(
                port=one.source_port,
                bytes_sent=meter.sent,
                bytes_received=meter.received,
                last_update=meter.last_update,
            )
        )
    lines = [meter for (kind, _), meter in forwarder.meters.items() if kind == "tunnel"]
    tunnel = Moved(
        bytes_sent=sum(m.sent for m in lines), bytes_received=sum(m.received for m in lines),
        last_update=max((m.last_update for m in lines), default=0),
    )  # fmt: skip
    return Traffic(
        tunnel=tunnel, mappings=mappings, timestamp=int(time.time()),
        total_sent=tunnel.bytes_sent + sum(m.bytes_sent for m in mappings),
        total_received=tunnel.bytes_received + sum(m.bytes_received for m in mappings),
    )  # fmt: skip


def _traffic(api: APIRouter, app: FastAPI, forwarder: Forwarder, token: str | None) -> None:
    @api.get("/api/stats/traffic")
    async def stats(request: Request) -> TrafficAnswer:
        chinese = request.headers.get("accept-language", "").lower().startswith("zh")
        return TrafficAnswer(message="获取流量统计成功" if chinese else "ok", data=traffic(forwarder))

    @api.get(
        "/api/stats/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events(
        request: Request, most: Annotated[int | None, Query(ge=1, le=10**9)] = None
    ) -> StreamingResponse:
        """The statistics every second, as server-sent events; `most`: so many, then the end."""

        async def lines() -> AsyncIterator[str]:
            count = 0
            while not await request.is_disconnected():
                yield f"data: {traffic(forwarder).model_dump_json()}\n\n"
                count += 1
                if count == most:
                    return
                await asyncio.sleep(PUSH_S)

        return StreamingResponse(
            lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @app.websocket("/api/stats/ws")
    async def push(socket: WebSocket) -> None:
        """The statistics every second. A browser cannot set headers here, so the token may be the subprotocol too."""
        offered = socket.headers.get("sec-websocket-protocol", "")
        header = socket.headers.get("authorization", "") or f"bearer {offered.rpartition(',')[2].strip()}"
        if not permitted(header, token) or (token is None and not local(socket.headers.get("host", ""))):
            await socket.close(4401, "give the token")
            return
        await socket.accept(subprotocol=offered.partition(",")[0].strip() or None)
        try:
            while True:
                await socket.send_text(traffic(forwarder).model_dump_json())
                await asyncio.sleep(PUSH_S)
        except WebSocketDisconnect:
            return


def _mappings(api: APIRouter, forwarder: Forwarder) -> None:
    def described(name: str) -> dict[str, Any]:
        one, meter = forwarder.mappings[name], forwarder.meter("mapping", name)
        route = forwarder.routes.get(name)
        return {
            **plain(one), "name": name, "protocol": one.protocol, "listen": one.listen, "port": one.source_port,
            "bytes_sent": meter.sent, "bytes_received": meter.received, "last_update": meter.last_update,
            "connections": meter.open, "running": route is not None, "refusal": meter.refusal(),
            "rule_rate_limit": meter.ruled.rate, "troubles": route.troubles if route is not None else {},
            "top_talkers": talkers(forwarder, name),
        }  # fmt: skip

    async def changed(change: Callable[[], Awaitable[Any]]) -> None:
        try:
            await change()
        except UsageError as error:
            text = str(error)
            raise Problem(
                404 if text.startswith("there is no") else 409 if "in use" in text else 400, text
            ) from None

    @api.get("/api/mapping/list")
    async def list_mappings() -> ListAnswer:
        return ListAnswer(data=[described(name) for name in sorted(forwarder.mappings)])

    @api.post("/api/mapping/create")
    async def create_mapping(given: NewMapping) -> DataAnswer:
        try:
            one = read_mapping(given.model_dump(exclude_unset=True))
        except UsageError as error:
            raise Problem(400, str(error)) from None
        await changed(lambda: forwarder.put(one))
        return DataAnswer(
            message=f"{one.name} is forwarded to {one.target_host}:{one.target_port}",
            data=described(one.name),
        )

    async def remove(name: str) -> DataAnswer:
        await changed(lambda: forwarder.remove(name))
        return DataAnswer(message=f"{name} is deleted", data={"name": name})

    @api.post("/api/mapping/remove")
    async def remove_mapping(given: Named) -> DataAnswer:
        if (given.name is None) == (given.source_port is None):
            raise Problem(400, "give name or source_port")
        return await remove(given.name if given.name is not None else str(given.source_port))

    @api.delete("/api/mapping/{name:path}")
    async def delete_mapping(name: str) -> DataAnswer:
        return await remove(name)

    @api.get("/api/client/list")
    async def list_clients() -> ListAnswer:
        return ListAnswer(data=[of_client(name) for name in sorted(forwarder.clients)])

    def of_client(name: str) -> dict[str, Any]:
        meter = forwarder.meter("client", name)
        owned = sorted(n for n, m in forwarder.mappings.items() if m.client == name)
        return {
            **plain(forwarder.clients[name]), "name": name, "bytes_sent": meter.sent, "bytes_received": meter.received,
            "connections": meter.open, "mappings": owned, "refusal": meter.refusal(), "rule_rate_limit": meter.ruled.rate,
        }  # fmt: skip

    @api.post("/api/client/create")
    async def create_client(given: NewClient) -> DataAnswer:
        one = read_client(given.model_dump(exclude_unset=True))
        await changed(lambda: forwarder.put_client(one))
        return DataAnswer(data=of_client(one.name))

    @api.delete("/api/client/{name:path}")
    async def delete_client(name: str) -> DataAnswer:
        await changed(lambda: forwarder.remove_client(name))
        return DataAnswer(message=f"{name} is deleted", data={"name": name})


def talkers(forwarder: Forwarder, name: str, most: int = 5) -> list[dict[str, Any]]:
    """The visitors whose running connections moved most."""
    sums: dict[str, list[int]] = {}
    for one in forwarder.meter("mapping", name).running:
        at = sums.setdefault(getattr(one, "address", ""), [0, 0, 0])
        for i, value in enumerate((getattr(one, "rx", 0), getattr(one, "tx", 0), 1)):
            at[i] += value
    largest = sorted(sums.items(), key=lambda s: -s[1][0] - s[1][1])[:most]
    return [
        {"address": a, "bytes_received": rx, "bytes_sent": tx, "connections": n} for a, (rx, tx, n) in largest
    ]


def chosen(
    vantage: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    client: str | None = None,
) -> Selection:
    return Selection(
        vantage,
        kind,
        () if subject is None else (subject,),
        (),
        {} if client is None else {"client": (client,)},
    )


Chosen = Annotated[Selection, Depends(chosen)]


def _history(api: APIRouter, ledger: Ledger) -> None:
    def span(period: str, since: str | None, until: str | None) -> tuple[int, int]:
        end = int(time.time()) + 1 if until is None else calendar.moment(until, ledger.zone)
        begin = end - _LAST[period] if since is None else calendar.moment(since, ledger.zone)
        if not 0 <= begin < end <= calendar.LATEST:
            raise Problem(400, "the span ends before it begins, or is beyond all time")
        if (end - begin) / {"minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}[
            period
        ] > MOST_ROWS:
            raise Problem(400, f"more than {MOST_ROWS:,} buckets: ask for a shorter span or a longer period")
        return begin, end

    @api.get("/api/history")
    async def history_of(
        selection: Chosen,
        period: Period = "hour",
        since: str | None = None,
        until: str | None = None,
        by: str = "subject",
    ) -> DataAnswer:
        """What each moved in each hour, day or month."""
        begin, end = span(period, since, until)
        rows = await run_in_threadpool(history, ledger, period, begin, end, selection, by)
        return DataAnswer(
            data={"period": period, "time_zone": ledger.time_zone, "rows": shown.records(rows, ledger.zone)}
        )

    @api.get("/api/totals")
    async def totals_of(
        selection: Chosen, since: str | None = None, until: str | None = None, by: str = "subject"
    ) -> DataAnswer:
        """What each moved in a span of time, the largest first; the span is the last day where none is given."""
        begin, end = span("hour", since, until)
        found = await run_in_threadpool(totals, ledger, begin, end, selection, by)
        return DataAnswer(data={
            "since": calendar.show(found.since, ledger.zone), "until": calendar.show(found.until, ledger.zone),
            "rows": shown.records(found.sums, ledger.zone),
        })  # fmt: skip

    @api.get("/api/report", response_class=Response)
    async def report(
        selection: Chosen, format: Literal["csv", "json", "html", "png"] = "html", period: Period = "day",
        since: str | None = None, until: str | None = None, by: str = "subject", dark: bool = False,
    ) -> Response:  # fmt: skip
        """The same as a file."""
        begin, end = span(period, since, until)
        rows = await run_in_threadpool(history, ledger, period, begin, end, selection, by)
        title = f"Bandwidth by {by.removeprefix('label:')}, {calendar.show(begin, ledger.zone)[:16]} to {calendar.show(end, ledger.zone)[:16]}"
        zone, kind = (
            ledger.zone,
            {"csv": "text/csv", "json": "application/json", "html": "text/html", "png": "image/png"}[format],
        )
        body: str | bytes
        if format == "csv":
            body = shown.as_csv(rows, zone)
        elif format == "json":
            body = shown.as_json(rows, zone, {"period": period, "by": by, "time_zone": ledger.time_zone})
        else:
            draw: Callable[..., str | bytes] = shown.as_html if format == "html" else shown.as_png
            body = await run_in_threadpool(draw, rows, zone, period, "both", title, dark)
        name = {"Content-Disposition": f'attachment; filename="usage.{format}"'} if format != "html" else {}
        return Response(body, media_type=kind, headers=name)

    @api.get("/api/rules/log")
    async def rules_log(most: Annotated[int, Query(ge=1, le=10_000)] = 100) -> ListAnswer:
        """What rules did, the newest last."""
        entries = await run_in_threadpool(log, ledger, most=most)
        return ListAnswer(data=[{n: getattr(e, n) for n in e.__slots__} for e in entries])

    @api.get("/api/rules/effects")
    async def rules_effects() -> ListAnswer:
        """What rules hold now."""
        return ListAnswer(data=json.loads(json.dumps(await run_in_threadpool(effects, ledger))))
