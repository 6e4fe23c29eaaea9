"""What the documentation shows is run; what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from replaykit.engine.account import CAUSES
from replaykit.records.exchange import SCHEMA
from samples.make import OUT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUNNABLE = list(re.findall(r"^    ((?:replaykit|gor) .*)$", README, re.MULTILINE))


@pytest.mark.slow
def test_readme_commands(tmp_path: Path) -> None:
    """In their order, in one directory; live ones are tested with real traffic elsewhere."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / OUT.name).write_bytes(OUT.read_bytes())
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert len(RUNNABLE) >= 6
    for command in RUNNABLE:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0 and done.stdout + done.stderr, (command, done.stderr)
    shown = subprocess.run(
        RUNNABLE[0],
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    ).stdout
    for line in re.search(r"```\n(.*?)```", README, re.DOTALL)[1].splitlines():  # type: ignore[index]
        for part in line.split("…"):
            assert " ".join(part.split()) in " ".join(shown.split()), line


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda p: p.name
)
def test_links_and_flags(page: Path) -> None:
    from replaykit.cli.main import COMMANDS, load
    from replaykit.goreplay import flags as goflags

    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    known = {flag for c in COMMANDS for p in load(c).params for flag in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version", "--install-completion", "--show-completion"}
    known |= {f"--{name}" for name in goflags.BY_NAME}
    job = (ROOT / "pipelines" / "spark" / "attribution.py").read_text()
    known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', job))
    for flag in re.findall(r"`(--[a-z0-9-]+)", text):
        assert flag in known, flag


def test_the_pages_of_commands_are_made_from_the_program() -> None:
    from ci.command_pages import MANUAL, PAGE, manuals, page

    assert page() == PAGE.read_text(), "make pages"
    assert {p.name: p.read_text() for p in MANUAL.iterdir()} == manuals(), "make pages"


def test_columns_and_causes_are_all_described() -> None:
    columns = (ROOT / "docs" / "columns.md").read_text()
    assert [n for n in SCHEMA.names if f"`{n}`" not in columns] == []
    causes = (ROOT / "docs" / "conservation.md").read_text()
    assert [c for c in CAUSES if f"`{c}`" not in causes] == []


def test_the_example_of_an_output() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]  # type: ignore[index]
    names: dict[str, object] = {}
    exec(code, names)
    from replaykit.outputs.output import Rotation
    from tests.outputs.test_files import batch

    opened = names["open_counter"]("count://", Rotation())  # type: ignore[operator]
    opened.exchanges(batch(3))
    opened.close()
    assert opened.rows == 3
    assert names["open_counter"]("x.gor", Rotation()) is None  # type: ignore[operator]


def test_the_example_of_a_protocol() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1]
    names: dict[str, object] = {}
    exec(code, names)
    from replaykit.engine.engine import Engine
    from replaykit.engine.options import Options
    from tests.talk import Talk, outcome

    options = Options(plugin_ports=(7777,), protocols=("lines",))
    plugin = names["Lines"]()  # type: ignore[operator]
    engine = Engine(options, None, [plugin], pytest.fail)
    talk = (
        Talk(dport=7777)
        .open()
        .client(b"ADD 1 2\nSU")
        .server(b"3\n")
        .client(b"B 3 1\n")
        .server(b"2\n")
        .close()
    )
    for p in talk.packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    found = outcome(engine).rows
    assert [(r["endpoint"], r["request_body_bytes"], r["response_body_bytes"]) for r in found] == [
        ("ADD", 8, 2),
        ("SUB", 8, 2),
    ]


def test_the_example_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)[1]  # type: ignore[index]
    (tmp_path / "traffic.pcap").write_bytes(OUT.read_bytes())
    made = [
        sys.executable,
        "-m",
        "replaykit",
        "exchanges",
        str(OUT),
        "--quiet",
        "--to",
        str(tmp_path / "new.gor"),
    ]
    subprocess.run(made, check=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["verdict"].passed and names["recording"].increments.num_rows


def test_the_example_of_middleware() -> None:
    from replaykit.records.message import Message

    page = (ROOT / "docs" / "gor.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]  # type: ignore[index]
    names: dict[str, Any] = {}
    exec(code, names)
    request = Message(1, "a", 1, 0, b"GET / HTTP/1.1\r\nCookie: a=b\r\nHost: h\r\n\r\n")
    assert names["without_cookies"](request).payload == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def test_the_example_of_a_budget(tmp_path: Path) -> None:
    from replaykit.attribution.gate import read_budgets

    page = (ROOT / "docs" / "gate.md").read_text()
    (tmp_path / "b.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    assert read_budgets(str(tmp_path / "b.yaml")) == [("/users/{id}", 2000), ("/images/*", 200_000)]


def test_the_examples_of_alerts_and_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replaykit.cli.flow import read_flow
    from replaykit.rules.alerts import parse_rules
    from replaykit.rules.metrics import METRICS

    alerts, pipelines = ((ROOT / "docs" / n).read_text() for n in ("alerts.md", "pipelines.md"))
    monkeypatch.setenv("SLACK_URL", "https://example.org/hook")
    monkeypatch.setenv("TELEGRAM_TOKEN", "123456789:abcdefg_hijklmnop")
    monkeypatch.setenv("TELEGRAM_CHAT", "12315544")
    monkeypatch.setenv("STATE", "/var/lib/replaykit")
    (rule,) = parse_rules(re.search(r"```yaml\n(.*?)```", alerts, re.DOTALL)[1]).rules  # type: ignore[index]
    assert rule.share == 0.3 and rule.notify == ("ops", "mail")
    assert [m for m in METRICS if f"`{m}`" not in alerts] == []
    example = re.search(r"```yaml\n(.*?)```", pipelines, re.DOTALL)[1]  # type: ignore[index]
    (tmp_path / "p.yaml").write_text(example)
    assert len(read_flow(str(tmp_path / "p.yaml")).targets) == 3
    named = {p.name for p in (ROOT / "pipelines").glob("*.yaml")} - {"alerts.yaml"}
    assert [n for n in named if f"`{n}`" not in pipelines] == []


def test_the_examples_of_the_ledger_its_rules_and_the_forwarder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replaykit.rules.limits import EFFECTS, parse_rules
    from replaykit.vantages.forwarder.config import read_config

    ledger, rules, forward = ((ROOT / "docs" / f"{n}.md").read_text() for n in ("ledger", "rules", "forward"))
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    exec(
        re.search(r"```python\n(.*?)```", ledger, re.DOTALL)[1],
        {"print": lambda *a: said.append(" ".join(map(str, a)))},
    )  # type: ignore[index]
    assert said == ["30009 52700", "1795561200 home 52000"]
    monkeypatch.setenv("SLACK_URL", "https://example.org/hook")
    monkeypatch.setenv("TELEGRAM_TOKEN", "123456789:abcdefg_hijklmnop")
    monkeypatch.setenv("TELEGRAM_CHAT", "12315544")
    first, second = parse_rules(re.search(r"```yaml\n(.*?)```", rules, re.DOTALL)[1]).rules  # type: ignore[index]
    assert (first.limit, first.start_day, len(first.thresholds)) == (100e9, 15, 2) and second.hold_s == 1800
    assert [e for e in EFFECTS if f"`{e}" not in rules] == []
    (tmp_path / "f.yaml").write_text(re.search(r"```yaml\n(.*?)```", forward, re.DOTALL)[1])  # type: ignore[index]
    config = read_config(str(tmp_path / "f.yaml"))
    assert [m.name for m in config.mappings] == [
        "30009",
        "5300/udp",
        "*.example.org:8443",
        "www.example.org:8443",
    ]
    assert config.clients[0].rate_limit == 10_000_000


def test_every_call_of_the_api_is_described() -> None:
    from replaykit.ledger.store import Ledger
    from replaykit.vantages.forwarder.server import Forwarder
    from replaykit.web.app import create_app

    async def described() -> dict[str, Any]:
        made = Ledger("sqlite://", "UTC")
        return create_app(made, Forwarder(made)).openapi()

    import asyncio

    page = "".join((ROOT / "docs" / name).read_text() for name in ("forward.md", "machines.md"))
    paths = asyncio.run(described())["paths"]
    assert len(paths) >= 14
    assert [p for p in paths if f" {p.partition('{')[0]}" not in page.replace("`", " ")] == []
