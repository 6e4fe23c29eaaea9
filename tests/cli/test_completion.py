"""What a shell offers, in bash and zsh under a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from samples.make import OUT


class Shell:
    """An interactive one, with the program and its completion."""

    def __init__(self, words: list[str], folder: Path) -> None:
        program = folder / "replaykit"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m replaykit "$@"\n')
        program.chmod(0o700)
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2]),
            "TERM": "dumb", "HOME": str(folder), "PS1": "ready> ", "COLUMNS": "200",
        }  # fmt: skip
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def say(self, text: str) -> None:
        self.seen = ""
        os.write(self._ours, text.encode())

    def until(self, pattern: str, seconds: float = 30) -> str:
        """What was shown up to it."""
        end = time.monotonic() + seconds
        while re.search(pattern, self.seen) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self.seen!r}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self.seen += os.read(self._ours, 65_536).decode(errors="replace")
        return self.seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


STARTS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'eval "$(replaykit --show-completion)"; echo be""gun\n',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        (
            'unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u; eval "$(replaykit'
            ' --show-completion)"; zstyle \':completion:*\' menu no; echo be""gun\n'
        ),
    ),
}


@pytest.fixture(params=STARTS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    words, begin = STARTS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    shutil.copy(OUT, tmp_path / "shop.pcap.gz")
    shell = Shell(words, tmp_path)
    try:
        shell.say(begin)
        shell.until("begun")
        yield shell
    finally:
        shell.close()


def test_commands_options_and_values(shell: Shell) -> None:
    for begun, whole in (
        ("replaykit repor\t", "replaykit report "),
        ("replaykit report --meas\t", "--measure"),
        ("replaykit report --format js\t", "--format json"),
        ("replaykit report shop.pc\t", "shop.pcap.gz"),
        ("replaykit users --interface l\t", "--interface lo"),
        ("replaykit gate shop.pcap.gz --per-endpoint /prod\t", r"/products/\\?\{id\\?\}"),
    ):
        shell.say(begun)
        shell.until(whole if "\\" in whole else re.escape(whole))
        shell.say("\x15")  # takes the line back
        time.sleep(0.2)


def test_installing_writes_the_shells_own_file(shell: Shell, tmp_path: Path) -> None:
    shell.say("replaykit --install-completion; echo do''ne\n")
    shown = shell.until("done")
    assert "completion installed" in shown
    assert [p for p in tmp_path.rglob("*") if p.is_file() and "replaykit" in p.name and p.name != "replaykit"]
