"""Runs of a long study, kept: each finished one is a line of a file, and a study that was stopped goes on there.

A run is known by its key, a dict of names and numbers; the file has a JSON object a line, {"key": ..., "result": ...}. A
line that a stop cut short is passed over and its run is made again.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from studies import _study

Key = dict[str, Any]


class Runs:
    """The finished runs of a file; without a file they are kept in memory alone."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self.path, self.found = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        for line in lines:
            try:
                kept = json.loads(line)
            except ValueError:
                continue
            self.found[name(kept["key"])] = kept["result"]

    def get(self, key: Key) -> Any:
        """The result of a run, None where it has not been made."""
        return self.found.get(name(key))

    def make(self, keys: Iterable[Key], run: Callable[[Key], Any], label: str, until: float | None = None) -> None:
        """Make the runs that are missing, each written down when it is done; none is begun after `until` (monotonic)."""
        missing = [key for key in keys if name(key) not in self.found]
        for key in _study.progress(missing, label):
            if until is not None and time.monotonic() >= until:
                return
            self.keep(key, run(key))

    def keep(self, key: Key, result: Any) -> None:
        """Write a run down."""
        self.found[name(key)] = result
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + json.dumps({"key": key, "result": result}) + "\n")


def name(key: Key) -> str:
    """A key as text."""
    return json.dumps(key, sort_keys=True)
