"""A file of rules in the form of earlier versions, written anew.

Owns the edits: only what is written otherwise today is touched, so that comments, order, layout and
`${NAME}` stay as somebody wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from replaykit.config.reading import Document
from replaykit.errors import UsageError
from replaykit.rules import alerts, limits
from replaykit.rules.language import ALL, form

_RENAMED = {
    "alerts": {"by": "traffic", "above": "limit"},
    "limits": {"kind": "usage", "hold": "recover_for"},
}
_ABOUT = {"alerts": "traffic", "limits": "usage"}
Pair = tuple[yaml.Node, yaml.Node]


@dataclass(frozen=True)
class Edit:
    """What stands from `start` to before `end`, by characters, is to be this."""

    start: int
    end: int
    text: str


def convert(text: str, file: str) -> str:
    """The text in today's form, with the same rules; as it is where it is in that form. Raises UsageError."""
    written = form(Document(text, file).data)
    if written == "rules":
        return text
    if not written:
        raise UsageError(f"{file}: these are not rules in a form of earlier versions")
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise UsageError(f"{file}:{line}: *{token.value}: write out what it stands for, then convert")
    edits = [edit for rule in _rules(text) for edit in _of_rule(text, rule, written)]
    out = text
    for edit in sorted(edits, key=lambda e: (e.start, e.end), reverse=True):
        out = out[: edit.start] + edit.text + out[edit.end :]
    if not _same(text, out, file, written):
        raise UsageError(
            f"{file}: cannot be written anew as it is laid out; write what is in | or > in one line"
        )
    return out


def _same(before: str, after: str, file: str, written: str) -> bool:
    """Whether both say the same, where what is wrong with the file or missing in the environment lets one
    see it.
    """
    read: Any = alerts.parse_rules if written == "alerts" else limits.parse_rules
    try:
        wanted = read(before, file)
    except UsageError:
        return True
    try:
        return bool(_placeless(read(after, file)) == _placeless(wanted))
    except UsageError:
        return False


def _placeless(found: Any) -> Any:
    """Without the lines on which rules stand."""
    return replace(found, rules=[replace(r, line=0) if hasattr(r, "line") else r for r in found.rules])


def _rules(text: str) -> Iterator[yaml.MappingNode]:
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    found = next(value for key, value in root.value if key.value == "rules")
    for node in found.value if isinstance(found, yaml.SequenceNode) else [found]:
        if isinstance(node, yaml.MappingNode):
            yield node


def _of_rule(text: str, rule: yaml.MappingNode, written: str) -> Iterator[Edit]:
    pairs: dict[str, Pair] = {str(key.value): (key, value) for key, value in rule.value}
    renamed = _RENAMED[written]
    for old, new in renamed.items():
        if old in pairs:
            key = pairs[old][0]
            yield Edit(key.start_mark.index, key.end_mark.index, _quoted(new, key))
    if not {*pairs} & {old for old, new in renamed.items() if new == _ABOUT[written]}:
        yield _inserted(rule, pairs, _ABOUT[written])
    if written == "alerts":
        yield from _actions(text, rule, [pairs[n] for n in ("notify", "change") if n in pairs])


def _inserted(rule: yaml.MappingNode, pairs: dict[str, Pair], about: str) -> Edit:
    """Behind its name, where nothing moves."""
    names = list(pairs)
    behind = names[names.index("name") + 1 :] if "name" in names else []
    key = pairs[behind[0] if behind and behind[0] not in ("notify", "change") else names[0]][0]
    start = key.start_mark
    between = ", " if rule.flow_style else f"\n{' ' * start.column}"
    return Edit(start.index, start.index, f"{_quoted(about, key)}: {_quoted(ALL, key)}{between}")


def _actions(text: str, rule: yaml.MappingNode, pairs: list[Pair]) -> Iterator[Edit]:
    """`notify` and `change` are one list: it stands where the first of them stood."""
    if not pairs:
        return
    made: list[tuple[str, yaml.Node]] = []
    for key, value in pairs:
        if key.value == "change":
            made += [(str(k.value).replace("-", "_"), v) for k, v in value.value]
        else:
            names = value.value if isinstance(value, yaml.SequenceNode) else [value]
            made += [("notify", name) for name in names]
    first, *others = sorted(pairs, key=lambda pair: pair[0].start_mark.index)
    key = first[0]
    if rule.flow_style or not made:
        entries = [f"{{{_quoted(kind, key)}: {_source(text, value)}}}" for kind, value in made]
        said = f"{_quoted('actions', key)}: [{', '.join(entries)}]"
    else:
        said = "\n".join(["actions:", *_lines(text, made, " " * key.start_mark.column)])
    yield Edit(key.start_mark.index, _end(first[1]), said)
    for other in others:
        yield _removed(text, rule, other)


def _lines(text: str, made: list[tuple[str, yaml.Node]], margin: str) -> Iterator[str]:
    for kind, value in made:
        if isinstance(value, yaml.SequenceNode) and not value.flow_style:
            yield f"{margin}  - {kind}:"
            yield from (f"{margin}      - {_source(text, one)}" for one in value.value)
        else:
            yield f"{margin}  - {kind}: {_source(text, value)}"


def _removed(text: str, rule: yaml.MappingNode, pair: Pair) -> Edit:
    """It is never the first of the rule."""
    start, end = pair[0].start_mark.index, _end(pair[1])
    if rule.flow_style:
        before = max(_end(value) for key, value in rule.value if key.start_mark.index < start)
        return Edit(before, end, "")
    following = text.find("\n", end)
    return Edit(text.rfind("\n", 0, start) + 1, len(text) if following < 0 else following + 1, "")


def _quoted(name: str, like: yaml.Node) -> str:
    """As keys of that rule are."""
    quote = like.style if isinstance(like, yaml.ScalarNode) and like.style in ("'", '"') else ""
    return f"{quote}{name}{quote}"


def _source(text: str, node: yaml.Node) -> str:
    return text[node.start_mark.index : _end(node)].strip()


def _end(node: yaml.Node) -> int:
    """Where the last of it ends; a block's own mark is where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
