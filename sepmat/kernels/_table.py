"""A kernel is an ordered table of candidates with one signature; the first row that accepts the arguments, runs.

The last row is always "reference": it is written on the array API standard, accepts everything and defines the right
answer. A caller may force a row by name (`kernel="reference"`): a test, a study, a sceptic. No setting chooses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from .._check import as_choice
from ..errors import BackendError


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate: its name, what it accepts, and the function."""

    name: str
    accepts: Callable[..., bool]
    run: Callable[..., Any]


class KernelTable:
    """Candidates in order of preference, called as one function."""

    def __init__(self, name: str, reference: Callable[..., Any]) -> None:
        self.__name__ = name
        self.__doc__ = reference.__doc__
        self.rows: list[Row] = [Row("reference", lambda *args: True, reference)]

    def row(self, name: str, accepts: Callable[..., bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: add a candidate before the reference."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.rows.insert(-1, Row(name, accepts, run))
            return run

        return add

    def __call__(self, *args: Any, kernel: str | None = None) -> Any:
        try:
            if kernel is None:
                for row in self.rows:
                    if row.accepts(*args):
                        return row.run(*args)
            rows = {row.name: row for row in self.rows}
            return rows[as_choice(kernel, list(rows), self.__name__, "kernel")].run(*args)
        except (MemoryError, RuntimeError) as error:
            if type(error).__name__ != "OutOfMemoryError":  # of CuPy and of torch, neither of which is imported here
                raise
            advice = "Multiply fewer rows or columns at a time, or free what the library keeps (empty_cache, free_all_blocks)"
            raise BackendError(self.__name__, "x", f"no room on the device: {error}", "room for it", advice) from error
