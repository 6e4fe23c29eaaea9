"""The configuration: pve-traffic-monitor's file as it is (JSON, all its keys), or the same in YAML, and what
we add to it.

`pve.verify_tls` (true), `pve.ca_file`, `libvirt.uri` in place of `pve`, `ledger` in place of `storage`,
`rules_file` for rules of our own kind. PVE_API_TOKEN_ID and PVE_API_TOKEN_SECRET come before what the file
says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replaykit.config.reading import Document, read_text
from replaykit.ledger.cleanup import Retention
from replaykit.ledger.selection import Selection
from replaykit.rules.actions import Action
from replaykit.rules.limits import Rule, Threshold
from replaykit.vantages.hypervisor.config_file import DIRECTIONS, MachineRule, MachinesFile

GIB = 1 << 30
MIB = 1 << 20
_COMMENTED = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


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
    """Raises UsageError that names file, lines and keys."""
    document = Document(uncommented(read_text(path)), path)
    found = document.checked(MachinesFile)
    hypervisor = {"kind": "libvirt", "uri": found.libvirt.uri} if found.libvirt is not None else {}
    if found.libvirt is None and found.pve is not None:
        hypervisor = found.pve.settings()
    ledger = found.ledger
    if ledger is None:
        ledger = "usage.db" if found.storage is None else found.storage.ledger
    monitor, api = found.monitor, found.api
    written = found.pve is not None and found.pve.api_token_secret
    return Config(
        hypervisor,
        int(monitor.interval_seconds),
        monitor.export_path or "exports",
        monitor.include_templates,
        int(monitor.data_retention_days),
        ledger,
        f"{api.host or '0.0.0.0'}:{api.port}" if api.enabled else "none",
        api.token or None,
        api.allow_origins,
        [_rule(one, document.line(("rules", n))) for n, one in enumerate(found.rules)],
        [one.plain() for one in found.rules],
        found.rules_file or None,
        [document.told(p) for p in found.strangers()],
        bool(api.token or written or re.search(r"://[^/@]*:[^/@]+@", ledger)),
    )


def uncommented(text: str) -> str:
    """JSON without `//` and `/* */`, as that project's documents have them; lines stay where they are.

    Other text as it is.
    """
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "//", "/*")):
        return text

    def left(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else "\n" * match[0].count("\n")

    return _COMMENTED.sub(left, text)


def _rule(one: MachineRule, line: int) -> Rule:
    """A rule of pve-traffic-monitor as one of the ledger's."""
    labels: dict[str, tuple[str, ...]] = {}
    if one.vm_ids:
        labels["vmid"] = one.vm_ids
    if one.vm_tags:
        labels["tags"] = tuple(t.strip().lower() for t in one.vm_tags)
    done = Action("stop" if one.action == "shutdown" and one.force_stop else one.action)
    if one.action == "rate_limit":
        done = Action("rate_limit", int(one.rate_limit_mb * MIB))
    exclude = tuple(x for i in one.exclude_vm_ids for x in (i, f"{i}@*"))
    return Rule(
        one.name,
        Selection("hypervisor", "machine", (), exclude, labels),
        "bytes",
        DIRECTIONS[one.traffic_direction],
        one.period,
        anchored=one.use_creation_time,
        limit=one.limit_gb * GIB,
        thresholds=(Threshold(1.0, (done,)),),
        enabled=one.enabled,
        line=line,
    )
