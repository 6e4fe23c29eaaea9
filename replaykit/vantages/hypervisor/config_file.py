"""The machines' configuration, as its file declares it: pve-traffic-monitor's keys, and what we add to them.

Keys of its top, of `monitor` and of `api` that are not known are left alone, with a warning: other versions
of that project have others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field

from replaykit.config.kinds import Flag, Kind, Many, Text, Texts, as_text, number, one_of
from replaykit.config.places import Location, Problem
from replaykit.config.sections import Open, Section
from replaykit.config.wording import missing, unknown, wrong

DIRECTIONS = {"both": "both", "": "both", "upload": "tx", "tx": "tx", "download": "rx", "rx": "rx"}
ACTIONS = ("shutdown", "stop", "disconnect", "rate_limit")
PERIODS = ("hour", "day", "month")
_STORAGE = {
    "": "file",
    "file": "file",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "mysql": "mysql",
} | dict.fromkeys(("postgres", "postgresql"), "postgresql")

_MYSQL = re.compile(r"(?:([^:@/]*)(?::(.*))?@)?(?:tcp\(([^)]*)\))?/([^?]+)(?:\?.*)?")


def _direction(given: Any) -> str:
    text = as_text(given)
    if text not in DIRECTIONS:
        raise wrong(f"{text!r}: choose from {', '.join(d for d in DIRECTIONS if d)}")
    return text


def _named(given: Any) -> str:
    text = as_text(given)
    if not text:
        raise wrong("is empty")
    return text


def _some(given: Any) -> float:
    amount: float = number(0).read(given)
    if amount <= 0:
        raise wrong("more than nothing")
    return amount


def _storage_type(given: Any) -> str:
    text = as_text(given).lower()
    if text not in _STORAGE:
        raise wrong(f"{text!r}: choose from file, sqlite, mysql, postgresql")
    return _STORAGE[text]


Direction = Annotated[str, Kind(_direction, {"type": "string", "enum": list(DIRECTIONS)})]
Host = Annotated[str, Kind(_named, {"type": "string", "minLength": 1})]
StorageType = Annotated[str, Kind(_storage_type, {"type": "string", "examples": list(_STORAGE)[1:]})]
GiB = Annotated[float, Kind(_some, {"type": "number", "exclusiveMinimum": 0})]


class Pve(Section):
    """Proxmox VE: where it is, and the token."""

    host: Host = Field(description="Any node of the cluster")
    port: Annotated[int, number(1, 65_535, whole=True)] = Field(8006, description="Its API's port")
    node: Text = Field("", description="Read and not needed: all nodes are asked at once")
    api_token_id: Text = Field("", description="USER@REALM!NAME; PVE_API_TOKEN_ID comes before it")
    api_token_secret: Text = Field("", description="Its secret; PVE_API_TOKEN_SECRET comes before it")
    verify_tls: Flag = Field(True, description="Whether its certificate is verified")
    ca_file: Text = Field("", description="Who signed it (PEM), such as /etc/pve/pve-root-ca.pem")

    @property
    def token(self) -> tuple[str, str]:
        """Id and secret; the environment comes first."""
        found = os.environ.get("PVE_API_TOKEN_ID"), os.environ.get("PVE_API_TOKEN_SECRET")
        return found[0] or self.api_token_id, found[1] or self.api_token_secret

    def settings(self) -> dict[str, Any]:
        """As the program has them."""
        token, secret = self.token
        verify = self.ca_file if self.verify_tls and self.ca_file else self.verify_tls
        return {
            "kind": "proxmox",
            "host": self.host,
            "port": self.port,
            "token_id": token,
            "secret": secret,
            "verify": verify,
        }


class Libvirt(Section):
    """libvirt, in place of Proxmox VE."""

    uri: Text = Field(description="Such as qemu:///system")


class Monitor(Open):
    """How machines are watched."""

    interval_seconds: Annotated[float, number(1)] = Field(60, description="How often they are asked")
    export_path: Text = Field("exports", description="Where exports are written")
    include_templates: Flag = Field(False, description="Whether templates count as machines")
    data_retention_days: Annotated[float, number(0)] = Field(
        0, description="So long usage is kept; 0: for ever"
    )


class Storage(Open):
    """Where usage is kept, as pve-traffic-monitor spells it; how many connections a database has is not
    needed.
    """

    type: StorageType = Field("file", description="file, sqlite, mysql or postgresql")
    file_path: Text = Field("", description="With type file: the folder")
    dsn: Text = Field("", description="With other types: the database")

    def troubles(self) -> Iterator[Problem]:
        """What is wrong with it, where it is what counts."""
        if self.type == "file":
            if not self.file_path and not self.dsn:
                yield Problem((), "file_path: is needed with type file")
        elif not self.dsn:
            yield Problem((), f"dsn: is needed with type {self.type}")
        elif self.type == "mysql" and _MYSQL.fullmatch(self.dsn) is None:
            yield Problem(("dsn",), "write user:password@tcp(host:3306)/database")
        elif self.type == "postgresql" and "://" not in self.dsn and "dbname" not in _parts(self.dsn):
            yield Problem(("dsn",), "write host=… port=… user=… password=… dbname=…")

    @property
    def ledger(self) -> str:
        """As our ledgers are called."""
        if self.type == "file":
            return f"files:{self.file_path or self.dsn}"
        if self.type == "sqlite":
            return f"sqlite:///{self.dsn.removeprefix('file:').partition('?')[0]}"
        return _mysql(self.dsn) if self.type == "mysql" else _postgresql(self.dsn)


class Api(Open):
    """The API and its page."""

    enabled: Flag = Field(False, description="Whether there is one")
    host: Text = Field("127.0.0.1", description="The address that it listens on")
    port: Annotated[int, number(0, 65_535, whole=True)] = Field(8080, description="The port there")
    token: Text = Field("", description="Who asks must know it; needed beyond this machine")
    allow_origins: Texts = Field((), description="Front ends of your own that may ask it")


class MachineRule(Section):
    """How much machines may move in which time, and what happens then."""

    name: Text = Field(description="Its own among all rules")
    enabled: Flag = Field(False, description="Whether it counts at all")
    period: Annotated[str, one_of(PERIODS)] = Field(description="hour, day or month")
    use_creation_time: Flag = Field(False, description="Periods begin with the machine's creation")
    traffic_direction: Direction = Field("both", description="As the machine sees it")
    limit_gb: GiB = Field(description="GB of 2^30 bytes")
    action: Annotated[str, one_of(ACTIONS)] = Field(description="What happens beyond it")
    force_stop: Flag = Field(False, description="With action shutdown: stops at once")
    rate_limit_mb: Annotated[float, number(0)] = Field(0.0, description="With action rate_limit: MB a second")
    vm_ids: Texts = Field((), description="Only these machines")
    vm_tags: Texts = Field((), description="Only machines with one of these tags")
    exclude_vm_ids: Texts = Field((), description="Not these machines")

    def disagreements(self) -> Iterator[Problem]:
        if self.action == "rate_limit" and self.rate_limit_mb <= 0:
            yield Problem((), "rate_limit_mb: more than nothing, with action rate_limit")

    def plain(self) -> dict[str, Any]:
        """As that project's API shows it."""
        found = self.model_dump(mode="json")
        found["traffic_direction"] = self.traffic_direction or "both"
        for name in ("vm_ids", "exclude_vm_ids"):
            found[name] = [int(i) if i.isdigit() else i for i in found[name]]
        return found


class MachinesFile(Open):
    """What `replaykit machines -config` reads: pve-traffic-monitor's configuration, and what
    replaykit adds.
    """

    pve: Pve | None = Field(None, description="Proxmox VE")
    libvirt: Libvirt | None = Field(None, description="libvirt, in place of pve")
    monitor: Monitor = Field(Monitor(), description="How machines are watched")
    storage: Storage | None = Field(None, description="Where usage is kept, as pve-traffic-monitor spells it")
    ledger: Text | None = Field(None, description="A ledger, in place of storage: a file or a database's URL")
    api: Api = Field(Api(), description="The API and its page")
    rules: Many[MachineRule] = Field((), description="How much machines may move")
    rules_file: Text = Field("", description="Rules of replaykit's own kind, in a file of their own")

    def disagreements(self) -> Iterator[Problem]:
        if self.libvirt is None and self.pve is None:
            yield Problem((), missing("pve"))
        elif self.libvirt is None and self.pve is not None and not all(self.pve.token):
            text = (
                "api_token_id and api_token_secret: give both, or PVE_API_TOKEN_ID and PVE_API_TOKEN_SECRET"
            )
            yield Problem(("pve",), text)
        if self.ledger is None and self.storage is not None:
            yield from (Problem(("storage", *p.at), p.text) for p in self.storage.troubles())
        names: set[str] = set()
        for n, rule in enumerate(self.rules):
            if rule.name in names:
                yield Problem(("rules", n), f"there are two rules named {rule.name!r}")
            names.add(rule.name)

    def strangers(self) -> Iterator[Problem]:
        """Keys that are not known, and left alone."""
        parts: tuple[tuple[Location, Open], ...] = (
            ((), self),
            (("monitor",), self.monitor),
            (("api",), self.api),
        )
        for at, part in parts:
            yield from (Problem((*at, n), unknown(n, part.known())) for n in part.model_extra or ())


def _mysql(dsn: str) -> str:
    """Of `user:password@tcp(host:3306)/database?charset=utf8mb4`."""
    match = _MYSQL.fullmatch(dsn)
    assert match is not None
    user, password, place, database = match.groups()
    who = quote(user or "root", safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"mysql://{who}@{place or '127.0.0.1:3306'}/{database}"


def _postgresql(dsn: str) -> str:
    """Of `host=… port=… user=… password=… dbname=…`, or a URL."""
    if "://" in dsn:
        return dsn.replace("postgres://", "postgresql://", 1)
    parts = _parts(dsn)
    who = quote(parts.get("user", "postgres"), safe="")
    who += f":{quote(parts['password'], safe='')}" if parts.get("password") else ""
    mode = f"?sslmode={parts['sslmode']}" if "sslmode" in parts else ""
    return f"postgresql://{who}@{parts.get('host', '127.0.0.1')}:{parts.get('port', '5432')}/{parts['dbname']}{mode}"  # noqa: E501


def _parts(dsn: str) -> dict[str, str]:
    return {k: v.strip("'") for k, v in re.findall(r"(\w+)\s*=\s*('[^']*'|\S+)", dsn)}
