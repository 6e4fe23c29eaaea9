"""Of the commands `forward`, `tunnel`, `users`, `machines`, `serve`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from replaykit.cli.options.shared import ApiOptions, LedgerOptions
from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options, Whole


class ForwardOptions(ApiOptions):
    map: Annotated[
        Texts,
        Option(
            "hands on this port; on 127.0.0.1 unless an address is given", "[ADDRESS:]PORT:HOST:PORT[/udp]"
        ),
    ] = ()
    config: Annotated[
        Text | None, Option("mappings, hosts and clients (YAML); read again when it changes", "FILE")
    ] = None
    ledger: Annotated[
        Text | None, Option("a file or a database's URL (default: usage.db in the state folder)", "LEDGER")
    ] = None
    state: Annotated[
        Text | None,
        Option(
            "keeps what the API makes (default: beside the ledger, such as usage.db.forward.json)", "FILE"
        ),
    ] = None
    rules: Annotated[Text | None, Option("rules (YAML); see replaykit rules", "FILE")] = None
    time_zone: Annotated[
        Text | None, Option("of a new ledger: where its days begin (default: this machine's)", "ZONE")
    ] = None
    quiet: Annotated[bool, Option("says nothing but troubles")] = False
    tunnel: Annotated[
        Text | None,
        Option(
            "takes tunnels here; needs the next three",
            "ADDRESS:PORT",
            panel="tunnels from behind a NAT (see replaykit tunnel)",
        ),
    ] = None
    tunnel_certificate: Annotated[
        Text | None,
        Option("this server's, PEM", "FILE", panel="tunnels from behind a NAT (see replaykit tunnel)"),
    ] = None
    tunnel_key: Annotated[
        Text | None, Option("its key, PEM", "FILE", panel="tunnels from behind a NAT (see replaykit tunnel)")
    ] = None
    tunnel_ca: Annotated[
        Text | None,
        Option(
            "who signed the certificates of those that may come, PEM",
            "FILE",
            panel="tunnels from behind a NAT (see replaykit tunnel)",
        ),
    ] = None


class TunnelOptions(Options):
    place: Annotated[Text | None, Option("where a forwarder takes tunnels", "SERVER:PORT", argument=True)] = (
        None
    )
    certificate: Annotated[
        Text | None, Option("this client's, PEM; its common name is the client's name", "FILE")
    ] = None
    key: Annotated[Text | None, Option("its key, PEM", "FILE")] = None
    ca: Annotated[Text | None, Option("who signed the server's certificate, PEM", "FILE")] = None
    allow: Annotated[
        Texts,
        Option(
            "what the server may ask for, a glob such as 192.168.1.*:22 (default: this machine only); may be"
            " repeated",
            "HOST:PORT",
        ),
    ] = ()
    make_keys: Annotated[
        Text | None,
        Option(
            "makes an authority, unless DIR has one, and what --server and --client name", "DIR", panel="keys"
        ),
    ] = None
    server: Annotated[
        Texts, Option("the server's name or address; may be repeated", "NAME", panel="keys")
    ] = ()
    client: Annotated[Texts, Option("a client's name; may be repeated", "NAME", panel="keys")] = ()


class UsersOptions(ApiOptions):
    interface: Annotated[Texts, Option("may be repeated", "NAME", complete="interfaces")] = ()
    users: Annotated[
        Text | None,
        Option(
            "who has which address or mark: a file (YAML, CSV, JSON), cmd:COMMAND, or http(s)://…", "PLACE"
        ),
    ] = None
    source: Annotated[
        Literal["auto", "nftables", "ebpf", "iptables", "tc"],
        Option(
            "nftables: our own table (--install); ebpf: programs of our own, as long as this runs; iptables:"
            " rules that set marks; tc: filters; auto: the table if it is installed, else mark rules if there"
            " are any, else ebpf"
        ),
    ] = "auto"
    every: Annotated[Text, Option("how often counters are read (default 10s)", "TIME")] = "10s"
    once: Annotated[bool, Option("reads once, prints what counters stand at, and ends")] = False
    check: Annotated[
        bool,
        Option(
            "says which rules that set marks (with --source tc: which filters) count a packet twice, and"
            " ends: 0 where none does, else 1"
        ),
    ] = False
    ledger: Annotated[
        Text | None, Option("a file or a database's URL (default: usage.db in the state folder)", "LEDGER")
    ] = None
    prometheus: Annotated[
        Text | None,
        Option(
            "serves /metrics there; beyond this machine with the token in REPLAYKIT_TOKEN", "ADDRESS:PORT"
        ),
    ] = None
    rules: Annotated[Text | None, Option("rules (YAML); see replaykit rules", "FILE")] = None
    limit_by: Annotated[
        Literal["auto", "tc", "nftables"],
        Option(
            "what limits a user's rate: tc lets packets wait, nftables drops them; auto: tc, unless the"
            " interface's qdisc is somebody's or has several queues"
        ),
    ] = "auto"
    time_zone: Annotated[Text | None, Option("of a new ledger (default: this machine's)", "ZONE")] = None
    quiet: Annotated[bool, Option("no table")] = False
    install: Annotated[
        bool,
        Option(
            "makes it, counting on --interface, and ends; it outlives this program",
            panel="our table of nftables",
        ),
    ] = False
    size: Annotated[
        Whole, Option("addresses a family (default 65535)", "N", panel="our table of nftables")
    ] = 65535
    list_rules: Annotated[
        bool, Option("shows the rules, and ends", only=("--list",), panel="our table of nftables")
    ] = False
    remove: Annotated[
        bool, Option("takes it and all limits away, and ends", panel="our table of nftables")
    ] = False
    yes: Annotated[bool, Option("--remove: without asking", panel="our table of nftables")] = False


class MachinesOptions(Options):
    panel: ClassVar[str] = "export, as pve-traffic-monitor spells it"

    what: Annotated[
        Literal["run", "list", "config", "import", "service"],
        Option(
            "run (default): polls, counts, enforces; list: the machines now; config: asks, tries and writes"
            " the file; import: the data folder of pve-traffic-monitor into the ledger; service: install,"
            " start, stop, enable, status, logs, … by systemd",
            argument=True,
            panel="",
        ),
    ] = "run"
    folder: Annotated[
        Text | None, Option("of import, of service", "FOLDER|ACTION", argument=True, panel="")
    ] = None
    config: Annotated[
        Text, Option("JSON or YAML (default config.json)", "FILE", also=("-config",), panel="")
    ] = "config.json"
    dry_run_rules: Annotated[bool, Option("judges and logs, does nothing to any machine", panel="")] = False
    quiet: Annotated[bool, Option("says nothing but troubles", panel="")] = False
    export: Annotated[Text | None, Option("", "VMID|all", also=("-export",))] = None
    format: Annotated[Literal["json", "png", "html", "csv"], Option("", also=("-format",))] = "html"
    period: Annotated[Literal["minute", "hour", "day", "month"], Option("", also=("-period",))] = "hour"
    direction: Annotated[
        Literal["both", "rx", "tx", "download", "upload"], Option("", also=("-direction",))
    ] = "both"
    start: Annotated[Text | None, Option("", "TIME", also=("-start",))] = None
    end: Annotated[Text | None, Option("", "TIME", also=("-end",))] = None
    date: Annotated[Text | None, Option("", "DATE", also=("-date",))] = None
    dark: Annotated[bool, Option("", also=("-dark",))] = False
    cleanup: Annotated[
        Literal["range", "vm", "before"] | None, Option("", also=("-cleanup",), panel="cleanup")
    ] = None
    vmid: Annotated[Text | None, Option("", "VMID", also=("-vmid",), panel="cleanup")] = None
    before: Annotated[Text | None, Option("", "DATE", also=("-before",), panel="cleanup")] = None
    dry_run: Annotated[bool, Option("says what would be deleted", also=("-dry-run",), panel="cleanup")] = (
        False
    )
    yes: Annotated[bool, Option("deletes without asking", also=("-yes",), panel="cleanup")] = False


class ServeOptions(LedgerOptions, ApiOptions):
    rules: Annotated[
        Text | None,
        Option("rules (YAML), to show what is left of their limits; nothing is enforced here", "FILE"),
    ] = None
    quiet: Annotated[bool, Option("says nothing but troubles")] = False


EXAMPLES = {
    "forward": (
        "replaykit forward --map 30009:127.0.0.1:22",
        "replaykit forward --map 5300:127.0.0.1:53/udp --ledger usage.db --api 127.0.0.1:8080",
        "replaykit forward --config forward.yaml --rules rules.yaml",
    ),
    "tunnel": (
        "replaykit tunnel --make-keys keys/ --server tunnel.example.org --client home",
        (
            "replaykit forward --tunnel 0.0.0.0:7000 --tunnel-certificate keys/server.pem --tunnel-key"
            " keys/server.key --tunnel-ca keys/ca.pem"
        ),
        "replaykit tunnel tunnel.example.org:7000 --certificate home.pem --key home.key --ca ca.pem",
    ),
    "users": (
        "replaykit users --interface wg0 --install",
        "replaykit users --interface wg0 --users users.yaml --ledger usage.db --prometheus 127.0.0.1:9901",
        "replaykit users --interface wg0 --source ebpf --rules rules.yaml",
    ),
    "machines": (
        "replaykit machines config",
        "replaykit machines -config config.json",
        "replaykit machines list -config config.json",
        "replaykit machines -config config.json -export 100 -period day -format html",
        "replaykit machines -config config.json -cleanup before -before 2026-01-01 -dry-run",
    ),
    "serve": (
        "replaykit serve usage.db",
        "replaykit serve postgresql://replaykit@db/usage --exchanges day/ --api 127.0.0.1:8080",
    ),
}
