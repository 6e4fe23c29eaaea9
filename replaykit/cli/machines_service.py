"""`replaykit machines service`: as a service of systemd, the words of pve-traffic-monitor's `auto.sh`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from replaykit.atomic_files import write_whole
from replaykit.errors import UsageError
from replaykit.plain import say

NAME = "replaykit-machines"
FOLDER = Path("/etc/systemd/system")
ACTIONS = ("install", "uninstall", "start", "stop", "restart", "enable", "disable", "status", "logs")


def unit(config: Path) -> str:
    """It may write where the configuration lies, and nowhere else; what needs more is given to it by
    `systemctl edit`.
    """
    folder = config.parent
    places = (folder, Path(sys.executable), Path(__file__))
    own_tmp = not any(p.is_relative_to(t) for p in places for t in ("/tmp", "/var/tmp"))
    return f"""[Unit]
Description=Traffic of virtual machines (replaykit)
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={sys.executable} -m replaykit machines -config {config}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
Restart=on-failure
RestartSec=5
UMask=0077
NoNewPrivileges=yes
PrivateTmp={"yes" if own_tmp else "no"}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}

[Install]
WantedBy=multi-user.target
"""


def service(action: str, config: Path, folder: Path = FOLDER) -> int:
    """Raises UsageError. Exit status: systemctl's."""
    path = folder / f"{NAME}.service"
    if action == "install":
        if not config.exists():
            raise UsageError(f"{config}: there is no such file; replaykit machines config makes it")
        if any(c in str(config.resolve()) for c in " %\n\"'\\"):
            raise UsageError(f"{config}: a path with blanks, quotes or % is nothing for a unit file")
        write_whole(path, unit(config.resolve()).encode())
        path.chmod(0o644)
        say(f"wrote {path}; next: replaykit machines service start, and enable")
        return _systemctl("daemon-reload") if folder == FOLDER else 0
    if action == "uninstall":
        if not path.exists():
            raise UsageError(f"{path}: is not installed")
        status = _systemctl("disable", "--now", NAME) if folder == FOLDER else 0
        path.unlink()
        say(f"removed {path}; configuration and ledger stay")
        return status
    if action == "logs":
        journal = _program("journalctl")
        os.execv(journal, [journal, "-u", NAME, "-n", "100", "-f"])
    return _systemctl(action, NAME)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UsageError(f"{name}: there is no systemd here")
    return found


def _systemctl(*arguments: str) -> int:
    return subprocess.run([_program("systemctl"), "--no-pager", *arguments], check=False).returncode
