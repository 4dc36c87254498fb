"""All cases, by name; the figures of a run."""

import collections
import functools
from collections.abc import Iterable

from . import adversary, catalogue, expected, files, peers, state
from .engine import Case, Outcome, Skip, run

SECTIONS = {
    "expected": expected,
    "catalogue": catalogue,
    "peers": peers,
    "files": files,
    "state": state,
    "own": adversary,
}


@functools.cache
def cases() -> dict[str, Case]:
    """Every case; two of the same name are a mistake."""
    found: dict[str, Case] = {}
    for section in SECTIONS.values():
        for case in section.cases():
            if case.name in found:
                raise ValueError(f"two cases are called {case.name!r}")
            found[case.name] = case
    return found


def outcomes(
    backend: str, chosen: Iterable[Case], seconds: int = 0, errstate: str = "warn"
) -> tuple[dict[str, Outcome], collections.Counter[str]]:
    """What came out of each case, and why some were not asked."""
    found, skipped = {}, collections.Counter[str]()
    for case in chosen:
        if backend not in case.on:
            skipped[f"not a case for {backend}"] += 1
            continue
        try:
            found[case.name] = run(case, backend, seconds, errstate)
        except Skip as why:
            skipped[str(why)] += 1
    return found, skipped
