"""The script one would write with dpkt: `python -m bench.dpkt_script FILE PORT`.

Segments in order, one message a time, sizes per path; no loss, no disorder, no pipelining.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import dpkt


def main(path: str, port: int) -> int:
    buffers: dict[tuple[bytes, int, bytes, int], bytearray] = defaultdict(bytearray)
    waiting: dict[tuple[bytes, int, bytes, int], list[str]] = defaultdict(list)
    totals: dict[str, int] = defaultdict(int)
    exchanges = 0
    with open(path, "rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            tcp = ip.data
            if not isinstance(tcp, dpkt.tcp.TCP) or not tcp.data:
                continue
            key = (ip.src, tcp.sport, ip.dst, tcp.dport)
            buffer = buffers[key]
            buffer += tcp.data
            kind = dpkt.http.Request if tcp.dport == port else dpkt.http.Response
            try:
                message = kind(bytes(buffer))
            except dpkt.dpkt.NeedData:
                continue
            except dpkt.dpkt.UnpackError:
                buffer.clear()
                continue
            size = len(buffer)
            buffer.clear()
            if tcp.dport == port:
                waiting[key].append(message.uri.partition("?")[0])
                totals[message.uri.partition("?")[0]] += size
            else:
                requests = waiting[(ip.dst, tcp.dport, ip.src, tcp.sport)]
                if requests:
                    totals[requests.pop(0)] += size
                    exchanges += 1
    print(exchanges, len(totals))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
