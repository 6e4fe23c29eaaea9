"""Who is behind a mark or an address: the map of users, from YAML, CSV or JSON, by file, command or HTTP.

Owns reading it, and reading it again: a file when it changes, the others every EVERY_S. A map that cannot be
read any more stays as it was, and that is said once.
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

import yaml

from replaykit.config.reading import Document, made, stamp
from replaykit.errors import UsageError
from replaykit.vantages.netfilter.user_file import UserEntry, UsersFile

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
    """YAML or JSON (`users:` with `code`, `name`, `addresses`, `marks`, or code to address), or CSV with a
    head. Raises UsageError.
    """
    first = text.lstrip("\ufeff").lstrip().partition("\n")[0]
    if "," in first and ":" not in first and not first.startswith(("[", "{")):
        return Users.of(
            [_user(_row(row, f"{where}, line {n + 2}")) for n, row in enumerate(_rows(text, where))]
        )
    # libyaml, since there may be very many.
    document = Document(text, where, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(document.data, dict | list):
        raise UsageError(f"{where}:1: write users: with a list of code, name, addresses, marks")
    found = document.checked(UsersFile, {"users": document.data} if isinstance(document.data, list) else None)
    return Users.of(list(map(_user, found.entries)))


def _rows(text: str, where: str) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))))
    if rows and not any(n in rows[0] for n in ("code", "user_code")):
        raise UsageError(f"{where}: the first line names the columns: code, name, addresses, marks")
    return rows


def _row(row: Mapping[Any, Any], where: str) -> UserEntry:
    try:
        return made({str(n).strip(): v for n, v in row.items() if n is not None}, UserEntry)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _user(entry: UserEntry) -> User:
    single = tuple(str(n.network_address) for n in entry.prefixes if n.num_addresses == 1)
    several = tuple(n for n in entry.prefixes if n.num_addresses > 1)
    return User(entry.called, entry.name.strip(), single, several, entry.numbers)


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
            self.trouble = f"users not changed: {'; '.join(error.lines)}"
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
        with urllib.request.urlopen(url, timeout=30) as response:
            return str(response.read(_LONGEST).decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"{url}: {getattr(error, 'reason', None) or error}") from None
