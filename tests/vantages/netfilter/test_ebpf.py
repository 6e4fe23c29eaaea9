"""The eBPF programs: compiled where clang is, left out and named where it is not, and read from their object
file.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from replaykit.errors import UsageError
from replaykit.vantages.netfilter import ebpf
from replaykit.vantages.netfilter.bpf_object import BpfObject
from tests.conftest import needs

ROOT = Path(__file__).parents[3]
SOURCE = ebpf.PROGRAMS.with_suffix(".c").relative_to(ROOT)
PROGRAMS = ("received_ethernet", "received_bare", "sent_ethernet", "sent_bare")


def built(folder: Path, path: str) -> tuple[Path, str]:
    """A build with these programs on the path: where the object is or would be, and what was said."""
    (folder / SOURCE).parent.mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "pyproject.toml").write_text('[project]\nname = "some"\nversion = "1"\n')
    shutil.copy(ROOT / SOURCE, folder / SOURCE)
    tools = folder / "tools"
    tools.mkdir()
    (tools / "cargo").touch(0o755)
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_bpf", "--inplace"],
        cwd=folder,
        env={"PATH": f"{tools}:{path}", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / SOURCE).with_suffix(".o"), done.stderr


def test_a_build_without_clang_goes_on_and_says_so(tmp_path: Path) -> None:
    made, said = built(tmp_path, "")
    assert not made.exists()
    assert len(said.splitlines()) == 1 and "users --source ebpf: there is no clang" in said


def test_without_the_programs_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ebpf, "PROGRAMS", tmp_path / "users.bpf.o")
    with pytest.raises(
        UsageError, match=r"built where no clang was.*apt-get install clang libbpf-dev"
    ) as said:
        ebpf.EbpfSource("lo")
    assert "\n" not in str(said.value)


def test_programs_name_their_maps(tmp_path: Path) -> None:
    """As the source declares them, at each place where a program loads one."""
    needs("clang")
    made, said = built(tmp_path, os.environ["PATH"])
    found = BpfObject(made.read_bytes())
    declared = {"type": 1, "key_size": 16, "value_size": 16, "max_entries": 65_536}
    assert not said and found.maps == {"received": declared, "sent": declared}
    assert found.license == b"Apache-2.0\0"
    for name in PROGRAMS:
        code = found.program(name, {"received": 1007, "sent": 1008})
        loads = [code[at : at + 8] for at in range(0, len(code), 8) if code[at] == 0x18 and code[at + 1] >> 4]
        wanted = struct.pack("=BBhi", 0x18, 0x11, 0, 1007 if name.startswith("received") else 1008)
        assert loads == [wanted] * 3


def test_what_is_no_object_is_refused() -> None:
    for data in (Path(sys.executable).read_bytes()[:4096], bytes(64)):
        with pytest.raises(ValueError, match="no object file"):
            BpfObject(data)
