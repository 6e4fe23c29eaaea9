"""Commands of Typer from models of options: a field is an option, and what Typer read is the model again."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand

from replaykit.config.options import Described, Options

WORDS = "replaykit.words"
"""Under which a context keeps a command's words, for completion."""

M = TypeVar("M", bound=Options)


class Interrupted(Exception):
    """By Ctrl-C, while a command ran."""


class Command(TyperCommand):
    """A command whose flags may stand without their value where the model says what that means."""

    bare: dict[str, str]
    examples: list[str]
    other_spellings: frozenset[str]

    def get_params(self, ctx: Any) -> list[Any]:
        return as_given(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        ctx.meta[WORDS] = tuple(args)  # which the parser takes apart
        for place, word in enumerate(given):
            following = given[place + 1] if place + 1 < len(given) else ""
            if word in self.bare and not re.fullmatch(r"-?[0-9]+", following):
                given[place] = f"{word}={self.bare[word]}"
        return super().parse_args(ctx, given)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            self._for_people(parameter)
        super().format_help(ctx, formatter)

    def _for_people(self, parameter: Any) -> None:
        """Square brackets are meant as such, not as markup; one spelling is enough, and a kind only where it
        says something.
        """
        parameter.help = escaped(parameter.help or "")
        if isinstance(parameter, TyperArgument):
            parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        elif parameter.is_flag:
            parameter.metavar = ""
        parameter.opts = [flag for flag in parameter.opts if flag not in self.other_spellings]


class _AsGiven:
    """What Typer would make of a value: here nothing, for the model does, and in its own words.

    Typer would load pydantic and build an adapter for each option, even of help.
    """

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        return () if several and value is None else value


def as_given(parameters: list[Any]) -> list[Any]:
    """Leaves values to the model."""
    for parameter in parameters:
        parameter._runtime_param = _AsGiven()
    return parameters


def escaped(text: str) -> str:
    """As markup that shows the text."""
    return re.sub(r"(\\*)(\[[a-z#/@?])", r"\1\1\\\2", text, flags=re.IGNORECASE)


def command(
    name: str, help: str, model: type[M], run: Callable[[M], int], examples: Sequence[str], panel: str = ""
) -> Command:
    """A command with the model's fields for options, which calls `run` with the model filled in."""

    def called(**values: Any) -> int:
        try:
            return run(model.of(values))
        except KeyboardInterrupt:  # which Typer would make an exit of
            raise Interrupted from None

    described = list(model.described())
    parameters = [_parameter(one) for one in described]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        name,
        cls=Command,
        help=f"{help[0].upper()}{help[1:]}.",
        short_help=help,
        rich_help_panel=panel,
        epilog="\n\n".join(
            ["Example:" if len(examples) == 1 else "Examples:", *(f"  {escaped(e)}" for e in examples)]
        ),
    )(called)
    made = typer.main.get_command(app)
    assert isinstance(made, Command)
    made.bare = {
        f: d.option.bare for d in described if d.option.bare is not None for f in d.option.spellings(d.name)
    }
    made.examples = list(examples)
    made.other_spellings = frozenset(flag for d in described for flag in d.option.also)
    return made


def _parameter(one: Described) -> inspect.Parameter:
    option, annotation = one.option, _for_typer(one.annotation)
    choices = _choices(annotation)
    complete = None if option.complete is None else _completing(option.complete)
    if option.argument:
        info: Any = typer.Argument(
            metavar=option.metavar or one.name.upper(),
            help=option.help,
            show_default=False,
            autocompletion=complete,
        )
    else:
        info = typer.Option(
            *option.spellings(one.name),
            metavar=option.metavar or _metavar(choices),
            help=_help(option.help, choices, one.default),
            rich_help_panel=one.panel or None,
            hidden=option.hidden,
            show_default=False,
            autocompletion=complete,
        )
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if one.required else one.default,
        annotation=Annotated[annotation, info],
    )


def _choices(annotation: Any) -> tuple[str, ...]:
    """Of an option that is one of few words."""
    kinds = [annotation, *get_args(annotation)]
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def _metavar(choices: tuple[str, ...]) -> str | None:
    return "WORD" if choices else None


def _help(text: str, choices: tuple[str, ...], default: object) -> str:
    """The words it may be are told, however narrow the terminal is."""
    words = ", ".join(f"{choice} (default)" if choice == default else choice for choice in choices)
    return ": ".join(filter(None, (text, words)))


def _for_typer(annotation: Any) -> Any:
    """Flags and choices as they are, for help and completion; the rest as text, of which the model makes what
    it wants.
    """
    if get_origin(annotation) is Annotated:
        return _for_typer(get_args(annotation)[0])
    kinds = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is tuple:
        return list[str]
    if annotation is bool or get_origin(annotation) is Literal:
        return annotation
    if len(kinds) == 1 and len(kinds) < len(get_args(annotation)):
        return _for_typer(kinds[0]) | None
    return str


def _completing(name: str) -> Callable[[typer.Context, str], list[str]]:
    """Of `replaykit.cli.completing`, what begins so."""

    def fitting(ctx: typer.Context, incomplete: str) -> list[str]:
        from replaykit.cli import completing

        found: list[str] = getattr(completing, name)(ctx.meta[WORDS], incomplete)
        return [value for value in found if value.startswith(incomplete)]

    return fitting
