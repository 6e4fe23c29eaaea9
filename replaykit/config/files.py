"""Which kinds of file there are, and by what each is checked.

Nothing is imported until a kind is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class FileKind:
    """model, reader: `module:name`.

    The reader takes a path, and raises UsageError where the file is wrong.
    """

    about: str
    model: str
    reader: str

    def load_model(self) -> type[BaseModel]:
        found: type[BaseModel] = _loaded(self.model)
        return found

    def check(self, path: str) -> None:
        """Raises UsageError."""
        read: Callable[[str], object] = _loaded(self.reader)
        read(path)


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


FILES = {
    "pipeline": FileKind(
        "inputs, filters and outputs, for `replaykit run`",
        "replaykit.cli.flow:PipelineFile",
        "replaykit.cli.flow:read_flow",
    ),
    "alerts": FileKind(
        "rules about traffic, for `replaykit alert` and `--alerts`",
        "replaykit.rules.language:RulesFile",
        "replaykit.rules.language:check",
    ),
    "gate": FileKind(
        "budgets, for `replaykit gate --budget`",
        "replaykit.attribution.budget_file:BudgetsFile",
        "replaykit.attribution.gate:read_budgets",
    ),
    "machines": FileKind(
        "the hypervisor and its rules, for `replaykit machines -config`",
        "replaykit.vantages.hypervisor.config_file:MachinesFile",
        "replaykit.vantages.hypervisor.config:read_config",
    ),
    "rules": FileKind(
        "rules over the ledger, for `--rules`, and about traffic",
        "replaykit.rules.language:RulesFile",
        "replaykit.rules.language:check",
    ),
    "users": FileKind(
        "the map of users, for `replaykit users --users`",
        "replaykit.vantages.netfilter.user_file:UsersFile",
        "replaykit.vantages.netfilter.users:UserMap",
    ),
    "forward": FileKind(
        "mappings and clients, for `replaykit forward --config`",
        "replaykit.vantages.forwarder.config:ForwardFile",
        "replaykit.vantages.forwarder.config:read_config",
    ),
}
