"""The forwarder's configuration: what it says, and everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from replaykit.errors import UsageError
from replaykit.vantages.forwarder.config import read_config
from replaykit.vantages.forwarder.mapping import Mapping, client, mapping, plain

GOOD = """\
clients:
  - {name: home, rate_limit: 10MB/s, max_mappings: 2}
mappings:
  - {source_port: 22, target: "[::1]:2222", client: home, allow: 192.0.2.0/24, flow_limit_mb: 5}
  - {source_port: 53, target_host: dns, target_port: 53, protocol: udp}
  - {source_port: 443, protocol: host, host: "*.Example.org", target: "a:1", proxy_protocol: v2, accept_proxy: true}
"""  # noqa: E501


def test_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(GOOD)
    config = read_config(str(tmp_path / "f.yaml"))
    (home,) = config.clients
    assert (home.rate_limit, home.max_mappings, home.max_connections) == (10_000_000, 2, None)
    ssh, dns, _ = config.mappings
    assert (ssh.target_host, ssh.target_port, ssh.allow, ssh.flow_limit_mb) == (
        "::1",
        2222,
        ("192.0.2.0/24",),
        5,
    )
    assert [m.name for m in config.mappings] == ["22", "53/udp", "*.example.org:443"]
    assert plain(dns) == {"source_port": 53, "target_host": "dns", "target_port": 53, "protocol": "udp"}
    assert all(mapping(plain(m)) == m for m in config.mappings) and client(plain(home)) == home
    assert len({*config.mappings, Mapping(source_port=22, target_host="::1", target_port=2222)}) == 4


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("""\
clients:
  - {name: home, rate_limit: fast}
mappings:
  - {source_port: 99999, target: "127.0.0.1:22"}
  - {source_port: 22, target: "127.0.0.1", listen: here}
  - {source_port: 22, tarket: "127.0.0.1:22", protocol: icmp}
  - {source_port: 53, target: "a:53", protocol: udp, accept_proxy: true, deny: 300.0.0.1}
  - {source_port: 80, target: "a:80", host: a}
""")
    with pytest.raises(UsageError) as caught:
        read_config(str(path))
    said = [line.removeprefix(f"{path}:").partition("; there are")[0] for line in caught.value.lines]
    assert said == [
        "2: clients[0].rate_limit: 'fast' is no size: write 500MB (10^6) or 500MiB (2^20)",
        "4: mappings[0].source_port: 99999: give a whole number from 1 to 65535",
        "5: mappings[1].target: write HOST:PORT, such as 127.0.0.1:22",
        "6: mappings[2].tarket: this key is not known here",
        "7: mappings[3].deny: '300.0.0.1' is no network; write 192.0.2.0/24",
        "8: mappings[4].host: give the host's name with protocol host, and only there",
    ]
    path.write_text("""\
mappings:
  - {source_port: 22, target: "a:22"}
  - {source_port: 22, target: "b:22", client: nobody}
""")
    with pytest.raises(UsageError) as caught:
        read_config(str(path))
    assert (
        str(caught.value) == f"{path}:3: mappings[1]: there are two mappings of 22\n"
        f"{path}:3: mappings[1].client: there is no client 'nobody'"
    )


def test_values_of_an_api_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        mapping(
            {"source_port": "80", "target_host": "", "target_port": 0, "protocol": "icmp", "client": None}
        )
    assert (
        str(caught.value) == "source_port: '80' is no number; target_host: give a name or an address; "
        "target_port: 0: give a whole number from 1 to 65535; protocol: 'icmp': choose from tcp, udp, host"
    )
    with pytest.raises(UsageError, match="the key 'name' is missing"):
        client({"name": None})
