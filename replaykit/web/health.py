"""`/health` and `/metrics` of a running pipeline, on 127.0.0.1 unless told, and beyond it only where that was
agreed to.

Owns the responses, not what they say: a function gives that, quickly, from any thread.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from replaykit.consent import Consent, consent
from replaykit.errors import UsageError
from replaykit.extras import needs

if TYPE_CHECKING:
    from prometheus_client import Metric


class Health:
    """address: `[HOST]:PORT`. status: `ok` and whatever else is known; `metrics`: names with labels to
    numbers.

    token: what must be brought beyond this machine; without it probes are told there whether all is well, and
    no more. everybody: nothing must be brought. Raises UsageError where nothing can listen, or neither was
    agreed to.
    """

    def __init__(
        self,
        address: str,
        status: Callable[[], Mapping[str, Any]],
        token: str | None = None,
        everybody: bool = False,
    ) -> None:
        host, port, agreed = place(address, token, everybody)

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                found = status()
                refused = agreed.refusal(self.headers.get("Host", ""), self.headers.get("Authorization", ""))
                if refused is not None and (refused[0], self.path) == (401, "/health"):
                    found, refused = {"ok": found["ok"]}, None
                if refused is not None:
                    self._say(refused[0], "text/plain; charset=utf-8", f"{refused[1]}\n".encode())
                elif self.path == "/health":
                    body = json.dumps({k: v for k, v in found.items() if k != "metrics"}).encode()
                    self._say(200 if found["ok"] else 503, "application/json", body)
                elif self.path == "/metrics":
                    self._say(*exposition(found["metrics"], self.headers.get("Accept", "")))
                else:
                    self._say(404, "text/plain", b"there are /health and /metrics\n")

            def _say(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                if status == 401:
                    self.send_header("WWW-Authenticate", "Bearer")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: probes come every few seconds."""

        try:
            self._server = http.server.ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"health: {address}: cannot listen: {(error.strerror or str(error)).lower()}"
            ) from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def place(address: str, token: str | None, everybody: bool) -> tuple[str, int, Consent]:
    """Where it listens, and who is answered there. Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"health: {address!r}: write [HOST]:PORT, such as 127.0.0.1:9901")
    host = host.strip("[]") or "127.0.0.1"
    return host, int(port), consent(f"health: {address}", host, token, everybody, "health_open: true")


def exposition(
    metrics: Mapping[tuple[str, tuple[tuple[str, str], ...]], float], accepted: str
) -> tuple[int, str, bytes]:
    """Status, kind and page in the format of Prometheus that is asked for; names that end in _total are
    counters.

    Where its client is not installed, what to install: `/health` needs none, so that is said only here.
    """
    try:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.registry import Collector
    except ImportError:
        said = str(needs("/metrics needs its client", "prometheus"))
        return 501, "text/plain; charset=utf-8", f"{said}\n".encode()

    class Given(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, group in groupby(sorted(metrics.items()), lambda item: item[0][0]):
                made = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                rows = [(dict(labels), value) for (_, labels), value in group]
                family = made(name, "", labels=list(rows[0][0]))
                for labels, value in rows:
                    family.add_metric(list(labels.values()), value)
                yield family

    encode, kind = choose_encoder(accepted)
    return 200, kind, encode(Given())
