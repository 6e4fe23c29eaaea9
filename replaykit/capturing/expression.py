"""Expressions of tcpdump, compiled by libpcap where it is installed."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess

from replaykit.capturing.bpf import WHOLE, Instruction
from replaykit.errors import UsageError

ETHERNET, RAW_IP = 1, 12


def expression(text: str, link: int = ETHERNET) -> list[Instruction]:
    """A tcpdump expression, compiled by libpcap, or by tcpdump where only that is installed."""
    for name in ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so"):
        try:
            return _by_libpcap(ctypes.CDLL(name), text, link)
        except OSError:
            continue
    if shutil.which("tcpdump") is None:
        raise UsageError(
            "--filter needs libpcap or tcpdump to read its expression: apt-get install libpcap0.8"
        )
    names = {ETHERNET: "EN10MB", RAW_IP: "RAW"}
    run = subprocess.run(
        ["tcpdump", "-y", names[link], "-ddd", text], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise UsageError(
            f"--filter {text!r}: {run.stderr.strip().splitlines()[-1].removeprefix('tcpdump: ')}"
        )
    lines = run.stdout.split("\n")[1:]
    return [tuple(map(int, line.split())) for line in lines if line]  # type: ignore[misc]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("code", ctypes.c_void_p))


def _by_libpcap(library: ctypes.CDLL, text: str, link: int) -> list[Instruction]:
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = [ctypes.c_void_p]
    library.pcap_compile.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32
    ]  # fmt: skip
    library.pcap_close.argtypes = [ctypes.c_void_p]
    library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
    handle = library.pcap_open_dead(link, WHOLE)
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, 0xFFFFFFFF):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise UsageError(f"--filter {text!r}: {reason}")
        raw = ctypes.string_at(program.code, program.length * 8) if program.code else b""
        library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
    return list(struct.iter_unpack("HBBI", raw))
