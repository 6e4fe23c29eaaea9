"""An object file of eBPF as clang makes it, ELF with BTF (docs.kernel.org/bpf/btf.html): programs, and the
maps that they use.

Reads what ours need and no more: this machine's byte order, programs that call none of each other, maps in
`.maps`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = struct.Struct("=16sHHIQQQIHHHHHH")
_MAGIC = b"\x7fELF\x02"
_BPF_MACHINE = 247
_SECTION = struct.Struct("=IIQQQQIIQQ")
_SYMBOL = struct.Struct("=IBBHQQ")
_RELOCATION = struct.Struct("=QQ")
_SYMBOL_TABLE, _RELOCATIONS = 2, 9
_ADDRESS_OF_MAP = 1  # R_BPF_64_64, of an instruction that loads 64 bits
_BTF_HEADER = struct.Struct("=HBBIIIII")
_THREE = struct.Struct("=III")
_ONCE = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""Bytes after a type of BTF, by its kind, and after that for each of its members."""


class Section(NamedTuple):
    """link: the section that explains this one. about: the section that this one changes."""

    name: str
    kind: int
    data: bytes
    link: int
    about: int


class Symbol(NamedTuple):
    name: str
    section: int
    value: int
    size: int


class BpfObject:
    """Raises ValueError where it is none."""

    def __init__(self, data: bytes) -> None:
        self._sections = list(_sections(data))
        self._symbols = list(self._read_symbols())
        data_of = {s.name: s.data for s in self._sections}
        self.license = data_of["license"]
        self.maps = dict(_maps(data_of[".BTF"]))
        """What each was declared with: type, key_size, value_size, max_entries."""

    def program(self, name: str, files: Mapping[str, int]) -> bytes:
        """Its instructions. files: the descriptors of the maps."""
        place = next(s for s in self._symbols if s.name == name)
        end = place.value + place.size
        code = bytearray(self._sections[place.section].data[place.value : end])
        for section in self._sections:
            if section.kind != _RELOCATIONS or section.about != place.section:
                continue
            for at, what in _RELOCATION.iter_unpack(section.data):
                if place.value <= at < end:
                    if what & 0xFFFFFFFF != _ADDRESS_OF_MAP:
                        raise ValueError(f"{name} uses something other than a map")
                    # In the upper half of the second byte BPF_PSEUDO_MAP_FD, in the value the descriptor.
                    code[at - place.value + 1] |= 1 << 4
                    file = files[self._symbols[what >> 32].name]
                    struct.pack_into("=i", code, at - place.value + 4, file)
        return bytes(code)

    def _read_symbols(self) -> Iterator[Symbol]:
        for table in (s for s in self._sections if s.kind == _SYMBOL_TABLE):
            names = self._sections[table.link].data
            for name, _, _, section, value, size in _SYMBOL.iter_unpack(table.data):
                yield Symbol(_text(names, name), section, value, size)


def _sections(data: bytes) -> Iterator[Section]:
    magic, _, machine, _, _, _, begin, _, _, _, _, _, count, names = _HEADER.unpack_from(data)
    if not magic.startswith(_MAGIC) or machine != _BPF_MACHINE:
        raise ValueError("no object file of eBPF")
    found = [_SECTION.unpack_from(data, begin + n * _SECTION.size) for n in range(count)]
    bodies = [data[offset : offset + size] for _, _, _, _, offset, size, _, _, _, _ in found]
    for (name, kind, _, _, _, _, link, about, _, _), body in zip(found, bodies, strict=True):
        yield Section(_text(bodies[names], name), kind, body, link, about)


def _maps(btf: bytes) -> Iterator[tuple[str, dict[str, int]]]:
    """Each variable in `.maps` is a struct, whose members point to arrays that are as long as the number that
    is meant.
    """
    _, _, _, size, types_at, types_size, texts_at, texts_size = _BTF_HEADER.unpack_from(btf)
    texts = btf[size + texts_at :][:texts_size]
    types = list(_types(btf[size + types_at :][:types_size]))

    def number(pointer: int) -> int:
        _, array, _ = types[pointer]
        _, _, count = _THREE.unpack(types[array][2])
        return int(count)

    for name, _, variables in types:
        if _text(texts, name) == ".maps":
            for variable, _, _ in _THREE.iter_unpack(variables):
                called, declared, _ = types[variable]
                members = _THREE.iter_unpack(types[declared][2])
                yield _text(texts, called), {_text(texts, n): number(pointer) for n, pointer, _ in members}


def _types(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Of each, where its name is, the other type (or the size) that it says, and what follows."""
    yield 0, 0, b""  # void
    at = 0
    while at < len(data):
        name, information, says = _THREE.unpack_from(data, at)
        kind, begin = information >> 24 & 0x1F, at + _THREE.size
        at = begin + _ONCE.get(kind, 0) + _EACH.get(kind, 0) * (information & 0xFFFF)
        yield name, says, data[begin:at]


def _text(texts: bytes, at: int) -> str:
    return texts[at : texts.index(b"\0", at)].decode()
