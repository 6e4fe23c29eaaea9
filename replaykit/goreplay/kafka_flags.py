"""The flags that say which Kafka is read from, or written to: the same for both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replaykit.outputs.kafka import Broker


def broker(flags: Mapping[str, Any], side: str) -> Broker:
    """side: `input` or `output`."""
    from replaykit.outputs.kafka import Broker

    own = ("host", "topic", "json_format", "use_sasl", "mechanism", "username", "password")
    shared = ("ca_cert", "client_cert", "client_key")
    names = (*(f"{side}_kafka_{name}" for name in own), *(f"kafka_tls_{name}" for name in shared))
    return Broker(*(flags[name] for name in names))
