"""Word of alerts as its receivers get it: webhooks, an Alertmanager, a mail server, a program."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.servers import alertmanager, free_port
from replaykit.cli.alert import judging, tell
from replaykit.errors import UsageError
from replaykit.outputs.settings import state_of
from replaykit.rules import notify
from replaykit.rules.alerts import parse_rules
from tests.conftest import needs
from tests.outputs.conftest import run
from tests.rules.test_episodes import RULES, archive
from tests.target import until

EVENT = {
    "id": "0123456789abcdef", "kind": "firing", "rule": "one API", "severity": "warning", "group": "/a",
    "at": "2026-11-20T12:05:00+00:00", "began": "2026-11-20T12:05:00+00:00", "metric": "bytes",
    "by": "endpoint", "window_s": 300.0, "value": 5e6, "threshold": 3e6, "share": 0.5,
    "top": [{"endpoint": "/a", "bytes": 5_000_000, "share": 0.5}],
}  # fmt: skip


@contextmanager
def hook(answer: bytes = b"{}", status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """A webhook: its URL, and what it got."""
    got: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def notifier(text: str) -> Any:
    return parse_rules(f"notify: {{x: {text}}}\nrules: []").notify["x"]


def test_whatever_apprise_reaches(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with hook() as (url, got):
        where = url.replace("http://", "json://")
        notify.send(notifier(f"{{apprise: '{where}/room?+X-Token=s3cret'}}"), EVENT)
        notify.send(notifier(f"{{apprise: '{where}/room'}}"), {**EVENT, "kind": "resolved"})
    [(path, fired), (_, resolved)] = got
    assert path.startswith("/room") and (fired["type"], resolved["type"]) == ("warning", "success")
    assert fired["title"] == "[FIRING] one API: /a" and "\n".join(
        [fired["title"], fired["message"]]
    ) == notify.text(EVENT)
    with hook(status=500) as (url, _), pytest.raises(OSError, match=r"^JSON: it was not taken$"):
        notify.send(notifier(f"{{apprise: '{url.replace('http', 'json')}/?+X-Token=s3cret'}}"), EVENT)
    with pytest.raises(UsageError, match="no URL of Apprise's") as refused:
        notifier("{apprise: 'nonsense://s3cret'}")
    said = str(refused.value) + caplog.text + "".join(capsys.readouterr())
    assert "s3cret" not in said


def test_the_shapes_of_webhooks() -> None:
    with hook() as (url, got):
        for kind in ("webhook", "slack", "dingtalk", "feishu", "wecom"):
            secret = ", secret: s3" if kind in ("dingtalk", "feishu") else ""
            notify.send(notifier(f"{{{kind}: '{url}/{kind}?token=1'{secret}}}"), EVENT)
    bodies = {path.split("?")[0].strip("/"): (path, body) for path, body in got}
    said = notify.text(EVENT)
    assert said.splitlines()[:2] == [
        "[FIRING] one API: /a",
        "bytes 5.00 MB in 5 min, limit 3.00 MB, 50.0% of all",
    ]
    assert "  /a  5.00 MB  50.0%" in said
    assert bodies["webhook"][1]["rule"] == "one API" and bodies["webhook"][1]["value"] == 5e6
    assert bodies["slack"][1] == {"text": said}
    assert bodies["wecom"][1] == {"msgtype": "text", "text": {"content": said}}
    assert (
        bodies["dingtalk"][1]["msgtype"] == "text"
        and "&timestamp=" in bodies["dingtalk"][0]
        and "&sign=" in bodies["dingtalk"][0]
    )
    assert bodies["feishu"][1]["content"] == {"text": said} and bodies["feishu"][1]["sign"]


def test_a_receiver_that_refuses_or_is_away_and_no_secret_is_told() -> None:
    with (
        hook(b'{"errcode": 310000, "errmsg": "sign not match"}') as (url, _),
        pytest.raises(UsageError, match="sign not match"),
    ):
        notify.send(notifier(f"{{dingtalk: '{url}/hidden'}}"), EVENT)
    with hook(status=500) as (url, _), pytest.raises(UsageError) as refused:
        notify.send(notifier(f"{{slack: '{url}/hidden'}}"), EVENT)
    with pytest.raises(OSError) as away:
        notify.send(notifier(f"{{slack: 'http://127.0.0.1:{free_port()}/hidden'}}"), EVENT)
    assert "hidden" not in str(refused.value) + str(away.value)


def test_a_command_gets_the_event(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import sys,os;open({str(out)!r},'w').write(os.environ['REPLAYKIT_RULE']+sys.stdin.read())"
    notify.send(notifier(json.dumps({"command": [sys.executable, "-c", code]})), EVENT)
    assert out.read_text().startswith("one API{") and json.loads(out.read_text()[7:])["id"] == EVENT["id"]
    with pytest.raises(UsageError, match="status 3"):
        notify.send(notifier(json.dumps({"command": [sys.executable, "-c", "exit(3)"]})), EVENT)


def test_mail() -> None:
    from aiosmtpd.controller import Controller

    got: list[Any] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            got.append(envelope)
            await asyncio.sleep(0)
            return "250 OK"

    controller = Controller(Handler(), "127.0.0.1", free_port())
    controller.start()
    try:
        notify.send(
            notifier(
                "{email: [a@example.org, b@example.org], from: r@example.org, smtp:"
                f" '127.0.0.1:{controller.port}'}}"
            ),
            EVENT,
        )
    finally:
        controller.stop()
    assert got[0].rcpt_tos == ["a@example.org", "b@example.org"]
    assert b"Subject: [FIRING] one API: /a" in got[0].content and b"5.00 MB" in got[0].content


def test_a_real_alertmanager_has_one_alert_which_ends(tmp_path: Path) -> None:
    needs("prometheus-alertmanager")
    with hook() as (url, got), alertmanager(tmp_path, url) as there:
        known = notifier(f"{{alertmanager: '{there}'}}")

        def alerts() -> list[Any]:
            with urllib.request.urlopen(f"{there}/api/v2/alerts", timeout=10) as answer:
                return list(json.load(answer))

        began = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 60))
        for _ in range(2):  # what a crash made us send twice is one alert
            notify.send(known, {**EVENT, "began": began})
        (one,) = alerts()
        assert one["labels"] == {
            "alertname": "one API",
            "severity": "warning",
            "metric": "bytes",
            "instance": "/a",
        }
        until(lambda: any(body["status"] == "firing" for _, body in got), 20)
        ended = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        notify.send(known, {**EVENT, "kind": "resolved", "began": began, "at": ended})
        until(lambda: any(body["status"] == "resolved" for _, body in got), 20)
        assert "5.00 MB" in got[0][1]["alerts"][0]["annotations"]["description"]


def test_the_command_tells_once_over_restarts(tmp_path: Path) -> None:
    """An archive whose last minutes are over the limit: told at the first run, not at the second, recovered
    later.
    """
    place = archive(tmp_path / "archive")
    with hook() as (url, got):
        rules = tmp_path / "rules.yaml"
        rules.write_text(
            f"notify: {{ops: {{webhook: '{url}/${{TOKEN}}'}}}}\ninterval: 60s\n{RULES}    notify: ops\n"
        )
        from replaykit.cli.alert import step
        from replaykit.rules.alerts import read_rules
        from replaykit.rules.episodes import Watch
        from replaykit.rules.sources import ParquetSource
        from tests.rules.test_episodes import T0

        os.environ["TOKEN"] = "hidden"
        try:
            for minute in (4, 5, 5.5, 6, 7, 8, 9):
                step(
                    Watch(read_rules(str(rules)), ParquetSource(str(place)), tmp_path / "state.json"),
                    T0 + minute * 60 + 1,
                )
        finally:
            del os.environ["TOKEN"]
    assert [(path, body["kind"], body["at"][11:16]) for path, body in got] == [
        ("/hidden", "firing", "12:05"),
        ("/hidden", "resolved", "12:08"),
    ]
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600 and "hidden" not in (
        tmp_path / "state.json"
    ).read_text()


def test_elasticsearch_as_the_source(elastic: str, tmp_path: Path) -> None:
    """The same rules, the same events, from the documents by minute."""
    place = archive(tmp_path / "archive")
    target = f"elasticsearch://{elastic.removeprefix('http://')}/alerts?spool={tmp_path / 'spool'}"
    done = run("ship", f"{place}/", "--to", target)
    assert done.returncode == 0, done.stderr
    urllib.request.urlopen(f"{elastic}/alerts-*/_refresh", data=b"", timeout=20).close()
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    window = ("--since", "2026-11-20T12:00", "--until", "2026-11-20T12:20")
    there, here = (run("alert", str(rules), "--source", s, *window) for s in (target, f"{place}/"))
    assert there.returncode == 0 and len(here.stdout.splitlines()) == 2, there.stderr
    assert [json.loads(x) for x in there.stdout.splitlines()] == [
        json.loads(x) for x in here.stdout.splitlines()
    ]


def test_two_files_of_one_name_have_two_states_and_one_judge_each(tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "rules.yaml")
        files[-1].write_text(RULES)
    states = {state_of("alert", str(f)) for f in files}
    assert len(states) == 2
    lock = judging(tmp_path / "state.json")
    with pytest.raises(UsageError, match="another process judges these rules"):
        judging(tmp_path / "state.json")
    os.close(lock)
    os.close(judging(tmp_path / "state.json"))


def test_an_alert_is_a_sentence_for_a_person_and_json_for_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {
        "kind": "firing", "rule": "loud", "group": "/a", "metric": "bytes", "value": 2e6, "threshold": 1.5e6,
        "window_s": 3600, "began": "2026-11-20T12:00:00+00:00", "at": "2026-11-20T12:05:00+00:00", "id": "1",
        "severity": "warning", "top": [],
    }  # fmt: skip
    tell(event)
    assert json.loads(capsys.readouterr().out) == event
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    tell(event)
    assert (
        capsys.readouterr().out
        == "2026-11-20 12:05:00 [FIRING] loud: /a: bytes 2.00 MB in 60 min, limit 1.50 MB\n"
    )
