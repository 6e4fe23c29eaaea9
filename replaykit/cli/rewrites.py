"""Rules over messages on the move, as flags that `capture`, `replay` and pipelines share."""

from __future__ import annotations

import re
from dataclasses import replace

from replaykit.engine.options import header_rule
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.pipeline.options import FilterOptions, RewriteOptions


def split(flag: str, text: str, by: str, example: str) -> tuple[str, str]:
    """Two parts. Raises UsageError naming the flag."""
    first, found, second = text.partition(by)
    if not found:
        raise UsageError(f"{flag} {text!r}: give both parts with {by!r} between, as in {example}")
    return first, second


def percent(flag: str, text: str) -> tuple[bytes, int]:
    """`NAME:25%`, or the older `NAME:1/4`. Raises UsageError."""
    name, value = split(flag, text, ":", "user-id:25%")
    value = value.strip()
    if match := re.fullmatch(r"([0-9]+)%", value):
        return name.encode(), int(match[1])
    if match := re.fullmatch(r"([0-9]+)/([1-9][0-9]*)", value):
        return name.encode(), int(int(match[1]) / int(match[2]) * 100)
    raise UsageError(f"{flag} {text!r}: give a percentage, as in user-id:25%")


_REFERENCE = re.compile(rb"\$(?:\$|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))")


def absent_group(pattern: str, replacement: bytes) -> str | None:
    """The first group that a replacement names and the pattern lacks."""
    try:
        compiled = re.compile(
            pattern.replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!")
        )
    except re.error:
        return None  # said where the rules are made, in their own words
    for found in _REFERENCE.finditer(replacement):
        name = (found[1] or found[2] or b"0").decode()
        known = int(name) <= compiled.groups if name.isdecimal() else name in compiled.groupindex
        if not known:
            return name
    return None


def rules(args: RewriteOptions, prefix: str = "--") -> Rules:
    """The rules of options; prefix: how their flags begin. Raises UsageError."""

    def two(name: str, by: str, example: str) -> list[tuple[str, str]]:
        values = getattr(args, name.replace("-", "_"))
        return [split(f"{prefix}{name}", text, by, example) for text in values]

    rewrites = []
    for name, rest in two("rewrite-header", ":", "Host:(.*).example.com,$1.beta.example.com"):
        pattern, value = split(
            f"{prefix}rewrite-header", rest.strip(), ",", "Host:(.*).example.com,$1.beta.example.com"
        )
        rewrites.append((name.strip().encode(), pattern, value.encode()))
    made = Rules(
        basic_auth=tuple(args.basic_auth_filter),
        header_limits=tuple(percent(f"{prefix}header-limiter", t) for t in args.header_limiter),
        param_limits=tuple(percent(f"{prefix}param-limiter", t) for t in args.param_limiter),
        set_headers=tuple(
            (n.strip().encode(), v.strip().encode()) for n, v in two("set-header", ":", "User-Agent:Gor")
        ),
        set_params=tuple(
            (n.strip().encode(), v.strip().encode()) for n, v in two("set-param", "=", "api_key=1")
        ),
        rewrite_urls=tuple(
            (p, v.encode()) for p, v in two("rewrite-url", ":", "/v1/user/([^/]+)/ping:/v2/user/$1/ping")
        ),
        rewrite_headers=tuple(rewrites),
    )
    for flag, regex, replacement in (
        *(("rewrite-url", p, v) for p, v in made.rewrite_urls),
        *(("rewrite-header", p, v) for _, p, v in made.rewrite_headers),
    ):
        missing = absent_group(regex, replacement)
        if missing is not None:
            raise UsageError(
                f"{prefix}{flag} {regex}: the pattern has no group {missing!r}, which the replacement names; "
                "before letters, digits or _ write ${1}, for a dollar sign $$"
            )
    for field, text in made.set_headers:
        if b"\n" in field + text or b"\r" in field + text:
            raise UsageError("--set-header: a header cannot hold a line end")
    return made


def filter_rules(made: Rules, filters: FilterOptions) -> Rules:
    """With the filters too, where no engine applies them. Raises UsageError."""
    return replace(
        made,
        allow_headers=tuple(map(header_rule, filters.allow_header)),
        deny_headers=tuple(map(header_rule, filters.disallow_header)),
        allow_methods=tuple(f"^{re.escape(m)}$" for m in filters.allow_method),
        deny_methods=tuple(f"^{re.escape(m)}$" for m in filters.disallow_method),
        allow_urls=tuple(filters.allow_url),
        deny_urls=tuple(filters.disallow_url),
    )


def sets_host(chosen: Rules) -> bool:
    """A rule says what Host is, so the target's name does not take its place."""
    named = [name for name, _ in chosen.set_headers] + [name for name, _, _ in chosen.rewrite_headers]
    return any(name.lower() == b"host" for name in named)
