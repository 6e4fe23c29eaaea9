"""Pages beyond this machine, such as metrics: only with a token that who asks must bring, or where it is said
that all may.

Owns that decision and the check of each request, for every page that is not the API's. On this machine alone
only who names it is answered: a page in a browser may have a name of its own lead here. Needs no library.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replaykit.errors import UsageError


def local(host: str) -> bool:
    """Whether a Host header names this machine: a page of somebody else's could have its own name
    lead here.
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def permitted(header: str, token: str | None) -> bool:
    """Whether an Authorization header brings the token; how long that takes tells nothing of it."""
    if token is None:
        return True
    kind, _, given = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


@dataclass(frozen=True)
class Consent:
    """Who is answered. here: only who names this machine. token: only who brings it."""

    here: bool
    token: str | None = None

    def refusal(self, host: str, authorization: str) -> tuple[int, str] | None:
        """Status and why; None: answered."""
        if self.here:
            return None if local(host) else (403, "for this machine only")
        return (
            None if permitted(authorization, self.token) else (401, "give the token: Authorization: Bearer …")
        )


def consent(what: str, address: str, token: str | None, everybody: bool, how: str) -> Consent:
    """For a page at this address. what: names it; how: what lets everybody in.

    Raises UsageError where nothing was agreed to.
    """
    try:
        here = address in ("", "localhost") or ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        here = False
    if here:
        return Consent(True)
    if token is None and not everybody:
        raise UsageError(
            f"{what}: beyond this machine it needs a token: set REPLAYKIT_TOKEN, and give it to who asks,"
            " such as Prometheus as authorization: {credentials:"
            f" …}}{how and f'; or let everybody ask: {how}'}"
        )
    return Consent(False, None if everybody else token)


def guarded(app: Any, agreed: Consent) -> Any:
    """A WSGI application before another, which answers GET and HEAD."""

    def respond(environ: Any, start: Any) -> Iterable[bytes]:
        refused = agreed.refusal(environ.get("HTTP_HOST", ""), environ.get("HTTP_AUTHORIZATION", ""))
        if refused is not None:
            status = "403 Forbidden" if refused[0] == 403 else "401 Unauthorized"
            headers = [("Content-Type", "text/plain; charset=utf-8")]
            start(status, headers + ([("WWW-Authenticate", "Bearer")] if refused[0] == 401 else []))
            return [f"{refused[1]}\n".encode()]
        if environ["REQUEST_METHOD"] != "HEAD":
            return app(environ, start)  # type: ignore[no-any-return]
        said: list[Any] = []
        body = b"".join(app({**environ, "REQUEST_METHOD": "GET"}, lambda *given: said.append(given)))
        start(said[0][0], [*said[0][1], ("Content-Length", str(len(body)))])
        return []

    return respond
