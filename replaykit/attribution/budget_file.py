"""The gate's budgets, as a file declares them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ConfigDict, Field

from replaykit.config.kinds import Size
from replaykit.config.places import Problem
from replaykit.config.sections import Open


class BudgetsFile(Open):
    """Bytes per request, by endpoint or pattern of endpoints: a line each, at the top or under
    `endpoints`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"minProperties": 1})
    __pydantic_extra__: dict[str, Size]

    endpoints: dict[str, Size] = Field({}, description="The lines, in place of lines at the top")

    @property
    def budgets(self) -> list[tuple[str, int]]:
        """Pattern and bytes per request, in the file's order."""
        return list((self.endpoints or self.__pydantic_extra__).items())

    def disagreements(self) -> Iterator[Problem]:
        if self.endpoints and self.__pydantic_extra__:
            yield Problem(("endpoints",), "lines under `endpoints`, or lines at the top; not both")
        if not self.budgets:
            yield Problem((), "write a line for each endpoint: '/users/{id}': 20kB")
