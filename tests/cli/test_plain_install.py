"""Without extras: every command has its help, and what needs an extra says which, in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from replaykit.cli.main import COMMANDS
from replaykit.extras import install

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python with the base dependencies alone, and this checkout."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, with_pip=True)
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *base], check=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    (packages / "replaykit.pth").write_text(f"{ROOT}\n")
    [about] = Path(sysconfig.get_path("purelib")).glob("replaykit_*.dist-info")
    shutil.copytree(about, packages / about.name)
    return [python, "-m", "replaykit"]


def _run(plain: list[str], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*plain, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )


def test_every_command_has_its_help(plain: list[str], tmp_path: Path) -> None:
    for command in COMMANDS:
        done = _run(plain, command, "--help", folder=tmp_path)
        assert done.returncode == 0 and "Usage:" in done.stdout and not done.stderr, (command, done.stderr)


def test_every_command_says_what_is_wrong_with_its_use(plain: list[str], tmp_path: Path) -> None:
    for command in COMMANDS:
        done = _run(plain, command, "--no-such-option", folder=tmp_path)
        assert done.returncode == 2 and not done.stdout, command
        assert done.stderr.startswith(f"replaykit {command}: there is no option --no-such-option"), command
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("machines", "ledger"), ("machines list", "ledger"), ("users --interface lo --once", "ledger"),
        ("users --interface lo --source ebpf", "ledger"), ("cleanup usage.db --before 2020-01-01", "ledger"),
        ("export usage.db", "ledger"), ("serve usage.db", "ledger"),
        ("forward --map 30009:127.0.0.1:22", "ledger"), ("tunnel --make-keys k --server a", "tls"),
        ("exchanges SHOP --to sqlite:///usage.db", "ledger"),
        ("exchanges SHOP --to kafka://127.0.0.1:1/x", "kafka"),
        ("exchanges SHOP --to prometheus://127.0.0.1:0", "prometheus"),
        ("exchanges SHOP --to otlp://127.0.0.1:1", "otlp"), ("report s3://a/b/", "s3"),
        ("ship --setup --to elasticsearch://127.0.0.1:9", "elasticsearch"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line(plain: list[str], tmp_path: Path, line: str, extra: str) -> None:
    shop = str(ROOT / "samples" / "shop.pcap.gz")
    done = _run(plain, *(shop if word == "SHOP" else word for word in line.split()), folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert (
        done.stderr.strip().endswith(install(extra)) and install(extra) == f"pip install -e '{ROOT}[{extra}]'"
    )


def test_what_needs_no_extra_works(plain: list[str], tmp_path: Path) -> None:
    """The README's first lines."""
    shop = str(ROOT / "samples" / "shop.pcap.gz")
    for line in (
        f"report {shop}",
        f"exchanges {shop} --to shop.parquet --to shop.gor",
        "report shop.parquet --by host,endpoint",
        "gate shop.gor --threshold 500MB --max-share 70%",
        "diff shop.gor shop.parquet --top 5",
    ):
        done = _run(plain, *line.split(), folder=tmp_path)
        assert done.returncode == 0, (line, done.stderr)


def test_the_name_on_the_index_is_written_once() -> None:
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert name != "replaykit"  # there, that is somebody else's program
    search = ["git", "grep", "-lE", rf"{name}|install '?replaykit", "--", ":!CHANGELOG.md"]
    found = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["pyproject.toml"] or found.returncode == 128  # no git there


def test_all_extras_are_every_one_but_the_heaviest() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [named] = re.findall(r"\[(.*)\]", extras["all"][0])
    assert named.split(",") == sorted(set(extras) - {"all", "test", "lint", "bench", "spark", "lstm"})


def test_calls_without_extras(plain: list[str], tmp_path: Path) -> None:
    """The library says which extra is missing as the commands do."""
    code = """
import replaykit, sys
found = replaykit.read(sys.argv[1])
print(replaykit.report(found.exchanges).num_rows > 0)
for call in (found.to_pandas, found.to_polars, lambda: replaykit.Ledger("sqlite:///usage.db")):
    try:
        call()
    except replaykit.UsageError as error:
        print(error)
"""
    shop = str(ROOT / "samples" / "shop.pcap.gz")
    done = subprocess.run([plain[0], "-c", code, shop], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "True",
        "this needs pandas: pip install pandas",
        "this needs polars: pip install polars",
        f"a ledger needs sqlalchemy: {install('ledger')}",
    ], done.stderr
