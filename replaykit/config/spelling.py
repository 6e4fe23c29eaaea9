"""Numbers of a file, which are texts for who wants texts."""

from __future__ import annotations


class Spelt:
    """A number that remembers how it was written: `007` as a text is no 7."""

    spelling = ""


class SpeltInt(Spelt, int):
    """A whole number."""


class SpeltFloat(Spelt, float):
    """Any other."""
