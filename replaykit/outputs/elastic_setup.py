"""What Elasticsearch must know before the first document: templates, and ILM where the server has it.

Owns the kinds of documents and where each goes: a data stream, or daily indices where the server has
no data streams.
"""

from __future__ import annotations

from typing import Any

from replaykit.errors import UsageError
from replaykit.outputs.ecs import mappings

KINDS = ("exchanges", "minutes", "hosts")
HOT = {"max_primary_shard_size": "25gb", "max_age": "1d"}


def policy(kind: str) -> dict[str, Any]:
    """Hot, warm, cold, delete: exchanges are kept 90 days, what is added up by minute 400."""
    return {
        "phases": {
            "hot": {"actions": {"rollover": HOT if kind == "exchanges" else HOT | {"max_age": "30d"}}},
            "warm": {"min_age": "2d", "actions": {"forcemerge": {"max_num_segments": 1}}},
            "cold": {"min_age": "14d", "actions": {"set_priority": {"priority": 0}}},
            "delete": {"min_age": "90d" if kind == "exchanges" else "400d", "actions": {"delete": {}}},
        }
    }


def set_up(client: Any, name: str) -> bool:
    """Installs the templates, and ILM where the server has it; may be repeated. True: data streams.

    Raises UsageError.
    """
    from elasticsearch import ApiError, TransportError

    try:
        streams = _has_streams(client)
        for kind in KINDS:
            _install(client, f"{name}-{kind}", kind, streams)
    except (ApiError, TransportError) as error:
        raise UsageError(f"elasticsearch: cannot be set up: {reason(error)}") from None
    return streams


def _install(client: Any, name: str, kind: str, streams: bool) -> None:
    settings: dict[str, Any] = {
        "index": {"number_of_replicas": "1", "sort": {"field": "@timestamp", "order": "desc"}}
    }
    if streams:
        client.ilm.put_lifecycle(name=name, policy=policy(kind))
        settings["index"]["lifecycle"] = {"name": name}
    client.cluster.put_component_template(name=f"{name}-mappings", template={"mappings": mappings(kind)})
    client.cluster.put_component_template(name=f"{name}-settings", template={"settings": settings})
    template: dict[str, Any] = {
        "name": name,
        "index_patterns": [f"{name}-*"],
        "composed_of": [f"{name}-mappings", f"{name}-settings"],
        "priority": 200,
    }
    if streams:
        template |= {"data_stream": {}, "index_patterns": [name]}
    client.indices.put_index_template(**template)


def _has_streams(client: Any) -> bool:
    """Data streams and ILM are there; the distribution without x-pack has neither."""
    from elasticsearch import ApiError

    try:
        client.indices.get_data_stream(name="*")
        client.ilm.get_lifecycle()
    except ApiError as error:
        if error.status_code in (400, 404, 405):
            return False
        raise
    return True


def reason(error: Exception) -> str:
    """What went wrong, in one line of bounded length."""
    return " ".join(str(error).split())[:300]
