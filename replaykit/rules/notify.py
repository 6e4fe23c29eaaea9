"""Word of alerts: webhooks (plain, Slack, DingTalk, Feishu, WeCom), Alertmanager, e-mail, a command, and all
that Apprise reaches.

Owns what each of them wants to be told. Secrets (tokens in URLs, passwords) come from the environment by
`${NAME}` and are never part of an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import smtplib
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote_plus, urlsplit

from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.plain import visible
from replaykit.rules.metrics import shown
from replaykit.units import show_size

_LONGEST_S = 30


def headline(event: Mapping[str, Any]) -> str:
    """One line: what, for whom."""
    word = "FIRING" if event["kind"] == "firing" else "RESOLVED"
    return f"[{word}] {event['rule']}" + (f": {visible(event['group'])}" if event["group"] else "")


def sentence(event: Mapping[str, Any]) -> str:
    """All of it that fits a line."""
    return f"{event['at'][:19].replace('T', ' ')} {headline(event)}: {_numbers(event)}"


def _numbers(event: Mapping[str, Any]) -> str:
    """An event of the ledger's rules says it itself: their periods are not minutes that slide."""
    if "in_words" in event:
        return str(event["in_words"])
    metric = event["metric"]
    line = f"{metric} {shown(metric, event['value'])} in {event['window_s'] / 60:g} min"
    if event["kind"] == "firing":
        line += f", limit {shown(metric, event['threshold'])}"
    if "share" in event:
        line += f", {event['share']:.1%} of all"
    if "base" in event:
        line += f", before {shown(metric, event['base'])}"
    return line


def text(event: Mapping[str, Any]) -> str:
    """The message: the numbers, and the endpoints with the most bytes."""
    lines = [headline(event), _numbers(event), f"since {event['began']}, seen {event['at']}"]
    if event["top"]:
        lines.append("most bytes:")
        lines += [
            f"  {visible(t['endpoint'])}  {show_size(t['bytes'])}  {t['share']:.1%}" for t in event["top"]
        ]
    return "\n".join([*lines, f"id {event['id']}"])


def send(notifier: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    """Returns when it was taken. Raises UsageError, or OSError, without secrets in them."""
    kind = notifier["kind"]
    if kind == "email":
        _email(notifier, event)
    elif kind == "command":
        _command(notifier["arguments"], event)
    elif kind == "apprise":
        _by_apprise(notifier["url"], event)
    elif kind == "alertmanager":
        _post(notifier["url"].rstrip("/") + "/api/v2/alerts", [_alert(event)])
    else:
        url, body = _shaped(notifier, event)
        answer = _post(url, body)
        _check(kind, answer)


def service(url: str) -> Any:
    """Apprise's service for a URL; None where it knows none.

    Raises UsageError where Apprise is not installed.
    """
    try:
        import apprise
    except ModuleNotFoundError:
        raise needs("apprise: needs Apprise", "notify") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its words hold the URL, and so a token
    return apprise.Apprise.instantiate(url, suppress_exceptions=True)


def _by_apprise(url: str, event: Mapping[str, Any]) -> None:
    import apprise

    reached = service(url)
    kind = apprise.NotifyType.WARNING if event["kind"] == "firing" else apprise.NotifyType.SUCCESS
    title, _, said = text(event).partition("\n")
    sender = apprise.Apprise()
    sender.add(reached)
    if not sender.notify(body=said, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT):
        raise OSError(f"{reached.service_name}: it was not taken")


def _shaped(notifier: Mapping[str, Any], event: Mapping[str, Any]) -> tuple[str, Any]:
    kind, url, said = notifier["kind"], notifier["url"], text(event)
    if kind == "slack":
        for char, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # else <!channel> calls everybody
            said = said.replace(char, name)
        return url, {"text": said}
    if kind == "wecom":
        return url, {"msgtype": "text", "text": {"content": said}}
    if kind == "dingtalk":
        if "secret" in notifier:
            stamp = str(round(time.time() * 1000))
            sign = _sign(notifier["secret"].encode(), f"{stamp}\n{notifier['secret']}".encode())
            url += f"{'&' if '?' in url else '?'}timestamp={stamp}&sign={quote_plus(sign)}"
        return url, {"msgtype": "text", "text": {"content": said}}
    if kind == "feishu":
        body: dict[str, Any] = {"msg_type": "text", "content": {"text": said}}
        if "secret" in notifier:
            stamp = str(int(time.time()))
            body |= {"timestamp": stamp, "sign": _sign(f"{stamp}\n{notifier['secret']}".encode(), b"")}
        return url, body
    return url, {**event, "text": said}


def _sign(key: bytes, message: bytes) -> str:
    return base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


def _check(kind: str, answer: bytes) -> None:
    """DingTalk, WeCom and Feishu say 200 and then what went wrong."""
    if kind not in ("dingtalk", "wecom", "feishu"):
        return
    try:
        found = json.loads(answer or b"{}")
    except ValueError:
        return
    code = found.get("code", 0) if kind == "feishu" else found.get("errcode", 0)
    if code:
        raise UsageError(f"refused: {code} {found.get('msg') or found.get('errmsg')}")


def _alert(event: Mapping[str, Any]) -> dict[str, Any]:
    """Alertmanager's: an episode is one alert, which ends by itself only after a week."""
    ended = event["kind"] == "resolved"
    end = event["at"] if ended else (datetime.now(UTC) + timedelta(days=7)).isoformat()
    labels = {"alertname": event["rule"], "severity": event["severity"], "metric": event["metric"]}
    if event["group"]:
        labels["instance"] = event["group"]
    return {
        "labels": labels,
        "annotations": {"summary": headline(event), "description": text(event)},
        "startsAt": event["began"],
        "endsAt": end,
    }


def _post(url: str, body: Any) -> bytes:
    request = urllib.request.Request(
        url,
        json.dumps(body, ensure_ascii=False).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    host = urlsplit(url).hostname
    try:
        with urllib.request.urlopen(request, timeout=_LONGEST_S) as answer:
            return bytes(answer.read(65_536))
    except urllib.error.HTTPError as error:
        raise UsageError(f"{host} answered {error.code}") from None
    except (urllib.error.URLError, OSError) as error:  # its text may hold the URL, and so a token
        raise OSError(f"{host}: {getattr(error, 'reason', None) or type(error).__name__}") from None


def _email(notifier: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    message = EmailMessage()
    message["Subject"] = " ".join(headline(event).split())
    message["From"], message["To"] = notifier["from"], ", ".join(notifier["to"])
    message["Message-ID"] = f"<{event['id']}.{event['kind']}@replaykit>"
    message.set_content(text(event))
    host, _, port = (
        notifier["smtp"].rpartition(":") if ":" in notifier["smtp"] else (notifier["smtp"], "", "25")
    )
    try:
        with smtplib.SMTP(host, int(port), timeout=_LONGEST_S) as server:
            if notifier["starttls"]:
                server.starttls(context=ssl.create_default_context())
            if notifier["user"] is not None:
                server.login(notifier["user"], notifier["password"] or "")
            server.send_message(message)
    except smtplib.SMTPException as error:
        raise UsageError(f"{host}: {type(error).__name__}") from None


def _command(arguments: list[str], event: Mapping[str, Any]) -> None:
    environment = {
        **os.environ, "REPLAYKIT_RULE": event["rule"], "REPLAYKIT_KIND": event["kind"],
        "REPLAYKIT_GROUP": visible(event["group"]), "REPLAYKIT_VALUE": str(event["value"]),
        "REPLAYKIT_ID": event["id"],
    }  # fmt: skip
    try:
        done = subprocess.run(
            arguments,
            input=json.dumps({**event, "text": text(event)}).encode(),
            capture_output=True,
            check=False,
            timeout=_LONGEST_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{arguments[0]}: did not end within {_LONGEST_S} s") from None
    if done.returncode:
        raise UsageError(f"{arguments[0]}: ended with status {done.returncode}")
