"""A declared pipeline: its YAML read, checked, and made into what a command line would say.

Owns the keys. Options of captures and filters are those of `replaykit capture`, spelt with underscores; errors name
file, line and key.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from replaykit.atomic_files import Existing
from replaykit.cli import capture as capture_command
from replaykit.cli.main import Parser
from replaykit.cli.rewrites import REWRITES
from replaykit.config.declared import Section, Value, load
from replaykit.errors import UsageError
from replaykit.outputs.output import Rotation

CAPTURE = (
    "filter", "host", "sample", "headers_only", "buffer_size", "workers", "tunnels", "user", "tls_keys", "client_from", "protocol", "vxlan_port", "vni",
    "max_connections", "max_connection_buffer", "max_buffer", "max_message", "idle_timeout",
)  # fmt: skip
FILES = ("port", "since", "until", "tls_keys", "client_from", "protocol")
FILTERS = (
    "allow_header", "disallow_header", "allow_method", "disallow_method", "allow_url", "disallow_url", "redact", "redact_param", "endpoints",
)  # fmt: skip


@dataclass
class Source:
    """args: as `replaykit capture` would have them; `declared`: errors name keys, not flags. files: in place of a capture; speed: messages at their own pace."""

    args: argparse.Namespace
    files: Sequence[str] = ()
    speed: float | None = None
    where: Value | None = None


@dataclass
class Target:
    """Where results go, and what is said of files there."""

    to: str
    rotation: Rotation
    limit: str | None = None
    where: Value | None = None

    @property
    def takes_messages(self) -> bool:
        return self.to.startswith(("http://", "https://")) or self.to.endswith((".gor", ".gor.gz"))


@dataclass
class Flow:
    """A pipeline as it was declared."""

    sources: list[Source] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    middleware: str | None = None
    responses: bool = True
    alerts: str | None = None
    alert_state: str | None = None
    health: str | None = None
    health_open: bool = False
    log: str = "text"
    duration_s: float | None = None


def read_flow(path: str) -> Flow:
    """Raises UsageError that names file, line and key."""
    top = load(path)
    flow = Flow()
    filters = top.get("filters")
    chosen = [] if filters is None else _filters(filters.section())
    for item in top.need("inputs").items():
        flow.sources.append(_source(item.section(), chosen, filters))
    for item in top.need("outputs").items():
        flow.targets.append(_target(item))
    for name in ("middleware", "alerts", "alert_state", "health"):
        value = top.get(name)
        if value is not None:
            setattr(flow, name, value.text())
    everybody = top.get("health_open")
    if everybody is not None:
        flow.health_open = everybody.flag()
        if flow.health is None:
            raise everybody.error("health_open: there is no health page: give health: [HOST]:PORT")
    responses, log, duration = top.get("responses"), top.get("log"), top.get("duration")
    if responses is not None:
        flow.responses = responses.flag()
    if log is not None:
        flow.log = log.choice(("text", "json"))
    if duration is not None:
        flow.duration_s = duration.duration()
    top.done()
    if not flow.sources or not flow.targets:
        raise top.error("at least one input and one output are needed")
    _agree(flow, top)
    return flow


def _agree(flow: Flow, top: Section) -> None:
    messages = [t for t in flow.targets if t.takes_messages]
    if flow.middleware is not None and not messages:
        raise top.error("middleware: there is no output of messages (.gor, http://…) for what it changes")
    for source in flow.sources:
        assert source.where is not None
        if source.speed is not None and len(messages) < len(flow.targets):
            raise source.where.error(
                "speed: messages at their pace have no sizes; only .gor and http:// outputs take them"
            )
        if source.args.headers_only and messages:
            raise source.where.error(
                "headers_only cuts bodies off: there are no messages for .gor and http:// outputs"
            )
    live = [s for s in flow.sources if not s.files]
    if len(live) > 1:
        raise top.error("one capture a pipeline: give all its places in one list")
    if flow.alerts is not None and not live:
        raise top.error("alerts: these are for a capture; for files there is `replaykit alert`")


def _arguments(section: Section, names: Sequence[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        value = section.get(name)
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in ("headers_only", "tunnels"):
            out += [flag] if value.flag() else []
        elif name == "sample":
            out += [flag, str(value.share())]
        else:
            out += [part for text in value.texts() for part in (flag, text)]
    return out


def _filters(section: Section) -> list[str]:
    out = _arguments(section, (*FILTERS, *(name.replace("-", "_") for name, _, _ in REWRITES)))
    section.done()
    return out


class _Quiet(Parser):
    """Its errors are ours to place."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Quiet()
    capture_command.configure(parser)
    found: argparse.Namespace = parser.parse_args(arguments)
    return found


def _source(section: Section, filters: list[str], where: Value | None) -> Source:
    capture, files = section.get("capture"), section.get("files")
    if (capture is None) == (files is None):
        raise section.error("give `capture` (places such as :80) or `files`")
    if files is not None:
        arguments = _arguments(section, FILES[3:])
        more: dict[str, Any] = {
            name: None if (v := section.get(name)) is None else v.text() for name in FILES[:3]
        }
        speed = section.get("speed")
        section.done()
        args = _checked(section, ["any:1", *arguments, *filters, "--quiet"])
        args.__dict__.update(more, files=files.texts(), declared=True)
        return Source(args, files.texts(), None if speed is None else speed.number(), section)
    assert capture is not None
    arguments = _arguments(section, CAPTURE)
    section.done()
    args = _checked(section, [*capture.texts(), *arguments, *filters, "--quiet"])
    try:
        capture_command.settings_of(args)
    except UsageError as error:
        raise section.error(str(error)) from None
    return Source(args, where=section)


def _checked(section: Section, arguments: list[str]) -> argparse.Namespace:
    from replaykit.cli import common

    try:
        args = _parse(arguments)
        common.engine(args.options(False, False))
    except UsageError as error:
        raise section.error(str(error)) from None
    return args


def existing_choice(value: Value) -> Existing:
    """Where a pipeline runs again, files go on unless it is told otherwise."""
    found = value.choice(get_args(Existing))
    return next(choice for choice in get_args(Existing) if choice == found)


def _target(value: Value) -> Target:
    if not value.is_section:
        return Target(value.text(), Rotation(existing="append"), None, value)
    section = value.section()
    to = section.need("to")
    size, seconds, limit = section.get("rotate_size"), section.get("rotate_time"), section.get("limit")
    existing = section.get("existing")
    section.done()
    rotation = Rotation(
        None if size is None else size.size(),
        None if seconds is None else seconds.duration(),
        "append" if existing is None else existing_choice(existing),
    )
    return Target(to.text(), rotation, None if limit is None else limit.text(), to)
