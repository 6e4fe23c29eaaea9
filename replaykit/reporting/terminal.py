"""Tables and live views, for a terminal or a pipe.

Owns the only doors to rich: what a cell, a title or a line holds is shown as plain text, never read as
markup. Output to a pipe is neither cut nor wrapped, and has no colours.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from replaykit.plain import emit, say, visible

_UNCUT = 1_000_000
"""Columns of a pipe: nothing is wider."""


class PlainTable(Table):
    """A table whose cells, title and caption are plain text, made visible."""

    def __init__(self, *, title: str | None = None, caption: str | None = None) -> None:
        super().__init__(
            title=None if title is None else _text(title),
            caption=None if caption is None else _text(caption),
            title_justify="left",
            caption_justify="left",
            header_style="bold",
            box=None,
            pad_edge=False,
        )

    def add_row(self, *cells: RenderableType | None, **more: Any) -> None:
        super().add_row(*(Text(visible(c)) if isinstance(c, str) else c for c in cells), **more)


def _text(lines: str) -> Text:
    """A title or a caption: its line ends are ours."""
    return Text("\n".join(visible(line) for line in lines.split("\n")))


def console(stderr: bool = False) -> Console:
    """Never reads markup, emoji codes or colours out of text."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        width=None if terminal else _UNCUT,
        no_color=None if terminal else True,
        markup=False,
        emoji=False,
        highlight=False,
    )


def as_text(table: RenderableType) -> str:
    """As a file gets it: uncut, without colours."""
    file = io.StringIO()
    Console(file=file, width=_UNCUT, no_color=True, markup=False, emoji=False, highlight=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none."""
    return console().width if sys.stdout.isatty() else None


def show(table: RenderableType) -> None:
    """On standard output."""
    if sys.stdout.isatty():
        console().print(table)
    else:
        emit(as_text(table))


class LiveView:
    """A picture that refreshes in its place.

    What goes wrong in showing is said once and ends nothing else.
    """

    def __init__(self, stderr: bool = False, transient: bool = True) -> None:
        self.console = console(stderr)
        self._live = Live(console=self.console, auto_refresh=False, transient=transient)
        self._said = False

    def start(self) -> None:
        self._guarded(self._live.start)

    def update(self, picture: RenderableType) -> None:
        """Drawn before rich's own view has it: a picture that cannot be drawn leaves the last one."""

        def draw() -> None:
            lines = self.console.render_lines(picture, pad=False)
            self._live.update(SegmentLines(lines, new_lines=True), refresh=True)

        self._guarded(draw)

    def stop(self) -> None:
        self._guarded(self._live.stop)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            if not self._said:
                self._said = True
                say(
                    f"replaykit: the live view cannot be shown: {type(error).__name__}: {error}; the work"
                    " goes on"
                )
