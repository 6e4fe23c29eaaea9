"""The configuration: pve-traffic-monitor's file as it is (JSON, all its keys), or the same in YAML, and what we add to it.

`pve.verify_tls` (true), `pve.ca_file`, `libvirt.uri` in place of `pve`, `ledger` in place of `storage`, `rules_file` for rules of
our own kind. PVE_API_TOKEN_ID and PVE_API_TOKEN_SECRET come before what the file says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from replaykit.config.declared import Section, parse
from replaykit.errors import UsageError
from replaykit.ledger.cleanup import Retention
from replaykit.ledger.selection import Selection
from replaykit.rules.actions import Action
from replaykit.rules.limits import Rule, Threshold

GIB = 1 << 30
MIB = 1 << 20
_DIRECTIONS = {"both": "both", "": "both", "upload": "tx", "tx": "tx", "download": "rx", "rx": "rx"}
_COMMENTED = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_ACTIONS = ("shutdown", "stop", "disconnect", "rate_limit")


@dataclass(frozen=True)
class Config:
    """given: the rules as the file has them, for the API. token: of the API; None: none."""

    hypervisor: Mapping[str, Any]
    interval_s: int = 60
    export_path: str = "exports"
    templates: bool = False
    retention_days: int = 0
    ledger: str = "usage.db"
    api: str = "none"
    token: str | None = None
    origins: Sequence[str] = ()
    rules: Sequence[Rule] = ()
    given: Sequence[Mapping[str, Any]] = ()
    rules_file: str | None = None
    warnings: Sequence[str] = field(default=())
    secret: bool = False
    """Whether the file holds one: a token's, or a database's password."""

    @property
    def retention(self) -> Retention | None:
        if not self.retention_days:
            return None
        seconds = self.retention_days * 86_400
        return Retention(minute=seconds, hour=seconds, day=seconds)


def read_config(path: str) -> Config:
    """Raises UsageError that names file, line and key."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    top = parse(uncommented(text), path)
    warnings: list[str] = []
    hypervisor = _hypervisor(top)
    monitor, api = _section(top, "monitor"), _section(top, "api")
    interval = int(_number(monitor, "interval_seconds", 60, 1))
    export_path = _text(monitor, "export_path", "exports") or "exports"
    templates, days = (
        _flag(monitor, "include_templates", False),
        int(_number(monitor, "data_retention_days", 0, 0)),
    )
    ledger = _ledger(top, Path(path).parent)
    enabled, host, port = (
        _flag(api, "enabled", False),
        _text(api, "host", "127.0.0.1"),
        int(_number(api, "port", 8080, 0)),
    )
    token = _text(api, "token", "") or None
    rules: list[Rule] = []
    given: list[dict[str, Any]] = []
    listed = top.get("rules")
    for item in () if listed is None else listed.items():
        section = item.section()
        one, plain = _rule(section)
        if any(r.name == one.name for r in rules):
            raise section.error(f"there are two rules named {one.name!r}")
        rules.append(one)
        given.append(plain)
    allowed = None if api is None else api.get("allow_origins")
    rules_file = _text(top, "rules_file", "") or None
    for part in (monitor, api):
        if part is not None:
            warnings += _unknown(part)
    warnings += _unknown(top)
    return Config(
        hypervisor, interval, export_path, templates, days, ledger, f"{host or '0.0.0.0'}:{port}" if enabled else "none", token,
        () if allowed is None else allowed.texts(), rules, given, rules_file, warnings, _secret(top, token, ledger),
    )  # fmt: skip


def _secret(top: Section, token: str | None, ledger: str) -> bool:
    pve = _section(top, "pve")
    written = "" if pve is None else _text(pve, "api_token_secret", "")
    return bool(token or written or re.search(r"://[^/@]*:[^/@]+@", ledger))


def uncommented(text: str) -> str:
    """JSON without `//` and `/* */`, as that project's documents have them; lines stay where they are. Other text as it is."""
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "//", "/*")):
        return text

    def left(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else "\n" * match[0].count("\n")

    return _COMMENTED.sub(left, text)


def _unknown(section: Section) -> list[str]:
    try:
        section.done()
    except UsageError as error:
        return [str(error)]
    return []


def _section(top: Section, name: str) -> Section | None:
    value = top.get(name)
    return None if value is None else value.section()


def _text(section: Section | None, name: str, default: str) -> str:
    value = None if section is None else section.get(name)
    return default if value is None else value.text()


def _number(section: Section | None, name: str, default: float, least: float) -> float:
    value = None if section is None else section.get(name)
    if value is None:
        return default
    number = value.number()
    if number < least:
        raise value.error(f"at least {least:g}")
    return number


def _flag(section: Section | None, name: str, default: bool) -> bool:
    value = None if section is None else section.get(name)
    return default if value is None else value.flag()


def _hypervisor(top: Section) -> Mapping[str, Any]:
    libvirt = _section(top, "libvirt")
    if libvirt is not None:
        found = {"kind": "libvirt", "uri": libvirt.need("uri").text()}
        libvirt.done()
        return found
    pve = top.need("pve").section()
    host = pve.need("host").text()
    if not host:
        raise pve.error("host: is empty")
    port = _number(pve, "port", 8006, 1)
    if port > 65_535:
        raise pve.error("port: 1 to 65535")
    token, secret = _text(pve, "api_token_id", ""), _text(pve, "api_token_secret", "")
    token = os.environ.get("PVE_API_TOKEN_ID") or token
    secret = os.environ.get("PVE_API_TOKEN_SECRET") or secret
    pve.get("node")  # all nodes of the cluster are asked at once
    verify = _flag(pve, "verify_tls", True)
    ca = _text(pve, "ca_file", "")
    if not token or not secret:
        raise pve.error(
            "api_token_id and api_token_secret: give both, or PVE_API_TOKEN_ID and PVE_API_TOKEN_SECRET"
        )
    pve.done()
    return {
        "kind": "proxmox", "host": host, "port": int(port), "token_id": token, "secret": secret, "verify": ca if verify and ca else verify,
    }  # fmt: skip


def _ledger(top: Section, folder: Path) -> str:
    own = top.get("ledger")
    storage = _section(top, "storage")
    if own is not None:
        return own.text()
    if storage is None:
        return "usage.db"
    kind = _text(storage, "type", "file").lower()
    for name in ("max_open_conns", "max_idle_conns", "conn_max_lifetime"):
        storage.get(name)  # the ledger has its own
    path, dsn = _text(storage, "file_path", ""), _text(storage, "dsn", "")
    if kind in ("file", ""):
        if not path and not dsn:
            raise storage.error("file_path: is needed with type file")
        return f"files:{path or dsn}"
    if not dsn:
        raise storage.error(f"dsn: is needed with type {kind}")
    if kind in ("sqlite", "sqlite3"):
        return f"sqlite:///{dsn.removeprefix('file:').partition('?')[0]}"
    if kind in ("postgres", "postgresql"):
        return _postgresql(storage, dsn)
    if kind == "mysql":
        return _mysql(storage, dsn)
    raise storage.error(f"type: {kind!r}: choose from file, sqlite, mysql, postgresql")


def _mysql(storage: Section, dsn: str) -> str:
    """Of `user:password@tcp(host:3306)/database?charset=utf8mb4`."""
    match = re.fullmatch(r"(?:([^:@/]*)(?::(.*))?@)?(?:tcp\(([^)]*)\))?/([^?]+)(?:\?.*)?", dsn)
    if match is None:
        raise storage.error("dsn: write user:password@tcp(host:3306)/database")
    user, password, place, database = match.groups()
    who = quote(user or "root", safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"mysql://{who}@{place or '127.0.0.1:3306'}/{database}"


def _postgresql(storage: Section, dsn: str) -> str:
    """Of `host=… port=… user=… password=… dbname=…`, or a URL."""
    if "://" in dsn:
        return dsn.replace("postgres://", "postgresql://", 1)
    parts = {k: v.strip("'") for k, v in re.findall(r"(\w+)\s*=\s*('[^']*'|\S+)", dsn)}
    if "dbname" not in parts:
        raise storage.error("dsn: write host=… port=… user=… password=… dbname=…")
    who = quote(parts.get("user", "postgres"), safe="")
    who += f":{quote(parts['password'], safe='')}" if parts.get("password") else ""
    mode = f"?sslmode={parts['sslmode']}" if "sslmode" in parts else ""
    return f"postgresql://{who}@{parts.get('host', '127.0.0.1')}:{parts.get('port', '5432')}/{parts['dbname']}{mode}"


def _rule(s: Section) -> tuple[Rule, dict[str, Any]]:
    """A rule of pve-traffic-monitor as one of the ledger's, and as it was."""
    plain: dict[str, Any] = {"name": s.need("name").text(), "enabled": _flag(s, "enabled", False)}
    plain["period"] = s.need("period").choice(("hour", "day", "month"))
    plain["use_creation_time"] = _flag(s, "use_creation_time", False)
    direction = _text(s, "traffic_direction", "both")
    if direction not in _DIRECTIONS:
        raise s.error(
            f"traffic_direction: {direction!r}: choose from {', '.join(d for d in _DIRECTIONS if d)}"
        )
    plain["traffic_direction"] = direction or "both"
    plain["limit_gb"] = s.need("limit_gb").number()
    if plain["limit_gb"] <= 0:
        raise s.error("limit_gb: more than nothing")
    action = plain["action"] = s.need("action").choice(_ACTIONS)
    plain["force_stop"] = _flag(s, "force_stop", False)
    plain["rate_limit_mb"] = _number(s, "rate_limit_mb", 0, 0)
    if action == "rate_limit" and plain["rate_limit_mb"] <= 0:
        raise s.error("rate_limit_mb: more than nothing, with action rate_limit")
    for name in ("vm_ids", "vm_tags", "exclude_vm_ids"):
        value = s.get(name)
        plain[name] = [] if value is None else [str(v) for v in value.texts()]
    s.done()
    labels: dict[str, tuple[str, ...]] = {}
    if plain["vm_ids"]:
        labels["vmid"] = tuple(plain["vm_ids"])
    if plain["vm_tags"]:
        labels["tags"] = tuple(t.strip().lower() for t in plain["vm_tags"])
    done = (
        Action("rate_limit", int(plain["rate_limit_mb"] * MIB)) if action == "rate_limit" else Action(action)
    )
    if action == "shutdown" and plain["force_stop"]:
        done = Action("stop")
    exclude = tuple(x for i in plain["exclude_vm_ids"] for x in (i, f"{i}@*"))
    rule = Rule(
        plain["name"], Selection("hypervisor", "machine", (), exclude, labels), "bytes", _DIRECTIONS[direction],
        plain["period"], anchored=plain["use_creation_time"], limit=plain["limit_gb"] * GIB, thresholds=(Threshold(1.0, (done,)),),
        enabled=plain["enabled"], line=s.line,
    )  # fmt: skip
    for name in ("vm_ids", "exclude_vm_ids"):
        plain[name] = [int(i) if i.isdigit() else i for i in plain[name]]
    return rule, plain
