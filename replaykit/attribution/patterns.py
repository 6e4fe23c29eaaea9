"""Endpoint patterns from files: one a line, or the paths of an OpenAPI description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from replaykit.errors import UsageError


def read_patterns(name: str) -> tuple[str, ...]:
    """Reads patterns such as `/users/{id}`: a text file (# comments) or OpenAPI in JSON or YAML.

    Raises UsageError.
    """
    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"{name}: {str(reason).lower()}") from None
    if name.endswith((".json", ".yaml", ".yml")):
        return _openapi(name, text)
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.partition("#")[0].strip()
        if pattern and not pattern.startswith("/"):
            raise UsageError(f"{name}:{number}: a pattern begins with /, as in /users/{{id}}")
        if pattern:
            out.append(pattern)
    return tuple(out)


def _openapi(name: str, text: str) -> tuple[str, ...]:
    if name.endswith(".json"):
        try:
            document: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    else:
        import yaml  # loaded only here: most runs start without it

        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}" if mark is not None else ""
            raise UsageError(f"{name}{where}: not YAML") from None
    paths = document.get("paths") if isinstance(document, dict) else None
    if not isinstance(paths, dict) or not paths:
        raise UsageError(f"{name}: no OpenAPI description: it has no `paths`")
    servers = document.get("servers") or [{"url": document.get("basePath") or ""}]
    bases = {urlsplit(str(s.get("url", ""))).path.rstrip("/") for s in servers if isinstance(s, dict)} or {""}
    return tuple(base + str(path) for base in sorted(bases) for path in paths)
