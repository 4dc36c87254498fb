"""The nearest sums of Kronecker products of a 1024 × 1024 matrix: ours beside full and partial singular value decompositions.

Everybody starts from the matrix; the rearrangement is inside the clock. What counts beside the time is the error over
the optimum, which the full decomposition gives.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from sklearn.utils.extmath import randomized_svd

import sepmat as sm
from studies import _race, _study
from studies._race import OURS

EXACT = f"{OURS}, exact=True"
FULL = ("full SVD, NumPy", "full SVD, SciPy")


def matrices(n: int, rng: Any) -> dict[str, Any]:
    """A flat spectrum, a geometric one and a kernel; n = m² for m × m blocks."""
    m = math.isqrt(n)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    R = (left * 0.7 ** np.minimum(np.arange(n), 2000)) @ right
    x = np.linspace(0, 1, n)
    return {
        "Gaussian": rng.standard_normal((n, n)),
        "singular values 0.7^l": back(R, m),
        "exp(−|x − y| / 0.1)": np.exp(-np.abs(x[:, None] - x) / 0.1),
    }


def rearranged(M: Any, m: int) -> Any:
    """R(M): a row for each block of m × m."""
    return M.reshape(m, m, m, m).swapaxes(1, 2).reshape(m * m, m * m)


def back(R: Any, m: int) -> Any:
    """The matrix whose rearrangement is R; it is its own inverse."""
    return rearranged(R, m)


def race(n: int, rank: int, pace: _race.Pace, rng: Any) -> list[dict[str, Any]]:
    """Each matrix: seconds of every method and its error over the optimum."""
    return [one(name, M, rank, pace, rng) for name, M in matrices(n, rng).items()]


def one(name: str, M: Any, rank: int, pace: _race.Pace, rng: Any) -> dict[str, Any]:
    """One matrix: the errors, then the rounds."""
    m = math.isqrt(M.shape[0])
    shapes = ((m, m), (m, m))
    s = np.linalg.svd(rearranged(M, m), compute_uv=False)
    norm = float(np.linalg.norm(M))
    optimum = math.sqrt(float(np.sum(s[rank:] ** 2))) / norm
    calls: dict[str, Callable[[], Any]] = {
        OURS: lambda: sm.nearest_kronecker(M, shapes, rank=rank),
        EXACT: lambda: sm.nearest_kronecker(M, shapes, rank=rank, exact=True),
        FULL[0]: lambda: np.linalg.svd(rearranged(M, m), full_matrices=False),
        FULL[1]: lambda: scipy.linalg.svd(rearranged(M, m), full_matrices=False),
        "scikit-learn randomized_svd": lambda: randomized_svd(rearranged(M, m), rank, random_state=0),
        "SciPy svds, ARPACK": lambda: scipy.sparse.linalg.svds(rearranged(M, m), rank, v0=np.ones(m * m)),
    }
    methods = {}
    with _race.threads(1):
        for method, call in calls.items():
            found = call()
            true = error(M, m, found, rank)
            methods[method] = {"above optimum": apart(true, optimum)}
            if isinstance(found, sm.Fit):
                methods[method]["reported off true"] = apart(found.relative_error, true)
        samples = _race.timed(calls, pace, rng, _race.time.process_time, patient=True)
    for method, seconds in samples.items():
        methods[method]["seconds"] = _race.spread(seconds)
    return {"matrix": name, "n": M.shape[0], "terms": rank, "optimum": max(optimum, 1e-13), "methods": methods}


def apart(value: float, other: float) -> float:
    """|value / other − 1|, both at least 1e-13: below that there is only round-off, and below 1e-9 its power of ten."""
    off = abs(max(value, 1e-13) / max(other, 1e-13) - 1)
    return off if off > 1e-9 else _study.round_off(off)


def error(M: Any, m: int, found: Any, rank: int) -> float:
    """‖M − Σ σ B ⊗ C‖ / ‖M‖ by an explicit residual."""
    if isinstance(found, sm.Fit):
        A = found.matrix.to_dense()
    else:
        U, s, V = found
        order = np.argsort(-s)[:rank]
        A = back((U[:, order] * s[order]) @ V[order], m)
    return float(np.linalg.norm(M - A) / np.linalg.norm(M))
