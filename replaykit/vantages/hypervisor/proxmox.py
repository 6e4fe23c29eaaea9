"""Proxmox VE by its API and a token, with proxmoxer: all nodes of a cluster, QEMU and containers.

A poll is one call (`GET cluster/resources?type=vm`). Changes carry the digest of the configuration they were
made from, so a concurrent one is refused instead of lost; tasks are followed to their end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.vantages.hypervisor.machine import Details, Machine, Nic

TIMEOUT_S = 15
SHUTDOWN_S = 180
"""For a guest to end by itself; then Proxmox VE stops it (`forceStop`)."""


class Proxmox:
    """token: `user@realm!name` and its secret. verify: True, False, or a file of certificates.

    Raises UsageError.
    """

    def __init__(
        self,
        host: str,
        token_id: str,
        secret: str,
        port: int = 8006,
        verify: bool | str = True,
        templates: bool = False,
        shutdown_s: int = SHUTDOWN_S,
    ) -> None:
        try:
            from proxmoxer import ProxmoxAPI
        except ImportError:
            raise needs("Proxmox VE needs proxmoxer", "proxmox") from None
        user, found, name = token_id.partition("!")
        if not found or not name or "@" not in user:
            raise UsageError(f"api_token_id {token_id!r}: write user@realm!name, such as monitor@pve!traffic")
        if not secret:
            raise UsageError("api_token_secret: is empty; set PVE_API_TOKEN_SECRET")
        self.name = f"{host}:{port}"
        self._templates, self._shutdown_s = templates, shutdown_s
        if verify is False:
            import urllib3

            urllib3.disable_warnings()  # it was asked for, and is said once at the start
        self._api = ProxmoxAPI(
            host,
            port=port,
            user=user,
            token_name=name,
            token_value=secret,
            verify_ssl=verify,
            timeout=TIMEOUT_S,
        )

    def _ask(self, what: Any, **given: Any) -> Any:
        """what: a method of proxmoxer's."""
        import requests
        from proxmoxer import AuthenticationError, ResourceException

        try:
            return what(**given)
        except AuthenticationError as error:
            raise UsageError(f"{self.name}: {error}") from None
        except ResourceException as error:
            why = str(error.content or error.status_message)
            if "does not exist" in why:
                raise KeyError(f"{self.name}: {why}") from None
            text = f"{error.status_code} {why}"
            if error.status_code == 401:
                text = "the token is not accepted: see api_token_id and api_token_secret"
            elif error.status_code == 403:
                text = f"the token may not do that: {why}"
            raise UsageError(f"{self.name}: {text}{f': {error.errors}' if error.errors else ''}") from None
        except requests.exceptions.SSLError as error:
            raise UsageError(
                f"{self.name}: its certificate is not trusted ({_last(error)}); give ca_file, or verify_tls:"
                " false"
            ) from None
        except requests.exceptions.RequestException as error:
            raise OSError(0, f"{self.name}: {_last(error)}") from None
        except ValueError:
            raise UsageError(f"{self.name}: a response that is no JSON: is that Proxmox VE?") from None

    def version(self) -> str:
        found = self._ask(self._api.version.get)
        return str(found.get("version", "")) if isinstance(found, dict) else ""

    def machines(self) -> list[Machine]:
        rows = self._ask(self._api.cluster.resources.get, type="vm")
        if not isinstance(rows, list):
            raise UsageError(f"{self.name}: a response that makes no sense: is that Proxmox VE?")
        return [m for m in map(_machine, rows) if m is not None and (self._templates or not m.template)]

    def _place(self, machine: Machine) -> Any:
        return self._api.nodes(machine.node)(machine.type)(machine.id)

    def _config(self, machine: Machine) -> dict[str, Any]:
        found = self._ask(self._place(machine).config.get)
        return found if isinstance(found, dict) else {}

    def details(self, machine: Machine) -> Details:
        config = self._config(machine)
        meta = dict(p.partition("=")[::2] for p in str(config.get("meta", "")).split(","))
        found = []
        for name, text in config.items():  # a container's netN, and cloud-init's ipconfigN
            if name.rstrip("0123456789") in ("net", "ipconfig"):
                parts = dict(p.partition("=")[::2] for p in str(text).split(","))
                found += [parts[n].partition("/")[0] for n in ("ip", "ip6") if parts.get(n, "")[:1].isalnum()]
        addresses = tuple(a for a in found if any(c in a for c in ".:"))  # not dhcp, manual, auto
        return Details(int(meta["ctime"]) if meta.get("ctime", "").isdigit() else None, addresses)

    def nics(self, machine: Machine) -> dict[str, Nic]:
        return {name: _nic(text) for name, text in _nets(self._config(machine)).items()}

    def set_nics(self, machine: Machine, wanted: Mapping[str, Nic]) -> None:
        config = self._config(machine)
        changes = {}
        for name, text in _nets(config).items():
            nic = wanted.get(name)
            if nic is not None and _nic(text) != nic:
                changes[name] = _written(text, nic)
        if changes:  # one call: all or none
            self._ask(self._place(machine).config.put, **changes, digest=config.get("digest", ""))

    def power(self, machine: Machine, action: str) -> str:
        given = {"timeout": self._shutdown_s, "forceStop": 1} if action == "shutdown" else {}
        return str(self._ask(self._place(machine).status(action).post, **given))

    def outcome(self, machine: Machine, task: str) -> str | None:
        node = task.split(":")[1] if task.startswith("UPID:") and task.count(":") > 2 else machine.node
        found = self._ask(self._api.nodes(node).tasks(task).status.get)
        if found.get("status") != "stopped":
            return None
        end = str(found.get("exitstatus", ""))
        return "" if end == "OK" or end.startswith("WARNINGS") else end or "it ended without saying how"


def _machine(row: Any) -> Machine | None:
    if not isinstance(row, dict) or row.get("type") not in ("qemu", "lxc") or "vmid" not in row:
        return None
    try:
        counters = {}
        if "netin" in row and "netout" in row and row.get("status") == "running":
            counters = {"all": (int(row["netin"]), int(row["netout"]))}
        return Machine(
            str(int(row["vmid"])),
            str(row.get("name", "")),
            str(row.get("node", "")),
            row["type"],
            str(row.get("status", "unknown")),
            counters,
            tuple(t.lower() for t in str(row.get("tags", "")).replace(",", ";").split(";") if t.strip()),
            bool(row.get("template")),
            int(row.get("uptime") or 0),
        )
    except (TypeError, ValueError):
        return None


def _nets(config: Mapping[str, Any]) -> dict[str, str]:
    return {n: str(v) for n, v in config.items() if n.startswith("net") and n[3:].isdigit()}


def _nic(text: str) -> Nic:
    """Of `virtio=AA:BB:…,bridge=vmbr0,rate=10,link_down=1`."""
    parts = dict(p.partition("=")[::2] for p in text.split(","))
    try:
        rate = float(parts.get("rate", 0) or 0)
    except ValueError:
        rate = 0.0
    return Nic(parts.get("link_down", "0") not in ("1", "yes", "on", "true"), rate or None)


def _written(text: str, nic: Nic) -> str:
    """The same with its rate and link as wanted; all else in its order."""
    parts = [p for p in text.split(",") if p.partition("=")[0] not in ("rate", "link_down")]
    if nic.rate is not None:
        parts.append(f"rate={max(nic.rate, 0.001):.6g}")  # what is rounded to nothing would be no limit
    if not nic.connected:
        parts.append("link_down=1")
    return ",".join(parts)


def _last(error: BaseException) -> str:
    """The reason at the bottom of what requests and urllib3 wrapped around it."""
    seen: BaseException = error
    for _ in range(8):
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = getattr(seen, "verify_message", None) or getattr(seen, "strerror", None) or str(seen)
    return str(text).rpartition(": ")[2][:200].lower() if "Connection" in str(text) else str(text)[:200]
