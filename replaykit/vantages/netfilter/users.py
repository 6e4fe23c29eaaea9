"""Who is behind a mark or an address: the map of users, from YAML, CSV or JSON, by file, command or HTTP.

Owns the reading of it, and the reading again: a file when it changes, the others every EVERY_S. A map that cannot be read
any more stays as it was, and that is said once.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replaykit.config.reading import stamp
from replaykit.errors import UsageError

EVERY_S = 60.0
_LONGEST = 64 << 20


@dataclass(frozen=True)
class User:
    """code: as the user is called everywhere. networks: prefixes that are all theirs."""

    code: str
    name: str = ""
    addresses: Sequence[str] = ()
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    marks: Sequence[int] = ()

    @property
    def prefixes(self) -> list[str]:
        """All that is theirs, addresses and networks."""
        return [*self.addresses, *map(str, self.networks)]


@dataclass(frozen=True)
class Users:
    """All of them, to be asked by key: an address, or `mark:0x10`."""

    users: Sequence[User] = ()
    _by_key: Mapping[str, User] = field(default_factory=dict)
    _networks: Sequence[tuple[Any, User]] = ()

    @staticmethod
    def of(users: Sequence[User]) -> Users:
        """Raises UsageError where two claim the same."""
        keys: dict[str, User] = {}
        for user in users:
            for key in (*user.addresses, *(f"mark:{m:#x}" for m in user.marks)):
                if key in keys:
                    raise UsageError(f"{key} is said to be of {keys[key].code} and of {user.code}")
                keys[key] = user
        networks = [(n, user) for user in users for n in user.networks]
        return Users(users, keys, sorted(networks, key=lambda n: -n[0].prefixlen))

    def find(self, key: str) -> User | None:
        found = self._by_key.get(key)
        if found is None and self._networks and not key.startswith("mark:"):
            try:
                address = ipaddress.ip_address(key)
            except ValueError:
                return None
            found = next(
                (u for n, u in self._networks if n.version == address.version and address in n), None
            )
        return found


def parse(text: str, where: str) -> Users:
    """YAML or JSON (`users:` with `code`, `name`, `addresses`, `marks`, or code to address), or CSV with a head. Raises UsageError."""
    first = text.lstrip("\ufeff").lstrip().partition("\n")[0]
    if "," in first and ":" not in first and not first.startswith(("[", "{")):
        return Users.of([_user(row, f"{where}, line {n + 2}") for n, row in enumerate(_rows(text, where))])
    import yaml

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{where}{line}: {getattr(error, 'problem', None) or 'not YAML'}") from None
    if isinstance(found, dict) and "users" in found:
        found = found["users"]
    if isinstance(found, dict):  # code to address, as simple as it gets
        found = [{"code": str(code), "addresses": value} for code, value in found.items()]
    if not isinstance(found, list):
        raise UsageError(f"{where}: write users: with a list of code, name, addresses, marks")
    return Users.of([_user(one, f"{where}, user {n + 1}") for n, one in enumerate(found)])


def _rows(text: str, where: str) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))))
    if rows and not any(n in rows[0] for n in ("code", "user_code")):
        raise UsageError(f"{where}: the first line names the columns: code, name, addresses, marks")
    return rows


def _user(given: Any, where: str) -> User:
    if not isinstance(given, dict):
        raise UsageError(f"{where}: write code, name, addresses, marks")
    values = {str(k).strip(): v for k, v in given.items() if k is not None}
    code = str(values.get("code", values.get("user_code")) or "").strip()
    if not code:
        raise UsageError(f"{where}: has no code")
    addresses, networks = [], []
    for name in ("address", "addresses", "user_intra_ip", "ip"):
        for text in _many(values.get(name)):
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise UsageError(f"{where}: {text!r} is no address") from None
            if network.num_addresses == 1:
                addresses.append(str(network.network_address))
            else:
                networks.append(network)
    marks = []
    for name in ("mark", "marks", "mark_id"):
        for text in _many(values.get(name)):
            try:
                marks.append(int(text, 0))
            except ValueError:
                raise UsageError(f"{where}: {text!r} is no mark, such as 0x10") from None
    return User(code, str(values.get("name") or "").strip(), tuple(addresses), tuple(networks), tuple(marks))


def _many(value: Any) -> list[str]:
    """A list, or a text with blanks, commas or semicolons between."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [str(v).strip() for v in value]
    return str(value).replace(",", " ").replace(";", " ").split()


class UserMap:
    """place: a file, `cmd:COMMAND`, or http(s)://…; None: nobody is known. Raises UsageError."""

    def __init__(self, place: str | None) -> None:
        self._place = place
        self._stamp: tuple[int, int] | None = None
        self._next = 0.0
        self.trouble = ""
        self.users = Users()
        if place is not None:
            self.users = self._read()

    def refresh(self) -> Users:
        """The map as it is now; `trouble` says why it could not be read again."""
        if self._place is None:
            return self.users
        try:
            if self._stale():
                self.users = self._read()
                self.trouble = ""
        except UsageError as error:
            self.trouble = f"users not changed: {error}"
        return self.users

    def _stale(self) -> bool:
        if self._remote:
            return time.monotonic() >= self._next
        return stamp(str(self._place)) != self._stamp

    @property
    def _remote(self) -> bool:
        return str(self._place).startswith(("cmd:", "http://", "https://"))

    def _read(self) -> Users:
        place = str(self._place)
        if self._remote:
            self._next = time.monotonic() + EVERY_S
            return parse(_run(place[4:]) if place.startswith("cmd:") else _get(place), place)
        self._stamp = stamp(place)
        try:
            with open(place, encoding="utf-8-sig") as file:
                return parse(file.read(_LONGEST), place)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{place}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}"
            ) from None


def _run(command: str) -> str:
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=30)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"cmd:{command}: {getattr(error, 'strerror', None) or 'did not end within 30 s'}"
        ) from None
    if done.returncode:
        raise UsageError(f"cmd:{command}: ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def _get(url: str) -> str:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read(_LONGEST).decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"{url}: {getattr(error, 'reason', None) or error}") from None
