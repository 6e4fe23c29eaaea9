"""Everything is said in pyproject.toml; this compiles what the kernel runs, and says in one line what a build
lacks.
"""

from __future__ import annotations

import logging
import platform
import subprocess
from pathlib import Path
from shutil import which
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

SOURCES = sorted(Path("replaykit").glob("**/*.bpf.c"))


class BuildPrograms(Command):
    """Each NAME.bpf.c becomes NAME.bpf.o in the wheel, or beside it where the checkout itself is installed.

    Where that cannot be done, the build goes on: who wants to use them is told what is missing.
    """

    description = "compile eBPF programs"
    user_options: ClassVar = [("inplace", "i", "put them beside their sources")]
    boolean_options: ClassVar = ["inplace"]
    inplace = editable_mode = False
    build_lib: str | None = None

    def initialize_options(self) -> None:
        """All is said above."""

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        clang = which("clang")
        for source, made in zip(SOURCES, self._made(), strict=True):
            failed = "there is no clang" if clang is None else compiled(clang, source, made)
            if failed:
                made.unlink(missing_ok=True)
                self.announce(
                    f"left out is users --source ebpf: {failed}; apt-get install clang libbpf-dev",
                    logging.WARNING,
                )

    def get_source_files(self) -> list[str]:
        return [str(source) for source in SOURCES]

    def get_outputs(self) -> list[str]:
        return [str(made) for made in self._made() if made.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _made(self) -> list[Path]:
        beside = self.inplace or self.editable_mode or self.build_lib is None
        return [Path("" if beside else str(self.build_lib), source).with_suffix(".o") for source in SOURCES]


def compiled(clang: str, source: Path, made: Path) -> str:
    """Compiles it; gives why that could not be."""
    made.parent.mkdir(parents=True, exist_ok=True)
    # Debian keeps asm/types.h in a folder of each machine, where clang looks only for programs of that
    # machine.
    headers = f"/usr/include/{platform.machine()}-linux-gnu"
    command = [
        clang, "-O2", "-g", "-Wall", "-fdebug-compilation-dir=.", "-idirafter", headers, "-target", "bpf",
        "-c", str(source), "-o", str(made),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.partition("\n")[0] or "clang failed" if done.returncode else ""


if which("cargo") is None:
    raise SystemExit(
        "replaykit's core is compiled here and there is no Rust toolchain: install one (rustup, or the"
        " distribution's cargo), or install a wheel that is made for this platform"
    )
build.sub_commands.append(("build_bpf", None))
setup(cmdclass={"build_bpf": BuildPrograms})
