"""What deletes asks a person first; a script is not asked.

A file with a secret that others can read is named.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from replaykit.cli.asking import warn_of_readers
from replaykit.ledger.history import totals
from replaykit.ledger.store import Ledger
from tests.conftest import needs
from tests.ledger.conftest import NOON, used


def at_a_terminal(answer: str, *arguments: str, cwd: Path, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status and what was shown, with somebody who types this."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "replaykit", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # its end of the terminal is closed
        pass
    os.close(ours)
    return process.wait(30), shown.decode()


CONFIG = """{
  "pve": {"host": "127.0.0.1", "api_token_id": "a@pve!b", "api_token_secret": "hidden"},
  "storage": {"type": "sqlite", "dsn": "usage.db"}
}"""


@pytest.mark.parametrize(
    "command",
    [
        ("machines", "-config", "config.json", "-cleanup", "before", "-before", "2050-01-01"),
        ("cleanup", "usage.db", "--all"),
    ],
)
def test_a_person_is_asked(command: tuple[str, ...], tmp_path: Path) -> None:
    def there() -> int:
        ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}")
        try:
            return sum(s.bytes for s in totals(ledger, 0, 2**32).sums)
        finally:
            ledger.close()

    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "config.json").chmod(0o644)
    ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}")
    ledger.write([used("100", NOON, 1000, vantage="hypervisor", subject_kind="machine")])
    ledger.close()
    before = there()
    status, shown = at_a_terminal("n\n", *command, cwd=tmp_path)
    assert status == 1 and "[y/N]" in shown and there() == before, shown
    status, shown = at_a_terminal("y\n", *command, cwd=tmp_path)
    assert status == 0 and there() == 0, shown
    if command[0] == "machines":
        assert "config.json holds a secret, and others can read it: chmod 600" in shown
        assert "hidden" not in shown


@pytest.mark.parametrize(
    "command", [("cleanup", "usage.db", "--keep-minutes", "1d"), ("archive", "day/", "--keep", "1d")]
)
def test_what_is_old_is_asked_for_too(command: tuple[str, ...], tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path / 'usage.db'}").close()
    (tmp_path / "day").mkdir()
    status, shown = at_a_terminal("n\n", *command, cwd=tmp_path)
    assert status == 1 and "1d?" in shown and "nothing was deleted" in shown
    assert at_a_terminal("", *command, "--yes", cwd=tmp_path)[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "replaykit", *command], cwd=tmp_path, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


def test_removing_the_table_of_users_is_asked_for() -> None:
    """In a network namespace of its own, where there is none."""
    needs("nft", "ip")
    inside = ("ip", "netns", "exec", "rk-asking")
    subprocess.run(["ip", "netns", "add", inside[3]], check=True)
    try:
        install = [*inside, sys.executable, "-m", "replaykit", "users"]
        done = subprocess.run([*install, "--install", "--interface", "lo"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        status, shown = at_a_terminal("n\n", "users", "--remove", cwd=Path.cwd(), prefix=inside)
        assert status == 1 and "[y/N]" in shown
        status, shown = at_a_terminal("y\n", "users", "--remove", cwd=Path.cwd(), prefix=inside)
        assert status == 0 and "removed" in shown
    finally:
        subprocess.run(["ip", "netns", "delete", inside[3]], check=False)


def test_who_may_read_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, said in ((0o600, False), (0o640, True), (0o604, True)):
        (tmp_path / "key").write_text("")
        (tmp_path / "key").chmod(mode)
        warn_of_readers(tmp_path / "key", tmp_path / "nothing", None)
        assert ("chmod 600" in capsys.readouterr().err) is said
