"""Who is told, as a file of rules declares it under `notify:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from replaykit.config.kinds import Flag, Kind, Text, Texts, Url, as_text
from replaykit.config.places import Problem
from replaykit.config.sections import Section
from replaykit.config.wording import wrong
from replaykit.rules.notify import service

KINDS = ("webhook", "slack", "dingtalk", "feishu", "wecom", "alertmanager", "email", "command", "apprise")
_OF_EMAIL = {"smtp": "smtp", "sender": "from", "user": "user", "password": "password", "starttls": "starttls"}


def _by_apprise(given: Any) -> str:
    url = as_text(given)
    if service(url) is None:
        raise wrong("no URL of Apprise's, such as tgram://TOKEN/CHAT or msteams://…")
    return url


def _server(given: Any) -> str:
    text = as_text(given)
    host, found, port = text.rpartition(":")
    if not text or (found and not (host and port.isdigit())):
        raise wrong("write HOST or HOST:PORT, such as mail.example.org:587")
    return text


AppriseUrl = Annotated[str, Kind(_by_apprise, {"type": "string", "examples": ["tgram://TOKEN/CHAT"]})]
Server = Annotated[str, Kind(_server, {"type": "string", "examples": ["mail.example.org:587"]})]


class Notifier(Section):
    """How somebody is told; one way a name."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [kind]} for kind in KINDS]})

    webhook: Url | None = Field(None, description="The event is posted there as JSON")
    slack: Url | None = Field(None, description="An incoming webhook of Slack's")
    dingtalk: Url | None = Field(None, description="A robot's webhook of DingTalk's")
    feishu: Url | None = Field(None, description="A bot's webhook of Feishu's")
    wecom: Url | None = Field(None, description="A bot's webhook of WeCom's")
    alertmanager: Url | None = Field(None, description="An Alertmanager, such as http://127.0.0.1:9093")
    email: Texts = Field((), description="Addresses to write to; needs smtp and from")
    command: Texts = Field((), description="A program and its arguments; it gets the event as JSON")
    apprise: AppriseUrl | None = Field(None, description="A URL of Apprise's, which knows a hundred services")
    smtp: Server = Field("", description="With email: the mail server, HOST or HOST:PORT")
    sender: Text = Field("", alias="from", description="With email: the sender's address")
    user: Text | None = Field(None, description="With email: who logs in")
    password: Text | None = Field(None, description="With email: with which password")
    starttls: Flag = Field(False, description="With email: whether the connection is encrypted by STARTTLS")
    secret: Text | None = Field(None, description="With dingtalk or feishu: what messages are signed with")

    def disagreements(self) -> Iterator[Problem]:
        kinds = [kind for kind in KINDS if kind in self.model_fields_set]
        if not kinds:
            yield Problem((), f"give one of {', '.join(KINDS)}")
            return
        for other in kinds[1:]:
            yield Problem((other,), f"one kind a name; there is {kinds[0]} already")
        for kind in ("email", "command"):
            if kind in kinds and not getattr(self, kind):
                yield Problem((kind,), "give at least one")
        for name, spelt in _OF_EMAIL.items():
            if name in self.model_fields_set and "email" not in kinds:
                yield Problem((spelt,), "only with email")
            elif name in ("smtp", "sender") and "email" in kinds and name not in self.model_fields_set:
                yield Problem((), f"the key {spelt!r} is missing")
        if self.secret is not None and not {"dingtalk", "feishu"} & set(kinds):
            yield Problem(("secret",), "only with dingtalk and feishu")

    def settings(self) -> dict[str, Any]:
        """As `replaykit.rules.notify.send` takes it."""
        [kind] = [kind for kind in KINDS if kind in self.model_fields_set]
        if kind == "command":
            return {"kind": kind, "arguments": list(self.command)}
        if kind == "email":
            given = {spelt: getattr(self, name) for name, spelt in _OF_EMAIL.items()}
            return {"kind": kind, "to": list(self.email), **given}
        found = {"kind": kind, "url": getattr(self, kind)}
        return found if self.secret is None else {**found, "secret": self.secret}


Notifiers = dict[str, Notifier]


def settings(notifiers: Notifiers) -> dict[str, dict[str, Any]]:
    """Of all, by name."""
    return {name: one.settings() for name, one in notifiers.items()}
