"""What commands that serve the API and the live page share: where it listens, who may ask, and the server."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from replaykit.cli.options.shared import ApiOptions
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.settings import secret

if TYPE_CHECKING:
    from replaykit.ledger.store import Ledger


class NeedsToken(UsageError):
    """Beyond this machine, and without a token."""


def place(flag: str, text: str) -> tuple[str, int]:
    """Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"{flag} {text}: write ADDRESS:PORT, such as 127.0.0.1:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def listen(text: str, given: str | None = None) -> tuple[socket.socket | None, str | None]:
    """The socket of --api, None for `none`, and the token: `given`, else the environment's.

    Raises UsageError.
    """
    from replaykit.vantages.forwarder.tcp import bound

    token = given or secret("REPLAYKIT_TOKEN")
    if text == "none":
        return None, token
    where = place("--api", text)
    try:
        made = bound(*where, socket.SOCK_STREAM)
        made.listen(128)
    except (UsageError, OSError) as error:
        why = str(error).rpartition(": ")[2] if isinstance(error, UsageError) else str(error.strerror).lower()
        raise UsageError(
            f"the API and the page cannot listen on {text} ({why}): give --api ADDRESS:PORT for another"
            " place, or --api none"
        ) from None
    if token is None and not ipaddress.ip_address(made.getsockname()[0]).is_loopback:
        made.close()
        raise NeedsToken(f"--api {text}: beyond this machine the API needs a token: set REPLAYKIT_TOKEN")
    return made, token


def origins(args: ApiOptions) -> list[str]:
    """Of --allow-origin. Raises UsageError."""
    if not args.allow_origin:
        return []
    from replaykit.web.admission import origin

    return [origin(text) for text in args.allow_origin]


def url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def uvicorn_server(ledger: Ledger, *parts: Any, **more: Any) -> Any:
    """Of `create_app` with these. Its `serve` takes the sockets. Raises UsageError."""
    try:
        import uvicorn

        from replaykit.web.app import create_app
    except ImportError as error:
        what = needs(f"the API needs {error.name}", "forward")
        raise UsageError(f"{what}, or give --api none") from None

    class Server(uvicorn.Server):
        """Signals are the command's."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    app = create_app(ledger, *parts, **more)
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=1 << 16,
        server_header=False,
    )
    return Server(settings)


def serve_beside(ledger: Ledger, listening: socket.socket, **more: Any) -> None:
    """In a thread of its own, until the process ends. Raises UsageError."""
    import asyncio
    import threading

    server = uvicorn_server(ledger, **more)
    threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True, name="api").start()
