"""Products and solves beside the peers, beside a few plain lines, and beside what the machine can do.

Every cell is one product of one size, in one precision, with arrays of one library: `sepmat` on NumPy arrays against the
peers that take NumPy arrays, on torch tensors against those that take tensors. All entries of a cell are checked against
one answer in double precision, then timed round-robin in one process; a GEMM, a copy or the pair of FFTs that bounds the
product runs in the same rounds. Times are CPU times of one thread; a few cells again with two, by the wall.
"""

import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.fft

from studies import _nearest, _products, _race, _references, _rivals, _speed_figure, _speed_page, _study

STATUS = "illustration"
LONG = True
BOTH, LIBRARIES = ("float64", "float32"), ("numpy", "torch")
NUMPY: tuple[str, ...] = ("numpy",)
COLUMNS = (1, 16, 256)
SMALL = (64, 128, 256, 512)
Specs = list[dict[str, Any]]


# --- what is timed ---------------------------------------------------------------------------------------------------------


def over(
    cells: Iterable[dict[str, Any]],
    dtypes: Sequence[str] = BOTH,
    libraries: Sequence[str] = LIBRARIES,
    threads: int = 1,
) -> Specs:
    """The same cells in every precision and library."""
    return [
        cell | {"dtype": dtype, "library": library, "threads": threads}
        for cell, dtype, library in itertools.product(cells, dtypes, libraries)
    ]


def kronecker(n: int, d: int, ks: Iterable[int], **more: Any) -> Specs:
    """n×n ⊗ … ⊗ n×n, d factors, with k columns."""
    return [{"family": "Kronecker", "n": n, "d": d, "k": k} | more for k in ks]


def sums(n: int, ks: Iterable[int]) -> Specs:
    """Eight terms n×n ⊗ n×n."""
    return [{"family": "sum", "n": n, "k": k} for k in ks]


def fft(kind: str, sizes: Iterable[int], ks: Sequence[int] = (1, 64), layout: str = "rows") -> Specs:
    """Circulant, Toeplitz and their kin: one vector and 64 rows, or 64 columns."""
    return [{"family": "fft", "kind": kind, "n": n, "k": k, "layout": layout} for n in sizes for k in ks]


def displacement(sizes: Iterable[int], ranks: Sequence[int], ks: Sequence[int] = (1, 64)) -> Specs:
    """r terms, one vector and 64 rows."""
    return [{"family": "displacement", "n": n, "r": r, "k": k} for n in sizes for r in ranks for k in ks]


PAPER: Specs = [
    *over([{"family": "overhead"}]),
    *over(
        [
            *kronecker(64, 2, COLUMNS),
            *kronecker(256, 2, COLUMNS),
            *kronecker(32, 3, COLUMNS),
            *kronecker(8, 6, (1, 16)),
            *kronecker(2, 16, (1, 16)),
            *kronecker(64, 2, (16, 256), rows=True),
            *kronecker(8, 6, (16,), rows=True),
            *sums(64, COLUMNS),
            *sums(256, (1, 16)),
            *({"family": "Kronecker solve", "n": 64, "k": k} for k in COLUMNS),
        ]
    ),
    *over(displacement((1024, 4096), (1, 4, 16))),
    *over(displacement((64, 256, 512, 1021), (1, 4)), libraries=NUMPY),
    *over([*fft("circulant", (1024, 16384, 16381)), *fft("toeplitz", (1024, 4096, 4099, 16384))]),
    *over([*fft("circulant", (2**20,), (1,)), *fft("toeplitz", (131072,), (1,))]),
    *over(fft("circulant", (2**20,), (64,)), libraries=NUMPY),
    *over(fft("symmetric_toeplitz", (1024, 4096, 4099, 16384))),
    *over(fft("symmetric_toeplitz", (131072,), (1,))),
    *over(fft("hankel", (1024, 4099, 16384)), libraries=NUMPY),
    *over(fft("skew_circulant", (1024, 16384, 16381)), libraries=NUMPY),
    *over(fft("toeplitz", (1024, 4099, 16384), (64,), "columns")),
    *over([*fft("circulant", SMALL), *fft("toeplitz", SMALL)]),
    *over([*fft("hankel", (256,)), *fft("skew_circulant", (256,))], libraries=NUMPY),
    *over([{"family": "used once", "n": n} for n in (256, 1024, 16384)], libraries=NUMPY),
    *over(
        [
            {"family": "circulant solve", "n": n, "once": once}
            for once in (False, True)
            for n in (1024, 16384, 16381, 2**20)
        ],
        libraries=NUMPY,
    ),
    *over(
        [
            *kronecker(64, 2, (16, 256)),
            *kronecker(256, 2, (16,)),
            *kronecker(32, 3, (16,)),
            *kronecker(8, 6, (1, 16)),
            *kronecker(2, 16, (16,)),
            *sums(64, (16,)),
            *fft("circulant", (16384,)),
            *fft("circulant", (2**20,), (1,)),
            *fft("toeplitz", (16384,)),
            *displacement((4096,), (4,)),
        ],
        threads=2,
    ),
]
SMOKE: Specs = [
    *over(
        [{"family": "overhead"}, *kronecker(3, 2, (1, 4)), *kronecker(2, 4, (3,)), *kronecker(3, 2, (4,), rows=True)]
    ),
    *over([*sums(3, (1, 4)), {"family": "Kronecker solve", "n": 4, "k": 2}, *displacement((16,), (2,), (1, 4))]),
    *over([*fft("circulant", (15,), (1, 4)), *fft("symmetric_toeplitz", (16,), (4,))]),
    *over([*fft("toeplitz", (16,), (4,), "columns"), *fft("toeplitz", (16,), (1,))]),
    *over([*fft("hankel", (16,), (4,)), *fft("skew_circulant", (15, 16), (4,))], libraries=NUMPY),
    *over([{"family": "used once", "n": 16}, {"family": "circulant solve", "n": 16, "once": True}], libraries=NUMPY),
    *over([{"family": "circulant solve", "n": 15, "once": False}], libraries=NUMPY),
    *over(kronecker(3, 2, (4,)), threads=2),
]
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"cells": SMOKE, "pace": (1, 1, 0.0), "nearest": {"n": 64, "terms": 2, "pace": (1, 1, 0.0)}, "machine": 0},
    "paper": {
        "cells": PAPER,
        "pace": (5, 15, 0.4),
        "nearest": {"n": 1024, "terms": 8, "pace": (5, 9, 6.0)},
        "machine": 9,
    },
}


# --- the races -------------------------------------------------------------------------------------------------------------


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The limits of the machine, every cell, and the nearest sums of Kronecker products."""
    pace = _race.Pace(*p["pace"])
    if p["machine"] and "OPENBLAS_CORETYPE" in os.environ:
        print("speed: OPENBLAS_CORETYPE is set, so BLAS may not run at the speed of the machine", file=sys.stderr)
    cells = [cell(spec, pace, rng) for spec in _study.progress(p["cells"], "products")]
    g = p["nearest"]
    return {
        "peers": _rivals.versions(),
        "blas": blas(),
        "machine": machine(p["machine"], rng) if p["machine"] else {},
        "cells": cells,
        "nearest": _nearest.race(g["n"], g["terms"], _race.Pace(*g["pace"]), rng),
    }


def cell(spec: dict[str, Any], pace: _race.Pace, rng: Any) -> dict[str, Any]:
    """One race, with what it was about and what it costs."""
    made = _products.build(spec, rng)
    bound = _products.BOUND[spec["dtype"]]
    found = _race.race(made.entries, made.truth, bound, pace, rng, spec["threads"])
    return spec | {"route": made.route, "work": made.work, "entries": found}


def blas() -> list[str]:
    """The BLAS libraries of NumPy and SciPy and the processor they run for; this process may hold those of other packages too."""
    code = "import json, numpy, scipy.linalg, threadpoolctl; print(json.dumps(threadpoolctl.threadpool_info()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    pools = [i for i in json.loads(found) if i["user_api"] == "blas"]
    return sorted({f"{i['internal_api']} {i['version']} {i.get('architecture')}" for i in pools})


def machine(rounds: int, rng: Any) -> dict[str, Any]:
    """GFLOP/s of square GEMMs, GB/s of copies (read and written), microseconds of rfft and irfft; one thread."""
    calls: dict[str, Any] = {}
    for dtype in BOTH:
        for n in (64, 128, 256, 512, 1024):
            A, B, C = (_products.draw(rng, (n, n), dtype) for _ in range(3))
            calls[f"GEMM {n} {dtype}"] = functools.partial(np.matmul, A, B, out=C)
        for n in (1024, 16384, 2**20):
            calls[f"rfft+irfft {n} {dtype}"] = _references.one_and_back(scipy.fft, n, _products.draw(rng, (n,), dtype))
    for power in (18, 21, 24, 27):
        x, y = np.ones(2**power // 8), np.ones(2**power // 8)
        calls[f"copy {2**power >> 10} KiB"] = functools.partial(np.copyto, y, x)
    with _race.threads(1):
        samples = _race.timed(calls, _race.Pace.exactly(rounds), rng, _race.time.process_time, patient=True)
    return {name: {"seconds": _race.spread(seconds)} for name, seconds in samples.items()}


claims, tables, plot = _speed_page.claims, _speed_page.tables, _speed_figure.plot


if __name__ == "__main__":
    sys.exit(_study.main(only="speed"))
