"""A declared pipeline: the model of its file, and the options that come of it, which are those of a command
line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from replaykit.atomic_files import Existing
from replaykit.cli import common
from replaykit.cli.capture import settings_of
from replaykit.cli.options.looking import CaptureOptions, KernelOptions
from replaykit.cli.options.shared import InputOptions, QuietOptions
from replaykit.config.kinds import Duration, Flag, Many, Number, Size, Text, Texts
from replaykit.config.options import Option, section
from replaykit.config.places import Location, Problem
from replaykit.config.reading import Document, load
from replaykit.config.sections import Section
from replaykit.errors import UsageError
from replaykit.outputs.output import Rotation
from replaykit.pipeline.options import (
    EngineOptions,
    Filters,
    ProtocolOptions,
    RedactionOptions,
    RewriteOptions,
)


class FileOptions(InputOptions, Filters, RewriteOptions, QuietOptions):
    """Files of a pipeline."""

    are_flags: ClassVar[bool] = False


if TYPE_CHECKING:

    class _CaptureSection(Section):
        headers_only: bool = False

    class _FilterSection(Section):
        pass

else:
    _CaptureSection = section(KernelOptions, ProtocolOptions, EngineOptions)
    _FilterSection = section(RedactionOptions, RewriteOptions)


class CaptureInput(_CaptureSection):
    """A live capture."""

    capture: Annotated[Texts, Option("places, as `replaykit capture` takes them: :80, eth0:80,8000-8010")]


class FilesInput(Section):
    """Files: captures, .gor, Parquet."""

    files: Annotated[Texts, Option("as `replaykit exchanges` takes them")]
    port: Annotated[Text | None, Option("only connections to these ports, such as 80,8000-8010")] = None
    since: Annotated[Text | None, Option("of Parquet: only exchanges from this time on")] = None
    until: Annotated[Text | None, Option("of Parquet: only exchanges before this time")] = None
    tls_keys: Annotated[Text | None, Option("key log (SSLKEYLOGFILE) to read TLS with")] = None
    client_from: Annotated[Text | None, Option("who the client is: a header, such as x-forwarded-for")] = None
    protocol: Annotated[Texts, Option("also reads these by their plug-ins: redis, postgresql, ...; raw")] = ()
    speed: Annotated[Number | None, Option("messages at their own pace, so many times as fast")] = None


class FilterSection(_FilterSection):
    """What of it, and what is done to it on the way."""


class OutputSection(Section):
    """An output, and what is said of files there."""

    to: Annotated[
        Text, Option("as `--to` takes it: traffic.parquet, archive/, elasticsearch://HOST:9200, http://HOST")
    ]
    rotate_size: Annotated[Size | None, Option("begins a new file after so many bytes")] = None
    rotate_time: Annotated[Duration | None, Option("begins a new file after so long")] = None
    limit: Annotated[Text | None, Option("of messages: 10 a second, or 10% of them")] = None
    existing: Annotated[
        Existing, Option("what becomes of a file that is there already, when the pipeline runs again")
    ] = "append"


def _kind_of_input(given: Any) -> str | None:
    if isinstance(given, Section):
        return "live input" if isinstance(given, CaptureInput) else "files input"
    found = {"capture", "files"} & set(given) if isinstance(given, Mapping) else set()
    return {"capture": "live input", "files": "files input"}[found.pop()] if len(found) == 1 else None


def _kind_of_output(given: Any) -> str:
    return "output section" if isinstance(given, Mapping | Section) else "output place"


Input = Annotated[
    Annotated[CaptureInput, Tag("live input")] | Annotated[FilesInput, Tag("files input")],
    Discriminator(
        _kind_of_input,
        custom_error_type="wrong",
        custom_error_message="give `capture` (places such as :80) or `files`",
    ),
]
Output = Annotated[
    Annotated[OutputSection, Tag("output section")] | Annotated[Text, Tag("output place")],
    Discriminator(_kind_of_output),
]


class PipelineFile(Section):
    """A pipeline as it is declared."""

    inputs: Annotated[Many[Input], Option("where traffic comes from")]
    outputs: Annotated[Many[Output], Option("where it goes")]
    filters: Annotated[FilterSection, Option("what of it, and what is done to it on the way")] = (
        FilterSection()
    )
    middleware: Annotated[Text | None, Option("a command that messages go through, as GoReplay's")] = None
    responses: Annotated[Flag, Option("responses too, where messages go")] = True
    alerts: Annotated[Text | None, Option("rules to evaluate while it runs (a file)")] = None
    alert_state: Annotated[Text | None, Option("where their episodes and hours are kept (a folder)")] = None
    health: Annotated[Text | None, Option("serves /health, /ready and /metrics there: [HOST]:PORT")] = None
    health_open: Annotated[Flag, Option("beyond this machine without a token")] = False
    log: Annotated[Literal["text", "json"], Option("how it speaks on standard error")] = "text"
    duration: Annotated[Duration | None, Option("ends by itself after so long")] = None

    def disagreements(self) -> Iterator[Problem]:
        places = [o.to if isinstance(o, OutputSection) else o for o in self.outputs]
        messages = [p for p in places if takes_messages(p)]
        live = [i for i in self.inputs if isinstance(i, CaptureInput)]
        if not self.inputs or not self.outputs:
            yield Problem((), "at least one input and one output are needed")
        if self.health_open and self.health is None:
            yield Problem(("health_open",), "there is no health page: give health: [HOST]:PORT")
        if self.middleware is not None and not messages:
            yield Problem(
                ("middleware",), "there is no output of messages (.gor, http://…) for what it changes"
            )
        if len(live) > 1:
            yield Problem(("inputs",), "one capture a pipeline: give all its places in one list")
        if self.alerts is not None and not live:
            yield Problem(("alerts",), "these are for a capture; for files there is `replaykit alert`")
        for number, one in enumerate(self.inputs):
            if isinstance(one, CaptureInput) and one.headers_only and messages:
                why = "cuts bodies off: there are no messages for .gor and http:// outputs"
                yield Problem(("inputs", number, "headers_only"), why)
            if isinstance(one, FilesInput) and one.speed is not None and len(messages) < len(places):
                why = "messages at their pace have no sizes; only .gor and http:// outputs take them"
                yield Problem(("inputs", number, "speed"), why)


def takes_messages(place: str) -> bool:
    return place.startswith(("http://", "https://")) or place.endswith((".gor", ".gor.gz"))


@dataclass
class Source:
    """args: as a command line would have them.

    files: in place of a capture; speed: messages at their own pace.
    """

    args: CaptureOptions | FileOptions
    at: Location
    speed: float | None = None

    @property
    def files(self) -> Sequence[str]:
        return self.args.files if isinstance(self.args, FileOptions) else ()

    @property
    def places(self) -> Sequence[str]:
        """What it reads."""
        return self.args.files if isinstance(self.args, FileOptions) else self.args.places


@dataclass
class Target:
    """Where results go, and what is said of files there."""

    to: str
    rotation: Rotation
    at: Location
    limit: str | None = None

    @property
    def takes_messages(self) -> bool:
        return takes_messages(self.to)


@dataclass
class Flow:
    """A pipeline as it was declared. document: its file, for errors that name a line."""

    declared: PipelineFile
    document: Document
    sources: list[Source] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def refused(self, at: Location, text: str) -> UsageError:
        """What is wrong with a value of the file."""
        return self.document.refused([Problem(at, text)])


def read_flow(path: str) -> Flow:
    """Raises UsageError that names file, line and key."""
    document = load(path)
    flow = Flow(document.checked(PipelineFile), document)
    for number, one in enumerate(flow.declared.inputs):
        at: Location = ("inputs", number)
        try:
            flow.sources.append(_source(one, flow.declared.filters, at))
        except UsageError as error:
            raise flow.refused(at, str(error)) from None
    for number, to in enumerate(flow.declared.outputs):
        flow.targets.append(_target(to, ("outputs", number)))
    return flow


def _source(one: CaptureInput | FilesInput, filters: FilterSection, at: Location) -> Source:
    """Raises UsageError."""
    given = {**_given(filters), **_given(one), "quiet": True}
    args: CaptureOptions | FileOptions
    if isinstance(one, CaptureInput):
        args = CaptureOptions.of({"places": given.pop("capture"), **given})
        settings_of(args)
        common.engine(args.options(False, False))
        return Source(args, at)
    given.pop("speed", None)
    args = FileOptions.of(given)
    common.engine(args.options(False, False))
    return Source(args, at, one.speed)


def _given(options: Section) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.model_fields_set}


def _target(one: OutputSection | str, at: Location) -> Target:
    if not isinstance(one, OutputSection):
        return Target(one, Rotation(existing="append"), at)
    rotation = Rotation(one.rotate_size, one.rotate_time, one.existing)
    return Target(one.to, rotation, (*at, "to"), one.limit)
