"""Where replayed traffic goes: a URL, and how it is spoken to."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from replaykit.errors import UsageError


@dataclass(frozen=True)
class Target:
    """`scheme` http or https; `path` and `query` as in the URL, or empty."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def authority(self) -> str:
        """The Host field: without a port that the scheme implies."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return name if self.port == usual else f"{name}:{self.port}"

    @property
    def local(self) -> bool:
        """On this machine's loopback."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def context(self, verify: bool, ca: str | None, protocols: list[str]) -> ssl.SSLContext | None:
        """TLS for https. Raises UsageError where the CA file cannot be read."""
        if self.scheme == "http":
            return None
        return tls_context(verify, ca, protocols)


def tls_context(verify: bool, ca: str | None, protocols: list[str] | None = None) -> ssl.SSLContext:
    """A client's. Raises UsageError."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca}: no readable CA certificate: {error}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def parse_target(text: str) -> Target:
    """`http://host[:port][/path]`; without a scheme, http. Raises UsageError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{text!r} is no target: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{text!r} is no target: write http://HOST[:PORT] or https://HOST[:PORT]")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    path = "" if parts.path == "/" else parts.path
    return Target(url, parts.scheme, parts.hostname, port, path, parts.query)
