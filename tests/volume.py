"""The volume loop: the laws of the contract, and solves, on matrices of random class, size, precision and scale.

    python tests/volume.py --seconds 60              as long as that; the seed is printed (default: the date)
    python tests/volume.py --checks 6000000          as many numerical checks as that
    python tests/volume.py --seed 7 --first 123 --cases 1       one case again
    python tests/volume.py --checks 500000 --backend torch --json figures/volume.json       into the record, beside the other libraries

A check is one inequality error <= limit · scale · u on an array, or one comparison bit for bit. A failure and an alarm print
the line that repeats it, and the loop goes on. Alarms are counted: new draws go beyond what any run had shown sooner or
later, and only the limit is a theorem. The exit status is 1 if anything failed or nothing was checked.
"""

import argparse
import datetime
import json
import math
import pathlib
import signal
import sys
import time
import traceback
from dataclasses import dataclass

import conftest
import numpy as np
import test_contract
from cases import Case, any_case, normal
from test_linalg import RULES, deficient, residual

import sepmat as sm

LAWS = [
    law
    for law in test_contract.LAWS
    if law.__name__
    in {"dense_form", "entries_and_blocks", "columns", "strided", "rows", "every_axis", "strided_and_flipped", "promotion",
        "transposes", "adjoint", "multiples", "sums", "products", "mixed_algebra", "non_finite_stays_visible"}
]  # fmt: skip


@dataclass(frozen=True)
class Stretched(Case):
    """The same case with its numbers at another scale, times a power of two, which costs no rounding; and W(G, H) whose terms cancel."""

    def data(self, rng, dtype):
        single = dtype in ("float32", "complex64")
        reach = (12 if single else 120) // max(1, len(self.shapes))
        power = 2.0 ** int(rng.integers(-reach, reach + 1)) if rng.integers(2) else 1.0
        arrays = super().data(rng, dtype)
        if self.kind is sm.LowDisplacementRank and arrays[0].shape[1] > 1 and rng.integers(2):
            left, (G, H) = 10.0 ** -rng.uniform(0, 5 if single else 12), arrays
            G[:, -1], H[:, -1] = left * G[:, -1] - G[:, 0], left * H[:, -1] + H[:, 0]
        return tuple((a * power).astype(dtype) for a in arrays)


def solves(b):
    """B12 to B16, and LAPACK's bound: residuals of b = A x0, which show what random right-hand sides hide."""
    m, n = b.A.shape
    if m == n and n and "solve" in RULES.get(b.case.kind, ()) and b.case.kind is not sm.Sum and not deficient(b):
        right = (b.o.D @ normal(b.rng, (n, 2), b.dtype)).astype(b.dtype)
        try:
            x = sm.solve(b.A, b.xp.asarray(right, copy=True))
        except sm.SingularMatrixError:  # an error only where the matrix is nearly singular in its precision
            conftest.check(1 / np.linalg.cond(b.o.D.astype(complex)), 1.0, 100 * n, b.dtype, "rcond of what is refused")
            return
        residual(b, x, right, "volume")


def one(seed, k, backend):
    """Case number k of a seed: all laws."""
    rng = np.random.default_rng((seed, k))
    case = any_case(rng)
    case = Stretched(**{name: getattr(case, name) for name in case.__dataclass_fields__})
    dtypes = test_contract.DTYPES[backend]
    b = test_contract.Built(case, backend, dtypes[int(rng.integers(len(dtypes)))], rng)
    test_contract.built.cache_clear()
    for law in (*LAWS, solves):
        law(b)


stopped: list[int] = []  # signals: the loop ends after its case, and what was done counts


def run(seed, seconds=math.inf, checks=math.inf, cases=math.inf, first=0, backend="numpy"):
    """Go on until one of the three is reached; what was done, as a record."""
    start, k, failures, alarming = time.perf_counter(), first, [], 0
    before = sum(conftest.tally.values())

    def done():
        return sum(conftest.tally.values()) - before

    while k - first < cases and done() < checks and time.perf_counter() - start < seconds and not stopped:
        again = f"python tests/volume.py --seed {seed} --first {k} --cases 1 --backend {backend}"
        with conftest.counting_alarms() as alarms:
            try:
                one(seed, k, backend)
            except Exception as error:  # noqa: BLE001  the finding
                failures.append(again)
                traceback.print_exception(error, limit=-3)
                print(again, flush=True)
        for message in dict.fromkeys(alarms):
            print(f"{message}\n{again}", flush=True)
        alarming += len(alarms)
        k += 1
    passed = time.perf_counter() - start
    found = {
        "seed": seed,
        "backend": backend,
        "cases": k - first,
        "checks": done(),
        "failures": len(failures),
        "alarms": alarming,
        "seconds": round(passed, 1),
        "checks per second": round(done() / max(passed, 1e-9)),
        "worst error / bound": float(f"{max(conftest.worst.values(), default=0.0):.3g}"),
    }
    return found, failures


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Random numerical checks of the library.")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--checks", type=float, default=math.inf)
    parser.add_argument("--cases", type=float, default=math.inf)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=int(datetime.date.today().strftime("%Y%m%d")))
    parser.add_argument("--backend", choices=list(test_contract.DTYPES), default="numpy")
    parser.add_argument("--json", type=pathlib.Path, help="write the record to this file")
    given = parser.parse_args(arguments)
    if math.inf == given.seconds == given.checks == given.cases:
        given.seconds = 60.0
    print(f"seed {given.seed}", flush=True)
    found, failures = run(given.seed, given.seconds, given.checks, given.cases, given.first, given.backend)
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    if given.json:
        record(given.json, found)
    return 1 if failures or not found["checks"] else 0


def record(path, found):
    """The run in the place of the last one on the same library, and the sums over the libraries."""
    from studies import _study

    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    runs[found["backend"]] = found | {"made": _study.made(found["seconds"])}
    sums = {key: sum(one[key] for one in runs.values()) for key in ("checks", "cases", "failures", "alarms")}
    path.write_text(json.dumps({**sums, "runs": dict(sorted(runs.items()))}, indent=1) + "\n")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    sys.exit(main())
