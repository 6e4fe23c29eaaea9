"""Following a response that sends elsewhere (RFC 9110 §15.4), as long as it is the same target."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from replaykit.engine import head
from replaykit.replaying.job import Job, Response
from replaykit.replaying.target import Target

_FOLLOWED = frozenset((301, 302, 303, 307, 308))


def follow(job: Job, response: Response, target: Target) -> Job | None:
    """The request that follows a response; None where it leads away from the target, or nowhere."""
    location = head.value(response.payload[: head.end(response.payload)], b"location")
    request = bytes(job.request)
    line = head.request(request)
    if response.status not in _FOLLOWED or location is None or line is None:
        return None
    method, path = line
    base = f"{target.scheme}://{target.authority}{request[slice(*path)].decode('latin-1')}"
    there = urlsplit(urljoin(base, response.payload[slice(*location)].decode("latin-1")))
    if (there.scheme, there.netloc) != (target.scheme, target.authority):
        return None
    to = (there.path or "/") + (f"?{there.query}" if there.query else "")
    size = head.end(request)
    new_head, body = head.splice(request[:size], path, to.encode("latin-1", "replace")), request[size:]
    name = request[slice(*method)]
    # 303, and by custom 301 and 302 after POST, are followed with GET (RFC 9110 §15.4.2 to §15.4.4).
    if name != b"HEAD" and (response.status == 303 or (response.status in (301, 302) and name == b"POST")):
        new_head = b"GET" + new_head[method[1] :]
        new_head = head.without(new_head, (b"content-length", b"transfer-encoding", b"content-type"))
        body = b""
    return replace(job, data=new_head + body, redirects=job.redirects + 1)
