"""Files that people write: plain values with their lines, and everything that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from replaykit.config.kinds import (
    Duration,
    Flag,
    Many,
    Number,
    Rate,
    Share,
    Size,
    Text,
    Texts,
    Url,
    number,
    one_of,
)
from replaykit.config.places import Problem
from replaykit.config.reading import Document, made, parse, read
from replaykit.config.sections import Open, Section
from replaykit.errors import UsageError

REPEATED = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 8)}]\n" for n in range(8))


class Dish(Section):
    name: Text = Field(description="What it is called")
    size: Size = Field(0, description="How large it is")
    lasts: Duration = Field(0.0, description="How long it lasts")
    part: Share = Field(1.0, description="How much of it there is")
    speed: Rate = Field(0, description="How fast it is eaten")
    hot: Flag = Field(False, description="Whether it is hot")
    weight: Number = Field(0.0, description="What it weighs")
    count: Annotated[int, number(1, 9, whole=True)] = Field(1, description="How many there are")
    taste: Annotated[str, one_of(("sweet", "sour", "salty"))] = Field(
        "sweet", description="What it tastes of"
    )
    link: Url = Field("http://a", description="More about it")
    tags: Texts = Field((), description="Words for it")
    begin: Text = Field("", alias="from", description="Where it comes from")

    def disagreements(self) -> Iterator[Problem]:
        if self.hot and self.taste == "sour":
            yield Problem(("taste",), "nothing hot is sour")


class Menu(Section):
    dishes: Many[Dish] = Field(description="All there is")
    prices: dict[str, Size] = Field({}, description="By name")


def dish(text: str) -> Dish:
    (found,) = parse(f"dishes:\n- {text}", "m.yaml", Menu).dishes
    return found


def errors(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        parse(text, "m.yaml", Menu)
    assert "\n".join(caught.value.lines) == str(caught.value)
    return list(caught.value.lines)


def test_values_of_every_kind() -> None:
    found = dish(
        "{name: 007, size: 10MiB, lasts: 1h30m, part: 30%, speed: 5MB/s, hot: yes, weight: 1.5, count: 3,"
        " taste: sour2, link: 'https://h/x', tags: one, from: 2026-11-25}".replace("sour2", "salty")
    )
    assert (found.name, found.size, found.lasts, found.part) == ("007", 10 << 20, 5400, 0.3)
    assert (found.speed, found.hot, found.weight, found.count, found.taste) == (
        5_000_000,
        True,
        1.5,
        3,
        "salty",
    )
    assert (found.link, found.tags, found.begin) == ("https://h/x", ("one",), "2026-11-25")
    assert dish("{name: '1', tags: [0x10, 1_000, 2.50]}").tags == ("0x10", "1_000", "2.50")
    assert parse('{"dishes": {"name": "a"}}', "m.json", Menu).dishes[0].name == "a"


def test_the_environment_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "pass: word # and more")
    monkeypatch.setenv("NUMBER", "007")
    monkeypatch.setenv("FLAG", "true")
    monkeypatch.setenv("QUOTED", '"5"')
    assert dish('name: "<${NAME}>"').name == "<pass: word # and more>"
    assert dish("name: ${NAME}").name == "pass: word # and more"
    assert dish("name: ${NUMBER}").name == "007" and dish("name: ${QUOTED}").name == "5"
    found = dish("{name: a, hot: '${FLAG}', weight: 1}".replace("'${FLAG}'", "true"))
    assert found.hot
    block = "name: a\n  hot: ${FLAG}\n  weight: ${NUMBER}\n  size: ${SIZE:-5MB}\n  tags: [a, '${NO:-}']"
    found = dish(block)
    assert (found.hot, found.weight, found.size, found.tags) == (True, 7.0, 5_000_000, ("a", ""))
    assert errors("dishes:\n- name: a\n  size: ${NOT_SET}${NOR_THIS}\n  hot: maybe\n") == [
        "m.yaml:3: dishes[0].size: the environment has no NOT_SET; set it, or write ${NOT_SET:-default}",
        "m.yaml:3: dishes[0].size: the environment has no NOR_THIS; set it, or write ${NOR_THIS:-default}",
        "m.yaml:4: dishes[0].hot: write true or false",
    ]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    text = """\
dishes:
  - name: a
    size: much
    nane: b
    count: 12
    taste: swete
    hot:
  - taste: sour
    hot: true
    name: b
    tags: red
    name: c
  - 7
  - {size: [1], link: ftp://x, tags: [a, true, {b: c}]}
prices: {a: 1kB, b: lots}
prizes: {}
"""
    known = "count, from, hot, lasts, link, name, part, size, speed, tags, taste, weight"
    assert errors(text) == [
        "m.yaml:3: dishes[0].size: 'much' is no size: write 500MB (10^6) or 500MiB (2^20)",
        f"m.yaml:4: dishes[0].nane: this key is not known here; there are {known} (did you mean name?)",
        "m.yaml:5: dishes[0].count: 12: give a whole number from 1 to 9",
        "m.yaml:6: dishes[0].taste: 'swete': choose from sweet, sour, salty (did you mean sweet?)",
        "m.yaml:7: dishes[0].hot: a value is needed here",
        "m.yaml:8: dishes[1].taste: nothing hot is sour",
        "m.yaml:12: dishes[1].name: this key stands here twice",
        "m.yaml:13: dishes[2]: keys and values are needed here",
        "m.yaml:14: dishes[3]: the key 'name' is missing",
        "m.yaml:14: dishes[3].size: one value is needed here, not a list or a mapping",
        "m.yaml:14: dishes[3].link: write a URL with http:// or https://",
        "m.yaml:14: dishes[3].tags[1]: a text is needed here",
        "m.yaml:14: dishes[3].tags[2]: one value is needed here, not a list or a mapping",
        "m.yaml:15: prices.b: 'lots' is no size: write 500MB (10^6) or 500MiB (2^20)",
        "m.yaml:16: prizes: this key is not known here; there are dishes, prices (did you mean prices?)",
    ]


def test_what_only_follows_from_something_wrong_is_not_told() -> None:
    (line,) = errors("dishes: {nam: a, hot: true, taste: sour}")
    assert line.startswith("m.yaml:1: dishes.nam: this key") and line.endswith("(did you mean name?)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dishes: [\n", "m.yaml:2: not YAML"),
        ("a: b: c\n", "m.yaml:1: not YAML"),
        ("\x00", "m.yaml: not YAML"),
        ("- a\n", "m.yaml:1: keys and values are needed here"),
        ("", "m.yaml:1: keys and values are needed here"),
        ("{}", "m.yaml:1: the key 'dishes' is missing"),
        ("dishes:\n", "m.yaml:1: dishes: a value is needed here"),
        ("dishes: []\nprices: 7\n", "m.yaml:2: prices: keys and values are needed here"),
        ("dishes: &a [*a]", "m.yaml:1: dishes[0]: this refers to what it is itself a part of"),
        (f"a0: &a0 [x]\n{REPEATED}", "m.yaml: not YAML: too much is referred to again and again"),
        ("[" * 5000, "m.yaml: lists and mappings stand in each other too deeply"),
        ("dishes: {name: !other x}", "m.yaml:1: dishes.name: the tag !other is not known here"),
        ("dishes: {name: 2026-99-99}\nx: 1", "m.yaml:2: x: this key is not known here"),
        ("dishes: {[a]: b, name: c}", "m.yaml:1: dishes: a key is one word or text"),
        ("dishes: {name: a, weight: .inf}", "m.yaml:1: dishes.weight: inf is no number"),
        ('dishes: {name: a, "b\\nc": 1}', r"m.yaml:1: dishes.b\nc: this key is not known"),
    ],
)
def test_one_line_of_what_is_wrong(text: str, said: str) -> None:
    (line,) = errors(text)
    assert line.startswith(said), line


def test_a_file_that_is_all_wrong_is_told_in_part() -> None:
    said = errors("".join(f"key{n}: 1\n" for n in range(1000)))
    assert len(said) == 51 and said[-1] == "m.yaml: and 951 more"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"m\.yaml: cannot be read: it is not UTF-8$"):
        read(tmp_path / "m.yaml", Menu)
    with pytest.raises(UsageError, match=r"^/nowhere.yaml: cannot be read: no such file or directory$"):
        read("/nowhere.yaml", Menu)


def test_lines_of_what_is_there_and_of_what_is_not() -> None:
    document = Document("a: 1\nb:\n  - c: 2\n    d: 3\n", "m.yaml")
    places = ((), ("a",), ("b",), ("b", 0), ("b", 0, "d"), ("b", 0, "e"), ("b", 7, "e"), ("f",))
    assert [document.line(at) for at in places] == [1, 1, 2, 3, 4, 3, 2, 1]


def test_values_that_are_in_no_file() -> None:
    assert made({"name": 5, "size": "1kB"}, Dish).size == 1000
    with pytest.raises(UsageError) as caught:
        made({"size": "x", "tags": ["a", None], "hat": 1}, Dish)
    said = str(caught.value)
    assert "size: 'x' is no size" in said and "; the key 'name' is missing" in said
    assert "hat: this key is not known here" in said and "tags[1]: a text is needed here" in said


def test_what_is_not_known_can_be_left_alone() -> None:
    class Loose(Open):
        name: Text = Field(description="What it is called")

    found = parse("name: a\nother: [1]\nmore:\n", "l.yaml", Loose)
    assert found.name == "a" and found.model_extra == {"other": [1], "more": None}
