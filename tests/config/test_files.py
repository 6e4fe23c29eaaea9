"""Every kind of file: its schema takes each example of the documentation, and refuses what the program
refuses.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from replaykit.cli import config
from replaykit.cli.options.shipping import ConfigOptions
from replaykit.config.files import FILES
from replaykit.config.schema import json_schema
from replaykit.errors import UsageError

ROOT = Path(__file__).parents[2]
BLOCKS = {
    "alerts.md": ["alerts"],
    "configuration.md": ["rules"],
    "forward.md": ["forward"],
    "gate.md": ["gate"],
    "machines.md": ["machines"],
    "pipelines.md": ["pipeline"],
    "rules.md": ["rules"],
    "users.md": ["users", "rules"],
}
"""What the YAML of a page is, in its order."""


def examples() -> list[tuple[str, str]]:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        assert len(blocks) == len(BLOCKS.get(page.name, ())), page.name
        found += list(zip(BLOCKS.get(page.name, ()), blocks, strict=True))
    for path in sorted((ROOT / "pipelines").glob("*.yaml")):
        found.append(("alerts" if path.name == "alerts.yaml" else "pipeline", path.read_text()))
    return [(kind, text) for kind, text in found if kind in FILES]


def schema(kind: str) -> dict[str, Any]:
    return json_schema(FILES[kind].load_model())


def valid(kind: str, text: str) -> bool:
    """The values as an editor sees them: nothing is filled in from the environment."""
    return bool(jsonschema.Draft7Validator(schema(kind)).is_valid(yaml.safe_load(text)))


@pytest.mark.parametrize("kind", FILES)
def test_a_schema_describes_every_key(kind: str) -> None:
    found = schema(kind)
    jsonschema.Draft7Validator.check_schema(found)
    assert found["description"] and kind in {k for k, _ in examples()}
    for name, part in {"": found, **found["$defs"]}.items():
        for key, value in part.get("properties", {}).items():
            assert value.get("description") or "const" in value, (name, key)


@pytest.mark.parametrize(("kind", "text"), examples())
def test_the_examples_are_right(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert valid(kind, text), next(jsonschema.Draft7Validator(schema(kind)).iter_errors(yaml.safe_load(text)))
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(
            name, "https://example.org/hook" if "URL" in name else "123456789:abcdefg_hijklmnop"
        )
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert config.run(ConfigOptions(what="check", kind=kind, file=str(path))) == 0
    assert capsys.readouterr().out == f"{path}: good\n"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("alerts", "rules: [{name: a, metric: bites, above: 1}]"),
        ("alerts", "rules: [{name: a, metric: bytes, above: 1, window: long}]"),
        ("alerts", "rules: [{name: a, metric: bytes, above: 1, where: {colour: red}}]"),
        ("alerts", "rules: []\nnotify: {ops: {slack: 'http://a', email: [a]}}"),
        ("alerts", "rules: []\nnotify: {ops: {}}"),
        ("rules", "rules: [{name: a, period: day, limit: 5, actions: [explode]}]"),
        ("rules", "rules: [{name: a, period: day, limit: 5, actions: [{block: true, stop: true}]}]"),
        ("rules", "rules: [{name: a, period: day, limit: much, actions: [block]}]"),
        ("rules", "rules: [{name: a, period: day, limit: 5, actions: [block], enabled: maybe}]"),
        ("rules", "intervall: 5s\nrules: []"),
        ("alerts", "rules: [{name: a, traffic: user, limit: 1}]"),
        ("alerts", "rules: [{name: a, traffic: all, limit: 1, kind: user}]"),
        ("alerts", "rules: [{name: a, traffic: all, limit: 1, actions: [block]}]"),
        ("alerts", "rules: [{name: a, traffic: all, limit: 1, actions: [sample]}]"),
        ("rules", "rules: [{name: a, usage: all, traffic: all, limit: 5, period: day, actions: [block]}]"),
        ("rules", "rules: [{name: a, usage: user, limit: 5, period: day, actions: [sample: 50%]}]"),
        ("rules", "rules: [{name: a, usage: user, limit: 5, period: day, actions: [block], hold: 5m}]"),
        ("forward", "mappings: [{source_port: 99999, target: 'a:1'}]"),
        ("forward", "mappings: [{source_port: 80, target: a}]"),
        ("forward", "mappings: [{source_port: 80}]"),
        ("forward", "clients: [{rate_limit: 5}]"),
        ("gate", "/a: lots"),
        ("gate", "endpoints: {/a: lots}"),
        ("gate", "{}"),
        ("users", "users: [{code: {}}]"),
        ("users", "alice: {a: b}"),
        ("machines", "libvirt: {}"),
        ("machines", "pve: {host: a, port: 99999, api_token_id: a, api_token_secret: b}"),
        ("machines", "libvirt: {uri: a}\nrules: [{name: a, period: week, limit_gb: 1, action: stop}]"),
        ("machines", "libvirt: {uri: a}\nrules: [{name: a, period: day, limit_gb: 0, action: stop}]"),
    ],
)
def test_what_is_wrong_is_wrong_for_both(kind: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert not valid(kind, text)
    with pytest.raises(UsageError, match=r"^.*file\.yaml:\d+: "):
        FILES[kind].check(str(tmp_path / "file.yaml"))


def test_what_the_environment_fills_in_is_right_for_an_editor() -> None:
    text = (
        "rules: [{name: a, usage: all, period: '${P}', limit: '${L:-5MB}', actions: [block],"
        " enabled: '${ON}', start_day: '${D}'}]"
    )
    assert valid("rules", text)
    assert not valid("rules", text.replace("${P}", "P"))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(what: str, kind: str, file: str | None = None) -> int:
        return config.run(ConfigOptions.of({"what": what, "kind": kind, "file": file}))

    assert run("schema", "rules") == 0
    assert json.loads(capsys.readouterr().out) == schema("rules")
    (tmp_path / "f.yaml").write_text("rules: []\na: 1\nb: 2\n")
    with pytest.raises(UsageError) as caught:
        run("check", "alerts", str(tmp_path / "f.yaml"))
    assert [line.partition(": this")[0].rpartition("f.yaml")[2] for line in caught.value.lines] == [
        ":2: a",
        ":3: b",
    ]
    for wrong in (("schema", "rules", "a"), ("check", "rules"), ("check", "rules", str(tmp_path / "none"))):
        with pytest.raises(UsageError):
            run(*wrong)


def test_help_and_gor_do_not_wait_for_pydantic() -> None:
    code = "import sys, replaykit.cli.gor\nfrom replaykit.cli.main import COMMANDS, load\n"
    code += "for name in COMMANDS: load(name)\n"
    code += "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'pydantic', 'pydantic_core'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
