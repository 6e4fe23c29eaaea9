"""Statistics in InfluxDB's line protocol, by HTTP and a spool, or into a file.

A point is what was added since the last one: sums of an interval, so that a query adds them up. A point
that is written twice is the same point, and counts once.
"""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pyarrow as pa

from replaykit.atomic_files import Growing
from replaykit.attribution.labels import Labels, method
from replaykit.attribution.minutes import SUMS, add, by_minute
from replaykit.errors import UsageError
from replaykit.outputs.delivery.drain import Drain, Later
from replaykit.outputs.files import line_ends
from replaykit.outputs.output import Output, Rotation
from replaykit.outputs.settings import secret, state_folder
from replaykit.plain import visible
from replaykit.records.message import Messages
from replaykit.units import parse_duration, parse_size

MEASUREMENT = "replaykit"
INTERVAL_S = 10.0


class Points:
    """Sums exchanges, or all that moved, until `take`, which gives lines."""

    def __init__(self, observer: str) -> None:
        self._observer, self._labels = observer, Labels()
        self._parts: list[pa.Table] = []
        self._since = time.monotonic()
        self._last = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._parts.append(by_minute(batch))
        if len(self._parts) > 64:
            self._parts = [add(self._parts)]

    def due(self, interval_s: float) -> bool:
        return bool(self._parts) and time.monotonic() - self._since >= interval_s

    def take(self) -> list[str]:
        """A line per endpoint, host, method and status."""
        self._since = time.monotonic()
        if not self._parts:
            return []
        table, self._parts = add(self._parts), []
        at = self._last = max(time.time_ns(), self._last + 1)
        rows: dict[tuple[str, ...], list[float]] = {}
        for row in table.to_pylist():
            status = "" if row["status"] is None else str(row["status"])
            key = (self._labels.of(row["endpoint"]), row["host"] or "", method(row["method"]), status)
            sums = rows.setdefault(key, [0.0] * len(SUMS))
            for i, name in enumerate(SUMS):
                sums[i] += row[name] or 0
        return [self._line(key, sums, at) for key, sums in rows.items()]

    def _line(self, key: tuple[str, ...], sums: list[float], at: int) -> str:
        names = ("endpoint", "host", "method", "status")
        tags = "".join(f",{n}={_escaped(v)}" for n, v in zip(names, key, strict=True) if v)
        fields = ",".join(f"{name}={value!r}" for name, value in zip(SUMS, sums, strict=True))
        return f"{MEASUREMENT}{tags},observer={_escaped(self._observer)} {fields} {at}"


def _escaped(text: str) -> str:
    """A tag's value (InfluxDB's line protocol: commas, equals signs and blanks; no line ends; no last
    backslash).
    """
    plain = visible(" ".join(text.splitlines()))
    for special in ",= ":
        plain = plain.replace(special, f"\\{special}")
    return plain + "_" if plain.endswith("\\") else plain


class _Server:
    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self.sent = 0
        self.refused = 0
        self.trouble: str | None = None

    def deliver(self, record: bytes) -> None:
        count = record.count(b"\n")
        request = urllib.request.Request(self._url, record, self._headers, method="POST")
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            text = error.read(300).decode("utf-8", "replace").strip()
            if error.code not in (400, 413, 422):  # credentials and buckets can be put right meanwhile
                raise Later(f"{error.code} {text}") from None
            self.refused += count
            self.trouble = f"{error.code} {text}"
        except OSError as error:
            raise Later(str(error)) from None
        else:
            self.sent += count

    def close(self) -> None:
        """Each request has a connection of its own."""


class InfluxOutput:
    """`influxdb://[user:password@]host:8086/BUCKET[?org=ORG&tls=1&interval=10s&spool=DIR&spool-size=100MB]`.

    With an organisation or INFLUX_TOKEN the API of version 2, else that of version 1, where the bucket is a
    database. Raises UsageError.
    """

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        parts = urlsplit(target)
        given = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        shown = f"influxdb://{parts.hostname or ''}"
        unknown = set(given) - {"org", "tls", "interval", "spool", "spool-size", "observer"}
        try:
            port = parts.port or 8086
        except ValueError:
            port = 0
        bucket = unquote(parts.path.strip("/"))
        if not parts.hostname or not bucket or not port:
            raise UsageError(f"{shown}: write influxdb://HOST:8086/BUCKET")
        if unknown:
            raise UsageError(f"{shown}: there is no option {sorted(unknown)[0]!r}")
        token = secret("INFLUX_TOKEN")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.target = f"{'https' if given.get('tls') not in (None, '0') else 'http'}://{host}:{port}"
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if token is not None or "org" in given:
            query = {"org": given.get("org", ""), "bucket": bucket, "precision": "ns"}
            url = f"{self.target}/api/v2/write?{urlencode(query)}"
            if token is not None:
                headers["Authorization"] = f"Token {token}"
        else:
            url = f"{self.target}/write?{urlencode({'db': bucket, 'precision': 'ns'})}"
            if parts.username is not None:
                import base64

                pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        self._interval_s = parse_duration(given.get("interval", f"{INTERVAL_S:g}s"))
        self._points = Points(given.get("observer") or socket.gethostname())
        folder = Path(given.get("spool") or state_folder() / f"influxdb-{parts.hostname}-{port}-{bucket}")
        self._drain = Drain(
            folder, parse_size(given.get("spool-size", "100MB")), lambda: _Server(url, headers)
        )

    def exchanges(self, batch: pa.RecordBatch) -> None:
        self._points.add(batch)

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        self._points.add(moved)

    def messages(self, messages: Messages) -> None:
        """Points are of exchanges."""

    def flush(self) -> None:
        if self._points.due(self._interval_s):
            self._put()

    def _put(self) -> None:
        lines = self._points.take()
        if lines:
            self._drain.put(("\n".join(lines) + "\n").encode(), len(lines))

    def close(self) -> None:
        """Raises UsageError if something was refused, dropped, or is left in the spool."""
        self._put()
        self._drain.finish(self.target, "points")


class LineProtocolFile:
    """`traffic.lp`: points appended to a file, in whole lines."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.target = target
        self._file = Growing(target, rotation.existing)
        self._points = Points(socket.gethostname())

    def exchanges(self, batch: pa.RecordBatch) -> None:
        self._points.add(batch)

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        self._points.add(moved)

    def messages(self, messages: Messages) -> None:
        """Points are of exchanges."""

    def flush(self) -> None:
        if self._points.due(INTERVAL_S):
            self._write()

    def _write(self) -> None:
        lines = self._points.take()
        if lines:
            self._file.write(("\n".join(lines) + "\n").encode(), line_ends)

    def close(self) -> None:
        self._write()
        self._file.close()


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `influxdb://` and `*.lp`."""
    if target.startswith("influxdb://"):
        return InfluxOutput(target, rotation)
    return LineProtocolFile(target, rotation) if target.endswith(".lp") and "://" not in target else None
