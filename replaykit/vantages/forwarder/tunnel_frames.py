"""Frames of HTTP/2 (RFC 9113 §4.1) as the ends of a tunnel read and write them, and how large they are."""

from __future__ import annotations

import struct

WINDOW = 4 << 20
FRAME = (1 << 17) - 9  # with its head: whole records of TLS
HEAD = 9
DATA_HEAD = struct.Struct(">HBBBI")
PADDED, END_STREAM, WINDOW_UPDATE = 0x8, 0x1, 0x8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """A whole one."""
    return DATA_HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, number) + payload
