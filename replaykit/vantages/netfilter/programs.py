"""Runs the system's own programs: nft, tc and ip."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from replaykit.errors import UsageError

_PACKAGES = {"nft": "nftables", "tc": "iproute2", "ip": "iproute2"}
_WAIT_S = 30


def run(name: str, *arguments: str, script: str = "") -> str:
    """What it printed. Raises UsageError with the first line that it says is wrong."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if program is None:
        raise UsageError(f"{name} is needed: apt-get install {_PACKAGES[name]}")
    try:
        done = subprocess.run(
            [program, *arguments], input=script, capture_output=True, text=True, check=False, timeout=_WAIT_S
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{name}: no response within {_WAIT_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = lines[0].removeprefix("/dev/stdin:").removeprefix("Error: ") if lines else "failed"
        if "operation not permitted" in said.lower():
            said = "not permitted: it needs root, or CAP_NET_ADMIN"
        raise UsageError(f"{name}: {said}")
    return done.stdout


def nft(script: str) -> str:
    """Runs it whole or not at all, and gives what it printed. Raises UsageError."""
    return run("nft", "-n", "-f", "-", script=script)


def listed(table: str, family: str = "inet") -> list[dict[str, Any]]:
    """A table as nft's JSON (libnftables-json(5)). Raises UsageError."""
    return list(json.loads(run("nft", "-n", "-j", "list", "table", family, table))["nftables"])
