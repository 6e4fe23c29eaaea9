"""The forwarder's part of the API: its statistics, pushed too, its mappings and clients."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from replaykit.errors import UsageError
from replaykit.ledger.done import effects
from replaykit.vantages.forwarder.accounts import VANTAGE
from replaykit.vantages.forwarder.mapping import client as read_client
from replaykit.vantages.forwarder.mapping import mapping as read_mapping
from replaykit.vantages.forwarder.mapping import plain
from replaykit.vantages.forwarder.server import Forwarder
from replaykit.web.answers import Answer, DataAnswer, ListAnswer, Problem
from replaykit.web.paging import Page

PUSH_S = 1.0


class Moved(BaseModel):
    """Bytes to visitors and from them, ever; when they last moved, in seconds since the epoch (0: never)."""

    bytes_sent: int
    bytes_received: int
    last_update: int


class PortMoved(BaseModel):
    """The same of the mapping of a port; `name` where others may have the port too: `example.com:8443`,
    `5300/udp`.
    """

    port: int
    name: str | None = None
    bytes_sent: int
    bytes_received: int
    last_update: int


class Traffic(BaseModel):
    tunnel: Moved
    mappings: list[PortMoved]
    total_sent: int
    total_received: int
    timestamp: int


class TrafficAnswer(Answer):
    data: Traffic


class NewMapping(BaseModel):
    """A mapping; what it has already is changed.

    `rate_limit` in bytes a second; `flow_limit_mb` in MB of 2^20.
    """

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


def traffic(forwarder: Forwarder) -> Traffic:
    """What all mappings and the tunnel have moved, ever."""
    mappings = []
    for name, one in sorted(forwarder.mappings.items(), key=lambda m: (m[1].source_port, m[0])):
        meter = forwarder.meter("mapping", name)
        mappings.append(
            PortMoved(
                port=one.source_port,
                name=None if one.protocol == "tcp" else name,
                bytes_sent=meter.sent,
                bytes_received=meter.received,
                last_update=meter.last_update,
            )
        )
    lines = [meter for (kind, _), meter in forwarder.meters.items() if kind == "tunnel"]
    tunnel = Moved(
        bytes_sent=sum(m.sent for m in lines),
        bytes_received=sum(m.received for m in lines),
        last_update=max((m.last_update for m in lines), default=0),
    )
    return Traffic(
        tunnel=tunnel,
        mappings=mappings,
        timestamp=int(time.time()),
        total_sent=tunnel.bytes_sent + sum(m.bytes_sent for m in mappings),
        total_received=tunnel.bytes_received + sum(m.bytes_received for m in mappings),
    )


def add_traffic(api: APIRouter, app: FastAPI, forwarder: Forwarder) -> None:
    @api.get("/api/stats/traffic", response_model_exclude_none=True)
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
                yield f"data: {traffic(forwarder).model_dump_json(exclude_none=True)}\n\n"
                count += 1
                if count == most:
                    return
                await asyncio.sleep(PUSH_S)

        return StreamingResponse(
            lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @app.websocket("/api/stats/ws")
    async def push(socket: WebSocket) -> None:
        """The statistics every second.

        A browser cannot set headers here, so the token may be the subprotocol too.
        """
        offered = socket.headers.get("sec-websocket-protocol", "")
        await socket.accept(subprotocol=offered.partition(",")[0].strip() or None)
        try:
            while True:
                await socket.send_text(traffic(forwarder).model_dump_json(exclude_none=True))
                await _silence(socket, PUSH_S)
        except WebSocketDisconnect:
            return


async def _silence(socket: WebSocket, seconds: float) -> None:
    """Waits; what a client says meanwhile is nothing to us, but that it has gone.

    Raises WebSocketDisconnect.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 1000))
    except TimeoutError:
        return


class _Asked:
    """What routes ask of the forwarder."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.forwarder = forwarder

    async def blocking(self) -> dict[tuple[str, str], str]:
        """By which rules mappings and clients are blocked."""
        if not any(meter.restraints for meter in self.forwarder.meters.values()):
            return {}
        held = await run_in_threadpool(effects, self.forwarder.ledger)
        return {
            (e["kind"], e["subject"]): e["rule"]
            for e in held
            if e["vantage"] == VANTAGE and e["effect"] != "rate_limit"
        }

    def refusals(self, kind: str, name: str, rules: dict[tuple[str, str], str]) -> list[str]:
        found = self.forwarder.refusals(kind, name)
        for (ruled, subject), rule in rules.items():
            text = f"{ruled} {subject}: blocked by a rule"
            found = [f"{text}: {rule}" if line == text else line for line in found]
        return found

    def described(self, name: str, rules: dict[tuple[str, str], str]) -> dict[str, Any]:
        one, meter = self.forwarder.mappings[name], self.forwarder.meter("mapping", name)
        route = self.forwarder.routes.get(name)
        return {
            **plain(one),
            "name": name,
            "protocol": one.protocol,
            "listen": one.listen,
            "port": one.source_port,
            "bytes_sent": meter.sent,
            "bytes_received": meter.received,
            "last_update": meter.last_update,
            "connections": meter.open,
            "running": route is not None,
            "refusal": meter.refusal(),
            "refusals": self.refusals("mapping", name, rules),
            "limits": meter.limits(),
            "rule_rate_limit": meter.ruled.rate,
            "troubles": route.troubles if route is not None else {},
            "top_talkers": talkers(self.forwarder, name),
        }

    def of_client(self, name: str, rules: dict[tuple[str, str], str]) -> dict[str, Any]:
        meter = self.forwarder.meter("client", name)
        owned = sorted(n for n, m in self.forwarder.mappings.items() if m.client == name)
        return {
            **plain(self.forwarder.clients[name]),
            "name": name,
            "bytes_sent": meter.sent,
            "bytes_received": meter.received,
            "connections": meter.open,
            "mappings": owned,
            "refusal": meter.refusal(),
            "refusals": self.refusals("client", name, rules),
            "limits": meter.limits(),
            "rule_rate_limit": meter.ruled.rate,
        }

    async def changed(self, change: Callable[[], Awaitable[Any]]) -> None:
        try:
            await change()
        except UsageError as error:
            text = str(error)
            raise Problem(
                404 if text.startswith("there is no") else 409 if "in use" in text else 400, text
            ) from None

    async def remove(self, name: str) -> DataAnswer:
        if name not in self.forwarder.mappings:
            raise Problem(404, f"there is no mapping {name}{_sharing(self.forwarder, name)}")
        await self.changed(lambda: self.forwarder.remove(name))
        return DataAnswer(message=f"{name} is deleted", data={"name": name})


def add_mappings(api: APIRouter, forwarder: Forwarder, open_to_others: bool) -> None:
    """Mappings and clients. open_to_others: whether mappings may listen beyond this machine."""
    asked = _Asked(forwarder)
    _add_mappings(api, asked, open_to_others)
    _add_clients(api, asked)


def _add_mappings(api: APIRouter, asked: _Asked, open_to_others: bool) -> None:
    @api.get("/api/mapping/list")
    async def list_mappings(page: Page, search: Annotated[str, Query(max_length=300)] = "") -> ListAnswer:
        """All of them, or those with this text in name, client, target or remark.

        `refusals`: why nobody is let in now.
        """
        rules, word = await asked.blocking(), search.lower()
        found = [
            name
            for name, m in sorted(asked.forwarder.mappings.items())
            if not word or any(word in text.lower() for text in (name, m.client, m.target_host, m.remark))
        ]
        return ListAnswer(data=[asked.described(name, rules) for name in page.of(found)])

    @api.get("/api/mapping/{name:path}")
    async def one_mapping(name: str) -> DataAnswer:
        """One, as in the list."""
        if name not in asked.forwarder.mappings:
            raise Problem(404, f"there is no mapping {name}{_sharing(asked.forwarder, name)}")
        return DataAnswer(data=asked.described(name, await asked.blocking()))

    @api.post("/api/mapping/create")
    async def create_mapping(given: NewMapping) -> DataAnswer:
        try:
            one = read_mapping(given.model_dump(exclude_unset=True))
        except UsageError as error:
            raise Problem(400, str(error)) from None
        if not open_to_others and not ipaddress.ip_address(one.listen).is_loopback:
            raise Problem(
                403,
                f"listen: {one.listen}: beyond this machine only where the API has a token: set"
                " REPLAYKIT_TOKEN, or use --map",
            )
        await asked.changed(lambda: asked.forwarder.put(one))
        return DataAnswer(
            message=f"{one.name} is forwarded to {one.target_host}:{one.target_port}",
            data=asked.described(one.name, await asked.blocking()),
        )

    @api.post("/api/mapping/remove")
    async def remove_mapping(given: Named) -> DataAnswer:
        if (given.name is None) == (given.source_port is None):
            raise Problem(400, "give name or source_port")
        return await asked.remove(given.name if given.name is not None else str(given.source_port))

    @api.delete("/api/mapping/{name:path}")
    async def delete_mapping(name: str) -> DataAnswer:
        return await asked.remove(name)


def _add_clients(api: APIRouter, asked: _Asked) -> None:
    @api.get("/api/client/list")
    async def list_clients(page: Page) -> ListAnswer:
        rules = await asked.blocking()
        return ListAnswer(
            data=[asked.of_client(name, rules) for name in page.of(sorted(asked.forwarder.clients))]
        )

    @api.post("/api/client/create")
    async def create_client(given: NewClient) -> DataAnswer:
        one = read_client(given.model_dump(exclude_unset=True))
        await asked.changed(lambda: asked.forwarder.put_client(one))
        return DataAnswer(data=asked.of_client(one.name, await asked.blocking()))

    @api.delete("/api/client/{name:path}")
    async def delete_client(name: str) -> DataAnswer:
        await asked.changed(lambda: asked.forwarder.remove_client(name))
        return DataAnswer(message=f"{name} is deleted", data={"name": name})


def _sharing(forwarder: Forwarder, name: str) -> str:
    """The mappings of a port, where somebody named the port."""
    there = sorted(n for n, m in forwarder.mappings.items() if str(m.source_port) == name)
    return f"; on port {name} there are {', '.join(there)}" if there else ""


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
