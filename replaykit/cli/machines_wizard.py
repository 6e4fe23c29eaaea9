"""`replaykit machines config`: asks what the configuration needs, tries the connection as it goes, and writes
the file.

The file is pve-traffic-monitor's JSON, readable by its owner only; one that is there is kept beside it as
`.bak`.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replaykit.atomic_files import write_whole
from replaykit.errors import UsageError
from replaykit.plain import say
from replaykit.vantages.hypervisor.proxmox import Proxmox


def wizard(path: Path, ask: Callable[[str], str] = input, secret: Callable[[str], str] | None = None) -> int:
    """Exit status: 0 written, 1 not. Raises UsageError where nobody is there to answer."""
    hidden = secret or (getpass.getpass if sys.stdin.isatty() else ask)
    try:
        if path.exists() and not _yes(
            ask, f"{path} is there already. Replace it (it is kept as {path.name}.bak)?", False
        ):
            return 1
        config = {
            "pve": _pve(ask, hidden),
            "monitor": _monitor(ask),
            "storage": _storage(ask),
            "api": _api(ask, hidden),
            "rules": _rules(ask),
        }
    except EOFError:
        raise UsageError(
            "machines config: nobody is there to answer; write the file by hand (docs/machines.md)"
        ) from None
    if path.exists():
        os.replace(path, path.with_name(path.name + ".bak"))
    write_whole(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    say(f"wrote {path}. Next: replaykit machines list -config {path}, then replaykit machines -config {path}")
    return 0


def _text(ask: Callable[[str], str], question: str, default: str = "") -> str:
    return ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default


def _number(ask: Callable[[str], str], question: str, default: float, least: float) -> float:
    while True:
        text = _text(ask, question, f"{default:g}")
        try:
            value = float(text)
        except ValueError:
            value = least - 1
        if value >= least:
            return int(value) if value == int(value) else value
        say(f"a number, at least {least:g}")


def _choice(ask: Callable[[str], str], question: str, choices: tuple[str, ...], default: str) -> str:
    while True:
        found = _text(ask, f"{question} ({', '.join(choices)})", default)
        if found in choices:
            return found
        say(f"one of {', '.join(choices)}")


def _yes(ask: Callable[[str], str], question: str, default: bool) -> bool:
    return (
        _text(ask, f"{question} [{'Y/n' if default else 'y/N'}]") or ("y" if default else "n")
    ).lower() in ("y", "yes")


def _pve(ask: Callable[[str], str], hidden: Callable[[str], str]) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = {
            "host": _text(ask, "Proxmox VE host", "localhost"),
            "port": int(_number(ask, "port", 8006, 1)),
            "node": _text(ask, "node", "pve"),
            "api_token_id": _text(
                ask, "API token id (user@realm!name)", os.environ.get("PVE_API_TOKEN_ID", "")
            ),
            "api_token_secret": hidden("API token secret (empty: from PVE_API_TOKEN_SECRET): ").strip(),
        }
        if not _yes(ask, "verify its certificate?", True):
            found["verify_tls"] = False
        else:
            ca = _text(
                ask,
                "file of its certificate authority, such as /etc/pve/pve-root-ca.pem (empty: this system's)",
            )
            if ca:
                found["ca_file"] = ca
        try:
            token = found["api_token_secret"] or os.environ.get("PVE_API_TOKEN_SECRET", "")
            verify = found.get("ca_file") or found.get("verify_tls", True)
            proxmox = Proxmox(found["host"], found["api_token_id"], token, found["port"], verify)
            version, machines = proxmox.version(), proxmox.machines()
            say(f"Proxmox VE {version}: {len(machines)} machines, {sum(m.running for m in machines)} running")
            return found
        except (UsageError, OSError) as error:
            say(f"it does not work: {getattr(error, 'strerror', None) or error}")
            if _yes(ask, "keep it all the same?", False):
                return found


def _monitor(ask: Callable[[str], str]) -> dict[str, Any]:
    return {
        "interval_seconds": int(_number(ask, "seconds between polls", 60, 1)),
        "export_path": _text(ask, "folder of exports", "./exports"),
        "include_templates": _yes(ask, "templates too?", False),
        "data_retention_days": int(_number(ask, "days to keep (0: for ever)", 90, 0)),
    }


def _storage(ask: Callable[[str], str]) -> dict[str, Any]:
    kind = _choice(ask, "storage", ("sqlite", "file", "mysql", "postgresql"), "sqlite")
    if kind == "file":
        return {"type": kind, "file_path": _text(ask, "folder", "./data")}
    default = {
        "sqlite": "./data/pve_traffic.db",
        "mysql": "user:password@tcp(127.0.0.1:3306)/pve_traffic",
        "postgresql": "host=127.0.0.1 port=5432 user=replaykit password= dbname=pve_traffic",
    }[kind]
    return {"type": kind, "dsn": _text(ask, "DSN", default)}


def _api(ask: Callable[[str], str], hidden: Callable[[str], str]) -> dict[str, Any]:
    if not _yes(ask, "page and API?", True):
        return {"enabled": False, "host": "127.0.0.1", "port": 8080}
    found: dict[str, Any] = {
        "enabled": True,
        "host": _text(ask, "on which address", "127.0.0.1"),
        "port": int(_number(ask, "port", 8080, 1)),
    }
    token = hidden("token that callers must bring (empty: none, this machine only): ").strip()
    return {**found, "token": token} if token else found


def _rules(ask: Callable[[str], str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while _yes(ask, "another rule?" if found else "a rule?", not found):
        rule: dict[str, Any] = {
            "name": _text(ask, "name", f"rule_{len(found) + 1}"),
            "enabled": _yes(ask, "enabled?", True),
            "period": _choice(ask, "period", ("hour", "day", "month"), "month"),
            "use_creation_time": _yes(
                ask, "periods begin with each machine's creation, not the calendar's?", False
            ),
            "traffic_direction": _choice(ask, "direction", ("both", "upload", "download"), "both"),
            "limit_gb": _number(ask, "limit in GB", 1000, 0.001),
            "action": _choice(ask, "action", ("disconnect", "rate_limit", "shutdown", "stop"), "disconnect"),
        }
        if rule["action"] == "rate_limit":
            rule["rate_limit_mb"] = _number(ask, "rate in MB/s", 1, 0.001)
        tags = [
            t.strip()
            for t in _text(ask, "tags, with commas between (empty: all machines)").split(",")
            if t.strip()
        ]
        found.append({**rule, "vm_ids": [], "vm_tags": tags, "exclude_vm_ids": []})
    return found
