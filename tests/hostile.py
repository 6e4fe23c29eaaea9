"""Names that somebody chose in order to do harm, for every place that shows names."""

NAMES = (
    "x[/b]",
    "[bold red]x[/bold red]",
    ":skull:",
    "\x1b[31mred\x1b]0;owned\x07",
    "\x9b31mred",
    "a\nb\r\nFAKE: line",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "zero\u200bwidth",
    "nul\x00byte",
    "del\x7f",
    '=HYPERLINK("http://evil.example")',
    "+1+1",
    "@SUM(A1)",
    "</script><script>alert(1)</script>",
    '"quoted" \\ {x="y"}',
    "a|b`c``d",
    "%0Aabc::error::",
    "\udcff",
    "<!channel>",
)


def harmless(text: str) -> bool:
    """Nothing in it moves a cursor or turns the direction; lines end where lines end."""
    return all(c.isprintable() or c == "\n" for c in text)
