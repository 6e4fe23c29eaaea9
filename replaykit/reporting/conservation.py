"""The line that says where every captured byte went."""

from __future__ import annotations

from collections.abc import Mapping

from replaykit.engine.account import CAUSES


def conservation(account: Mapping[str, int]) -> list[str]:
    """The lines that say where every captured byte went."""
    captured = account["bytes"]
    if not captured:
        return ["no bytes captured"]
    parts = [("exchanges", account["exchange_bytes"])]
    parts += [(text, account[name]) for name, text in CAUSES.items()]
    parts.append(("still in progress", account["pending_bytes"]))
    shown = " + ".join(f"{text} {count:,}" for text, count in parts if count)
    share = account["exchange_bytes"] / captured
    lines = [f"attributed {share:.2%} of {captured:,} bytes captured: {shown} = {sum(c for _, c in parts):,}"]
    notes = []
    if account["incomplete"]:
        notes.append(f"{account['incomplete']:,} of {account['exchanges']:,} exchanges incomplete")
    if account["missing_bytes"]:
        notes.append(f"{account['missing_bytes']:,} bytes were sent but not captured")
    if account["bound_hits"]:
        notes.append(f"memory bounds were reached {account['bound_hits']:,} times")
    if account["messages_cut"]:
        notes.append(f"{account['messages_cut']:,} messages not whole, and not written")
    return [*lines, *notes]
