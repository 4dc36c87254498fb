"""A race: several ways to compute one result, each checked first, then timed side by side.

One round calls every entry once, in a fresh random order, so that what else the machine does meets all of them alike. A
sample repeats a call until it has taken 2 ms. With one thread the clock is the CPU time of the process, with more it is
the wall. What an entry returns is compared with the truth before it is timed: a fast wrong answer is not an entry.

With more threads each library has its own, and they wait for work without sleep: those of torch and of pyfastkron for 15 ms
after a call, those of OpenBLAS for 100. So a sample begins once its own entry has been called for so long that the threads
of the one before have gone to sleep.
"""

import contextlib
import dataclasses
import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import threadpoolctl

from studies import _study

OURS = "sepmat"
SAMPLE = 2e-3  # seconds of one sample
SETTLE = 2e-2  # seconds of untimed calls before one, where there is more than one thread
LEAST = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One way to the result. kind: ours, peer, reference or limit; a limit computes something else and is not checked."""

    name: str
    kind: str
    call: Callable[[], Any]
    back: Callable[[Any], Any] | None = None  # to the layout of the truth, outside the clock
    asked: tuple[Any, ...] = ()  # what `sm.explain` is to be asked about it


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a race lasts: rounds, and the seconds after which no new round begins once there are `least` of them.

    Where rounds are so long that four times the seconds are gone, LEAST of them must do.
    """

    least: int
    most: int
    seconds: float

    @classmethod
    def exactly(cls, rounds: int) -> "Pace":
        """So many rounds, however long they take."""
        return cls(rounds, rounds, math.inf)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for BLAS, OpenMP and torch, no garbage collection, no warnings of peers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    collecting = gc.isenabled()
    try:
        with threadpoolctl.threadpool_limits(count), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            gc.collect(1)
            gc.disable()
            yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


MIN, MEDIAN = 0, 2  # places in what `spread` returns


def race(entries: Sequence[Entry], truth: Any, bound: float, pace: Pace, rng: Any, count: int = 1) -> dict[str, Any]:
    """Each entry with its error and what the clock said; {"failed": ...} or an error above the bound is not timed."""
    clock = time.process_time if count == 1 else time.perf_counter
    with threads(count):
        checked = {entry.name: check(entry, truth, bound, clock) for entry in entries}
        found = {name: result for name, (result, _) in checked.items()}
        first = {name: took for name, (result, took) in checked.items() if "out" not in result}
        slow = 10 * min(first.values(), default=0.0) + 0.5  # what takes so long decides nothing: its one call stands
        samples = {name: [took] for name, took in first.items() if took > slow}
        running = {e.name: e.call for e in entries if e.name in first.keys() - samples.keys()}
        samples |= timed(running, pace, rng, clock, first, settle=SETTLE if count > 1 else 0.0)
    for name, seconds in samples.items():
        found[name]["seconds"] = spread(seconds)
    return found


def check(entry: Entry, truth: Any, bound: float, clock: Callable[[], float]) -> tuple[dict[str, Any], float]:
    """The relative error of an entry, to the next power of ten, or why there is none; the seconds of its first call."""
    result: dict[str, Any] = {"kind": entry.kind}
    start = clock()
    try:
        got = entry.call()
    except Exception as error:  # noqa: BLE001  what a peer raises is a result of the study
        return result | {"out": f"{type(error).__name__}: {error}".split("\n")[0][:80]}, 0.0
    took = clock() - start
    if entry.kind == "limit":
        return result, took
    got = np.asarray(entry.back(got) if entry.back else got)
    if got.shape != truth.shape:
        return result | {"out": f"shape {got.shape}"}, took
    error = distance(got, truth)
    result["error"] = _study.round_off(error) if math.isfinite(error) else None
    if not error <= bound:
        result["out"] = f"error {error:.0e}"
    return result, took


def distance(got: Any, truth: Any) -> float:
    """‖got − truth‖ / ‖truth‖, block by block, so that the truth may be in a higher precision."""
    a, b = got.reshape(-1), truth.reshape(-1)
    square = norm = 0.0
    for i in range(0, b.size, 2**20):
        d = a[i : i + 2**20] - b[i : i + 2**20]
        square += float(d @ d)
        norm += float(b[i : i + 2**20] @ b[i : i + 2**20])
    return math.sqrt(square / norm) if norm else math.sqrt(square)


def timed(
    calls: dict[str, Callable[[], Any]],
    pace: Pace,
    rng: Any,
    clock: Callable[[], float],
    first: dict[str, float] | None = None,
    patient: bool = False,
    settle: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of each call in each round; unless patient, ten times the fastest is not called after two rounds.

    first: the seconds of a call made before, where there was one. settle: the seconds of untimed calls before each sample.
    """
    long = {name for name, took in (first or {}).items() if took > 100 * SAMPLE}
    repeats = {name: 1 if name in long else repeat(call, clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    for done in range(pace.most):
        spent = time.perf_counter() - start
        if done >= (pace.least if spent < 4 * pace.seconds else LEAST) and spent > pace.seconds:
            break
        for name in rng.permutation(names).tolist():
            until = time.perf_counter() + settle
            while time.perf_counter() < until:
                calls[name]()
            seconds[name].append(sample(calls[name], repeats[name], clock))
        if done == 1 and not patient:
            best = min(min(s) for s in seconds.values())
            names = [name for name in names if min(seconds[name]) <= 10 * best]
    return seconds


def repeat(call: Callable[[], Any], clock: Callable[[], float]) -> int:
    """How many calls make a sample, by the fastest seen: the first ones are slow, and few say too little."""
    best, count = math.inf, 1
    for _ in range(3):
        best = min(best, sample(call, 1, clock))
        if best >= SAMPLE:
            return 1
    while count * best < SAMPLE:
        count *= 2
        best = min(best, sample(call, count, clock))
    return math.ceil(SAMPLE / max(best, 1e-7))


def sample(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of one call, the mean of a sample."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def spread(seconds: list[float]) -> list[float]:
    """Minimum, lower quartile, median and upper quartile of the rounds, to four digits."""
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return [float(f"{value:.4g}") for value in (min(seconds), lower, median, upper)]
