"""For Prometheus: what each user and each interface moved, ever. They only grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replaykit.consent import consent, guarded
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.vantages.netfilter.watch import Watch

_NAMES = (
    ("rx_bytes", "RX bytes"),
    ("tx_bytes", "TX bytes"),
    ("rx_packets", "RX packets"),
    ("tx_packets", "TX packets"),
)


class UserMetrics:
    """A collector of prometheus_client."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        places = sorted(self._watch.places.items())
        interfaces = sorted(self._watch.interfaces.items())
        for at, (name, text) in enumerate(_NAMES):
            order = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets").index(name)
            users = GaugeMetricFamily(
                f"net_user_{name}",
                f"{text} per user (monotonic counter)",
                labels=["user_code", "user_intra_ip"],
            )
            for (code, address), counts in places:
                users.add_metric([code, address], counts[order])
            yield users
            whole = GaugeMetricFamily(
                f"net_interface_{name}", f"{text} as reported by sysfs (monotonic)", labels=["iface"]
            )
            for interface, counts in interfaces:
                whole.add_metric([interface], counts[at])
            yield whole


def serve(watch: Watch, address: str, port: int, token: str | None = None) -> Any:
    """At /metrics; gives what to shut down. Beyond this machine only with a token, which who asks must bring.

    Raises UsageError.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
    except ImportError:
        raise needs("--prometheus needs its client", "prometheus") from None
    agreed = consent(f"--prometheus {address}:{port}", address, token, False, "")
    registry = CollectorRegistry()
    registry.register(UserMetrics(watch))
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(f"--prometheus {address}:{port}: {(error.strerror or str(error)).lower()}") from None
    server.set_app(guarded(make_wsgi_app(registry), agreed))
    return server
