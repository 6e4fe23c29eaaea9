"""How responses travel: HEAD wherever there is GET, compressed, and not again to whoever has them already.

Owns what RFC 9110 says of HEAD (§9.3.2) and of If-None-Match (§13.1.2), for every route at once. Streams pass
as they are.
"""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware

MOST_TAGGED_BYTES = 64 << 20
"""A response beyond it has no ETag."""
_LEAST_BYTES = 1024
_LEVEL = 5
_OF_BODY = ("content-length", "content-encoding", "content-type")
"""A 304 has all headers of its 200 but these: a browser takes what it says in place of what it kept."""


class Delivery:
    """An ASGI application around another: HEAD, then compression, then ETags."""

    def __init__(self, app: Any) -> None:
        self._app = Heads(GZipMiddleware(Tags(app), _LEAST_BYTES, _LEVEL))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


class Heads:
    """HEAD is GET without the body; of a stream too, which is begun and ended."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        begun = False

        async def receiving() -> Any:
            """Whoever answers without end is told that nobody listens."""
            return {"type": "http.disconnect"} if begun else await receive()

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, receiving, sending)


class Tags:
    """A weak ETag of the body for what the API answers to GET, and 304 where it is the asker's already."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("if-none-match", "")
        tagged = scope["path"].startswith("/api/")
        held: Any = None
        done = False

        async def sending(message: Any) -> None:
            nonlocal held, done
            if done:
                return
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if message["status"] == 200 and tagged:
                    headers.setdefault("Cache-Control", "private, no-cache")
                    headers.add_vary_header("Accept-Encoding")
                if message["status"] == 200 and "etag" in headers:
                    done = same(asked, headers["etag"])
                    await send(_unchanged(headers) if done else message)
                    if done:
                        await send({"type": "http.response.body", "body": b""})
                    return
                if message["status"] == 200 and tagged and headers["cache-control"] != "no-store":
                    held = message
                    return
            elif held is not None and message["type"] == "http.response.body":
                start, held = held, None
                body = message.get("body", b"")
                if not message.get("more_body", False) and len(body) <= MOST_TAGGED_BYTES:
                    headers = MutableHeaders(scope=start)
                    headers["ETag"] = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
                    if same(asked, headers["etag"]):
                        start, message = _unchanged(headers), {**message, "body": b""}
                await send(start)
            await send(message)

        await self._app(scope, receive, sending)


def same(asked: str, tag: str) -> bool:
    """Whether If-None-Match names this tag, compared weakly."""
    known = [one.strip().removeprefix("W/") for one in asked.split(",")]
    return asked.strip() == "*" or tag.removeprefix("W/") in known


def _unchanged(headers: MutableHeaders) -> dict[str, Any]:
    kept = [(name, value) for name, value in headers.raw if name.decode("latin-1").lower() not in _OF_BODY]
    return {"type": "http.response.start", "status": 304, "headers": kept}
