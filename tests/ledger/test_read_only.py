"""A ledger that cannot be written is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage

NOON = 1_779_624_000


@pytest.mark.parametrize("merged", [True, False])
def test_a_ledger_on_a_read_only_file_system(tmp_path: Path, merged: bool) -> None:
    """Also where its writer was killed, and what it wrote last is in the log beside the file."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "there"
    place.mkdir()
    make = (
        "import os, sys; from replaykit.ledger.store import Ledger; from replaykit.records.usage import"
        f" Usage\nledger = Ledger('sqlite:///{place}/usage.db')\nledger.write([Usage({NOON}, 60, 'wire',"
        " 'endpoint', '/a', {}, 5, 70, 1, 1, 1, 0, 'test')])\n"
        + ("ledger.close()" if merged else "os._exit(0)")
    )
    subprocess.run([sys.executable, "-c", make], check=True)
    assert merged or (place / "usage.db-wal").stat().st_size > 0
    export = (
        f"{sys.executable} -m replaykit export {place}/usage.db --since {NOON - 3600} --until {NOON + 3600}"
        " --format csv"
    )
    remount = (
        f"mount --bind {place} {place} && mount -o remount,bind,ro {place} && ! touch {place}/x 2>/dev/null"
    )
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            (
                f"{remount} && {export} && {sys.executable} -m replaykit cleanup {place}/usage.db"
                " --keep-minutes 1d --yes"
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "/a" in done.stdout and ",70," in done.stdout, done.stderr
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "readonly" in done.stderr
    ledger = Ledger(f"sqlite:///{place}/usage.db")  # nothing has changed
    assert not ledger.database.read_only
    ledger.write([Usage(NOON + 60, 60, "wire", "endpoint", "/b", {}, 1, 1, 1, 1, 1, 0, "test")])
    ledger.close()
