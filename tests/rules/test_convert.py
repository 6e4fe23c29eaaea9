"""Files of earlier versions, written anew: the same rules in today's form, everything else as it was."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, note, settings
from hypothesis import strategies as st

from replaykit.cli import alert
from replaykit.cli import rules as command
from replaykit.cli.options.over_time import RulesOptions
from replaykit.cli.options.shipping import AlertOptions
from replaykit.errors import UsageError
from replaykit.rules import alerts, limits
from replaykit.rules.convert import convert
from replaykit.rules.language import form

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "earlier"


def shown() -> list[str]:
    """Every text in documentation, pipelines and tests that is a file of rules of earlier versions."""
    texts = [path.read_text() for path in (*HERE.glob("*.yaml"), *(ROOT / "pipelines").glob("*.yaml"))]
    for page in (ROOT / "docs").glob("*.md"):
        texts += re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for path in {*(ROOT / "tests").rglob("*.py")} - {Path(__file__)}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "rules:" in node.value:
                texts.append(node.value)
    return [text for text in texts if earlier(text)]


def earlier(text: str) -> bool:
    try:
        return form(yaml.safe_load(text)) in ("alerts", "limits")
    except yaml.YAMLError:
        return False


def rules(text: str) -> Any:
    """All that a file says, whichever kind it is of; what is wrong with it, where it is wrong."""
    found: Any = None
    for read in (alerts.parse_rules, limits.parse_rules):
        try:
            found = read(text)
        except UsageError as error:
            if "there is no rule" not in str(error):
                return None
    return None if found is None else replace(found, rules=[placeless(rule) for rule in found.rules])


def placeless(rule: Any) -> Any:
    return replace(rule, line=0) if isinstance(rule, limits.Rule) else rule


def comments(text: str) -> list[str]:
    return re.findall(r"(?<= )#.*|^#.*", text, re.MULTILINE)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", "https://example.org/hook")
    monkeypatch.setenv("TELEGRAM_TOKEN", "123456789:abcdefg_hijklmnop")
    monkeypatch.setenv("TELEGRAM_CHAT", "12315544")


def test_every_file_that_is_shown_somewhere_says_the_same_anew() -> None:
    texts = shown()
    read = [text for text in texts if rules(text) is not None]
    assert len(texts) > 25 and len(read) > 15
    for text in texts:
        found = convert(text, "r.yaml")
        assert not earlier(found) and convert(found, "r.yaml") == found
        assert rules(found) == rules(text), text
    for path in HERE.glob("*.yaml"):
        assert comments(convert(path.read_text(), path.name)) == comments(path.read_text())


NAMES = st.text("abcdef ,:#'[]{}-äß°", min_size=1, max_size=8).map(lambda t: f"x{t}y")
STEPS = st.lists(
    st.sampled_from(["block", {"rate_limit": "1MB/s"}, {"notify": "ops"}, {"command": ["a", "b c"]}]),
    min_size=1,
    max_size=3,
)
ALERT = st.fixed_dictionaries(
    {"metric": st.sampled_from(["bytes", "requests"])},
    optional={
        "where": st.just({"endpoint": ["/api/*", "!/api/export"], "status": "2xx"}),
        "window": st.sampled_from(["1m", "1h30m"]),
        "at_least": st.just(10),
        "for": st.just("2m"),
        "recover_for": st.just("5m"),
        "recover": st.just(0.25),
        "silence": st.just([{"from": "22:00", "to": "06:00", "days": ["sat"]}]),
        "notify": st.one_of(st.just("ops"), st.lists(st.sampled_from(["ops", "a, b: c"]), max_size=3)),
        "change": st.fixed_dictionaries(
            {},
            optional={
                "sample": st.just("50%"),
                "headers-only": st.booleans(),
                "disallow_url": st.one_of(st.just("^/a"), st.lists(NAMES, max_size=2)),
                "allow-method": st.just(["GET"]),
            },
        ),
        "severity": NAMES,
        "enabled": st.booleans(),
    },
)
BOUNDS = st.one_of(
    st.fixed_dictionaries({"above": st.just(500)}, optional={"by": st.just("host")}),
    st.just({"by": "endpoint", "share": "30%"}),
    st.fixed_dictionaries(
        {"growth": st.just({"than": ["yesterday", "last_week"], "by": "50%"})},
        optional={"by": st.just("method")},
    ),
)
LIMIT = st.fixed_dictionaries(
    {"actions": STEPS},
    optional={
        "vantage": NAMES,
        "kind": st.sampled_from(["user", "mapping", "endpoint"]),
        "subjects": st.lists(NAMES, max_size=2),
        "exclude": NAMES,
        "labels": st.dictionaries(NAMES, NAMES, max_size=2),
        "metric": st.sampled_from(["bytes", "packets"]),
        "direction": st.sampled_from(["both", "rx"]),
        "warn": st.just("80%"),
        "thresholds": st.lists(st.fixed_dictionaries({"at": st.just("50%"), "actions": STEPS}), max_size=2),
        "hold": st.just("30m"),
        "dry_run": st.booleans(),
    },
)
ALLOWED = st.tuples(
    st.sampled_from([{"limit": 100}, {"share": 0.3}, {"rate": 10}]),
    st.sampled_from([{"window": "24h"}, {"period": "day"}, {"period": "month", "start_day": 15}]),
).map(lambda both: {**both[0], **both[1]})
FILES = st.one_of(
    *(
        st.lists(st.tuples(one, other, st.randoms()), min_size=1, max_size=3)
        for one, other in ((ALERT, BOUNDS), (LIMIT, ALLOWED))
    )
)
NOTIFY = {"ops": {"slack": "${SLACK_URL}"}, "a, b: c": {"webhook": "http://127.0.0.1:9"}}
STYLES = {
    "block": lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=200),
    "mixed": lambda data: yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=200),
    "flow": lambda data: yaml.safe_dump(data, sort_keys=False, default_flow_style=True, width=60),
    "json": lambda data: json.dumps(data, indent=2),
    "short json": json.dumps,
}


class Plain(yaml.SafeDumper):
    pass


@settings(deadline=None)
@given(FILES, st.sampled_from(sorted(STYLES)), st.booleans())
def test_any_file_says_the_same_anew(parts: Any, style: str, one: bool) -> None:
    written = []
    for n, (some, others, order) in enumerate(parts):
        rule = list({"name": f"r{n}", **some, **others}.items())
        order.shuffle(rule)
        written.append(dict(rule))
    data = {"notify": NOTIFY, "rules": written[0] if one else written}
    text = STYLES[style](json.loads(json.dumps(data)))
    note(text)
    assert earlier(text) and rules(text) is not None
    found = convert(text, "r.yaml")
    assert not earlier(found) and rules(found) == rules(text)
    if "json" in style:
        json.loads(found)


def test_what_it_looks_like() -> None:
    before = """# ours
rules:
  # the whole
  - name: a   # first
    metric: bytes
    above: ${MOST:-1GB}   # much
    change:
      disallow-url:
        - ^/a
        - ^/b
      sample: ${SAMPLE}
    for: 2m
    # who
    notify: [ops, mail]   # both
    severity: info
  - {name: b, metric: bytes, by: host, "above": 1MB, notify: ops, change: {headers_only: true}}
"""
    assert (
        convert(before, "r.yaml")
        == """# ours
rules:
  # the whole
  - name: a   # first
    traffic: all
    metric: bytes
    limit: ${MOST:-1GB}   # much
    actions:
      - notify: ops
      - notify: mail
      - disallow_url:
          - ^/a
          - ^/b
      - sample: ${SAMPLE}
    for: 2m
    # who
    severity: info
  - {name: b, metric: bytes, traffic: host, "limit": 1MB, actions: [{notify: ops}, {headers_only: true}]}
"""
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{name: a, metric: bytes}]", "^r.yaml: these are not rules in a form of earlier versions$"),
        ("mappings: []", "these are not rules"),
        ("- a", "these are not rules"),
        ("rules: [", "r.yaml:1: not YAML"),
        (
            "rules:\n- {name: a, metric: bytes, above: 1, notify: &who [x]}\n"
            "- {name: b, metric: bytes, above: 1, notify: *who}\n",
            r"r.yaml:3: \*who: write out",
        ),
    ],
)
def test_what_cannot_be_written_anew(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        convert(text, "r.yaml")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text((HERE / "rules-page.yaml").read_text())
    assert command.run(RulesOptions.of({"what": "convert", "subject": str(path)})) == 0
    found = capsys.readouterr()
    assert found.err == "" and "    usage: client" in found.out and "${SLACK_URL}" in found.out
    path.write_text(found.out)
    assert command.run(RulesOptions.of({"what": "convert", "rules": str(path)})) == 0
    again = capsys.readouterr()
    assert again.out == found.out and again.err == f"{path}: is written in today's form already\n"
    with pytest.raises(UsageError, match="name the file"):
        command.run(RulesOptions.of({"what": "convert"}))


def test_commands_say_once_how_to_write_it_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    anew = f"`replaykit rules convert {path}` writes it anew"
    said = f"{path} is written in the form of earlier versions; {anew}\n"
    path.write_text("rules: [{name: a, metric: bytes, above: 1MB}]")
    for quiet, told in ((False, said), (True, "")):
        options = {"rules": str(path), "check": True, "quiet": quiet}
        assert alert.run(AlertOptions.of(options)) == 0
        assert capsys.readouterr().err == told
    path.write_text("rules: [{name: a, period: day, limit: 1MB, actions: [block]}]")
    assert command.run(RulesOptions.of({"what": "check", "rules": str(path)})) == 0
    assert capsys.readouterr() == ("a: 1.00 MB in a day\n", said)
    path.write_text(convert(path.read_text(), str(path)))
    assert command.run(RulesOptions.of({"what": "check", "rules": str(path)})) == 0
    assert capsys.readouterr().err == ""
