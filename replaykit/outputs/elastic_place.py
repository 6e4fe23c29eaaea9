"""Where an Elasticsearch is, how it is spoken to, and where its spool lies (the extra `elasticsearch`).

Credentials come from the environment, from files it names, or from the URL; they are never shown.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.settings import secret, state_folder
from replaykit.units import parse_size

NAME = "replaykit"
WHAT = ("exchanges", "minutes")


@dataclass(frozen=True)
class Place:
    """url: of the server, without credentials. name: what names of data streams and indices begin with.

    what: the kinds of documents that exchanges become. observer: this host's name in them.
    """

    url: str
    name: str
    spool: Path
    spool_bytes: int
    login: tuple[str, str] | None = None
    api_key: str | None = None
    ca: str | None = None
    verify: bool = True
    what: tuple[str, ...] = WHAT
    observer: str = ""


def parse_place(target: str) -> Place:
    """`elasticsearch://[user:password@]host:9200[/NAME][?spool=DIR&spool-size=1GB&tls=1&ca=FILE&insecure=1]`.

    `what=minutes` sends statistics by minute only, `what=exchanges` no statistics; `observer=NAME`: this
    host. Credentials may also come from ELASTICSEARCH_API_KEY, ELASTICSEARCH_USERNAME and
    ELASTICSEARCH_PASSWORD, or from files named by these with _FILE. Raises UsageError.
    """
    parts = urlsplit(target)
    given = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = set(given) - {"spool", "spool-size", "tls", "ca", "insecure", "what", "observer"}
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
    what = tuple(given.get("what", ",".join(WHAT)).split(","))
    if not set(what) <= set(WHAT):
        raise UsageError(f"{shown}: what={given['what']}: choose from {', '.join(WHAT)}")
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    user, password = secret("ELASTICSEARCH_USERNAME"), secret("ELASTICSEARCH_PASSWORD")
    if login is None and user is not None:
        login = (user, password or "")
    tls = given.get("tls") not in (None, "0") or "ca" in given
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    folder = given.get("spool") or str(state_folder() / f"elasticsearch-{parts.hostname}-{port}-{name}")
    return Place(
        f"{'https' if tls else 'http'}://{host}:{port}",
        name,
        Path(folder),
        parse_size(given.get("spool-size", "1GB")),
        login,
        secret("ELASTICSEARCH_API_KEY"),
        given.get("ca"),
        given.get("insecure") in (None, "0"),
        what,
        given.get("observer") or socket.gethostname(),
    )


def connect(place: Place) -> Any:
    """The official client. Raises UsageError where it is not installed."""
    try:
        from elasticsearch import Elasticsearch
    except ImportError:
        raise needs("elasticsearch:// needs its client", "elasticsearch") from None
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
