"""Who may ask the API, and how much: judged before anything of a request is read.

Owns the checks of Host, of where a browser says that a request comes from, of the token and the brake on
wrong ones, the limits on bodies and on streams, and the headers that keep responses out of other sites'
pages. A browser on this machine is the danger: any page in it can send requests to 127.0.0.1. Programs send
none of a browser's headers, and need none.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from replaykit.consent import local, permitted
from replaykit.errors import UsageError

MOST_BODY_BYTES = 1 << 20
MOST_STREAMS = 64
"""WebSockets and server-sent events, all together."""
PAGES = ("/", "/api/stats/monitor")
_READING = ("GET", "HEAD")
_TRIES = 5
_SECONDS_A_TRY = 6.0
_KNOWN_S = 3600.0
_MOST_PLACES = 10_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def origin(text: str) -> str:
    """An origin as browsers send it, of what a person gave to --allow-origin. Raises UsageError."""
    parts = urlsplit(text)
    try:
        found = _origin(text)
    except ValueError:
        found = None
    if found is None or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise UsageError(
            f"--allow-origin {text}: write a front end's scheme, host and port: http://localhost:5173"
        )
    return found


def _origin(text: str) -> str | None:
    """Without a port that goes without saying; None where it is none, such as `null`."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    usual = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, usual) else f":{parts.port}")


class Brake:
    """So many wrong tokens at once from a place, then one every few seconds.

    Where the right one has come from lately, somebody else's guesses do not lock out who has it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By place: how many tries it has used, and when that was so."""
        self._right: OrderedDict[str, float] = OrderedDict()
        """By place: when the right token came from there."""

    def wait_s(self, place: str) -> float:
        """How long until a token from there is looked at; 0: it is now."""
        return max(0.0, (self._used(place) - _TRIES + 1) * _SECONDS_A_TRY)

    def failed(self, place: str) -> None:
        self._spent[place] = self._used(place) + 1, self._clock()
        self._spent.move_to_end(place)
        if len(self._spent) > _MOST_PLACES:
            self._spent.popitem(last=False)

    def succeeded(self, place: str) -> None:
        self._right[place] = self._clock()
        self._right.move_to_end(place)
        if len(self._right) > _MOST_PLACES:
            self._right.popitem(last=False)

    def is_known(self, place: str) -> bool:
        """Whether the right token has come from there lately."""
        at = self._right.get(place)
        return at is not None and self._clock() - at < _KNOWN_S

    def _used(self, place: str) -> float:
        used, at = self._spent.get(place, (0.0, 0.0))
        return max(0.0, used - (self._clock() - at) / _SECONDS_A_TRY)


class Timing:
    """How long responses took, in milliseconds: of all, and of the last hundred."""

    def __init__(self) -> None:
        self._count, self._sum, self._least, self._most = 0, 0.0, 0.0, 0.0
        self._recent: deque[float] = deque(maxlen=100)

    def took(self, milliseconds: float) -> None:
        self._least = min(self._least, milliseconds) if self._count else milliseconds
        self._most = max(self._most, milliseconds)
        self._count, self._sum = self._count + 1, self._sum + milliseconds
        self._recent.append(milliseconds)

    def shown(self) -> dict[str, float]:
        return {
            "total_requests": self._count,
            "avg_response_ms": round(self._sum / max(1, self._count), 3),
            "recent100_avg_ms": round(sum(self._recent) / max(1, len(self._recent)), 3),
            "max_response_ms": round(self._most, 3),
            "min_response_ms": round(self._least, 3),
        }


class Admission:
    """An ASGI application around another. token: None: none is needed, and only this machine is answered.
    origins: of other front ends, whose pages may ask as our own does.
    """

    def __init__(
        self,
        app: Any,
        token: str | None = None,
        origins: Sequence[str] = (),
        brake: Brake | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._app, self._token, self._origins = app, token, frozenset(origins)
        self._brake = brake or Brake()
        self._streams, self._timing = 0, timing or Timing()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asking = headers.get("origin")
        friend = asking is not None and asking in self._origins
        send = self._with_headers(send, asking if friend else None)
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and asking is not None:
            await self._preflight(headers, friend)(scope, receive, send)
            return
        refusal = self._refusal(scope, headers, friend)
        if refusal is not None:
            await self._refuse(scope, receive, send, refusal)
            return
        stream = scope["type"] == "websocket" or scope["path"] == "/api/stats/events"
        if stream and self._streams >= MOST_STREAMS:
            busy = _refused(503, f"{MOST_STREAMS} streams are open already; ask /api/stats/traffic")
            await self._refuse(scope, receive, send, busy)
            return
        self._streams += stream
        begun = time.perf_counter()
        try:
            await self._app(scope, self._bounded(scope, receive), send)
        finally:
            self._streams -= stream
            if not stream:
                self._timing.took(1000 * (time.perf_counter() - begun))

    def _refusal(self, scope: Any, headers: Headers, friend: bool) -> Response | None:
        if self._token is None and not all(map(local, headers.getlist("host") or [""])):
            return _refused(400, "without a token the API answers to 127.0.0.1, [::1] and localhost only")
        if not friend and self._foreign(scope, headers):
            text = "this comes from another site's page; --allow-origin names front ends that may ask"
            return _refused(403, text)
        given = headers.get("content-length", "")
        if given.isdigit() and int(given) > MOST_BODY_BYTES:
            return _refused(413, f"a body of more than {MOST_BODY_BYTES:,} bytes", {"Connection": "close"})
        return self._unauthorized(scope, headers)

    def _foreign(self, scope: Any, headers: Headers) -> bool:
        """Whether a browser says that another site's page asks. Pages themselves may be linked to."""
        asking, host = headers.get("origin"), headers.get("host", "")
        if asking is not None:
            own = _origin(asking)
            if own is None or own not in (_origin(f"http://{host}"), _origin(f"https://{host}")):
                return True
        site, into = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-dest", "")
        if scope["type"] == "http" and scope["method"] in _READING:
            if scope["path"] in PAGES:
                return site in ("cross-site", "same-site") and into not in ("document", "")
            return site == "cross-site" or (site == "same-site" and into != "document")
        return site in ("cross-site", "same-site")

    def _unauthorized(self, scope: Any, headers: Headers) -> Response | None:
        path: str = scope["path"]
        if self._token is None or not path.startswith("/api/") or path in PAGES:
            return None
        given = headers.get("authorization", "")
        if not given and "x-api-token" in headers:  # as pve-traffic-monitor's clients send it
            given = f"Bearer {headers['x-api-token']}"
        if not given and scope["type"] == "websocket":  # a browser can set no headers here
            offered = headers.get("sec-websocket-protocol", "").rpartition(",")[2].strip()
            given = f"Bearer {offered}" if offered else ""
        place = _place(scope)
        right = permitted(given, self._token)
        wait = self._brake.wait_s(place) if given else 0.0
        if wait and not self._brake.is_known(place):
            # Also the right token: else the response would tell a guess from it, however many are made.
            text = f"too many wrong tokens from {place}: try again in {wait:.0f} s"
            return _refused(429, text, {"Retry-After": f"{wait:.0f}"})
        if right:
            self._brake.succeeded(place)
            return None
        if wait:
            return _refused(429, f"too many wrong tokens from {place}", {"Retry-After": f"{wait:.0f}"})
        if given:
            self._brake.failed(place)
        return _refused(401, "give the token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    async def _refuse(self, scope: Any, receive: Any, send: Any, response: Response) -> None:
        """A WebSocket is refused with a response to its handshake."""
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await receive()
            await send({"type": "websocket.close", "code": 4403, "reason": "refused"})
            return
        await response(scope, receive, send)

    def _preflight(self, headers: Headers, friend: bool) -> Response:
        if not friend:
            return _refused(403, "this origin may not ask; --allow-origin names front ends that may")
        allowed = {
            "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, X-API-Token, If-None-Match",
            "Access-Control-Max-Age": "600",
        }
        if "access-control-request-private-network" in headers:
            allowed["Access-Control-Allow-Private-Network"] = "true"
        return Response(status_code=204, headers=allowed)

    def _with_headers(self, send: Any, friend: str | None) -> Any:
        async def sending(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.add_vary_header("Origin")
                if friend is not None:
                    headers["Access-Control-Allow-Origin"] = friend
                    headers["Access-Control-Allow-Credentials"] = "true"
                    headers["Access-Control-Expose-Headers"] = "ETag, Link, Retry-After, X-Total-Count"
            await send(message)

        return sending

    def _bounded(self, scope: Any, receive: Any) -> Any:
        """Bodies whose length nobody gave are counted as they come."""
        if scope["type"] != "http":
            return receive
        count = 0

        async def receiving() -> Any:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > MOST_BODY_BYTES:
                text = f"a body of more than {MOST_BODY_BYTES:,} bytes"
                raise HTTPException(413, text, {"Connection": "close"})
            return message

        return receiving


def _place(scope: Any) -> str:
    """Who asks: an address, or an IPv6 network of /64, which one machine has whole."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    return str(found) if found.version == 4 else str(ipaddress.ip_network(f"{found}/64", strict=False))


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"success": False, "message": message}, status, headers)
