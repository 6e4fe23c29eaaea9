"""Everything is said in pyproject.toml; this only says in one line what a build lacks."""

from shutil import which

from setuptools import setup

if which("cargo") is None:
    raise SystemExit(
        "replaykit's core is compiled here and there is no Rust toolchain: install one (rustup, or the distribution's cargo), "
        "or install a wheel that is made for this platform"
    )
setup()
