"""Both ends of a tunnel as children of one process: FOLDER ADDRESS PORT TARGET. For `bench.forward`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from ci.servers import free_port
from replaykit.vantages.forwarder.keys import make


def main() -> None:
    root, (listen, port, target) = Path(sys.argv[1]), sys.argv[2:5]
    keys = root / f"keys-{port}"
    make(keys, ["127.0.0.1"], ["home"])
    between = free_port()
    config = root / f"{port}.yaml"
    config.write_text(
        f"mappings: [{{ listen: {listen}, source_port: {port}, target: '127.0.0.1:{target}', use_tunnel: true"
        " }]\n"
    )
    program = [sys.executable, "-m", "replaykit"]
    server = [
        *program, "forward", "--config", str(config), "--api", "none", "--quiet", "--ledger",
        str(root / f"{port}.db"), "--state", str(root / f"{port}.json"), "--tunnel", f"127.0.0.1:{between}",
        "--tunnel-certificate", str(keys / "server.pem"), "--tunnel-key", str(keys / "server.key"),
        "--tunnel-ca", str(keys / "ca.pem"),
    ]  # fmt: skip
    client = [
        *program, "tunnel", f"127.0.0.1:{between}", "--certificate", str(keys / "home.pem"), "--key",
        str(keys / "home.key"), "--ca", str(keys / "ca.pem"),
    ]  # fmt: skip
    ends = [subprocess.Popen(command) for command in (server, client)]
    signal.signal(signal.SIGTERM, lambda *_: [e.terminate() for e in ends])
    for end in ends:
        end.wait()


if __name__ == "__main__":
    main()
