"""TensorLy and pyttb beside sepmat: one way to call each, to time it and to measure what it returned.

A run is {"error", "reported", "kappa", "iterations", "seconds"}. The error is that of an explicit residual against the
tensor, reported is what the package itself says; κ = (Σ s_l²)^½ / ‖Â‖ of the terms returned. A package that raises
leaves {"failed": "..."} in place of numbers.
"""

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import threadpoolctl

import sepmat as sm
from studies import _race

LOOKS = {"sepmat": ("#D55E00", "o"), "TensorLy": ("#0072B2", "s"), "pyttb": ("#009E73", "^")}

Terms = tuple[Any, list[Any]]  # weights (r,) and factors (n_i, r): Σ_l w_l u_1^l ∘ … ∘ u_d^l


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS thread, no warnings: a peer's warning is not this study's."""
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(
    call: Callable[[], tuple[Any, float | None, int]], residual: Callable[[Any], float], norm: float | None = None
) -> dict[str, Any]:
    """call() on the CPU clock and what its answer is worth; with norm = ‖T‖, κ is (Σ s_l²)^½ / ‖T‖."""
    with one_thread():
        start = time.process_time()
        try:
            answer, reported, iterations = call()
        except np.linalg.LinAlgError as error:
            return {"failed": f"LinAlgError: {error}", "seconds": time.process_time() - start}
        seconds = time.process_time() - start
        found = {"error": residual(answer), "reported": reported, "kappa": kappa(answer, norm)}
    found = {k: None if v is None or not math.isfinite(v) else float(v) for k, v in found.items()}
    return found | {"iterations": iterations, "seconds": seconds}


def rounds(calls: dict[str, Callable[[], Any]], times: int, rng: Any, repeated: bool = False) -> dict[str, list[float]]:
    """CPU seconds of each call, round-robin: every round has one sample of each, in a fresh random order (`_race.timed`).

    repeated: a sample repeats a call until it has taken 2 ms; else it is one call, and none is made besides.
    """
    pace, first = _race.Pace.exactly(times), {} if repeated else dict.fromkeys(calls, math.inf)
    with one_thread():
        return _race.timed(calls, pace, rng, time.process_time, first, patient=True)


def look(name: str, **more: Any) -> dict[str, Any]:
    """Keyword arguments that draw a competitor as it is drawn everywhere; a variant of one keeps its colour and marker."""
    colour, marker = LOOKS[name.split(",")[0]]
    style = "-" if "," not in name else ":"
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"label": name, "color": colour, "marker": marker, "linestyle": style} | edge | more


# --- what an answer is worth ------------------------------------------------------------------------------------------


def dense(terms: Terms, dtype: Any = np.float64) -> Any:
    """The tensor of the terms, computed in this precision."""
    weights, factors = terms
    first, *rest = (np.asarray(U, dtype=dtype) for U in factors)
    columns = functools.reduce(lambda A, B: (A[:, None, :] * B[None, :, :]).reshape(-1, A.shape[1]), rest)
    return ((first * np.asarray(weights, dtype=dtype)) @ columns.T).reshape([len(U) for U in factors])


def true_error(T: Any, answer: Any) -> float:
    """‖T − Â‖ / ‖T‖ by an explicit residual in the precision of T."""
    A = answer if isinstance(answer, tuple) else terms_of(answer)
    R = T - dense(A, T.dtype)
    return float(np.sqrt(np.sum(R * R) / np.sum(T * T)))


def terms_of(A: sm.Separated) -> Terms:
    """Weights and factor columns of a Separated."""
    weights = np.ones(A.terms) if A.scales is None else np.asarray(A.scales)
    return weights, [np.asarray(F).reshape(A.terms, -1).T for F in A.factors]


def separated(terms: Terms, shapes: Sequence[tuple[int, int]]) -> sm.Separated:
    """The terms as a Separated whose factors have these shapes."""
    weights, factors = terms
    stacks = [np.ascontiguousarray(U.T).reshape(-1, *shape) for U, shape in zip(factors, shapes, strict=True)]
    return sm.Separated(stacks, np.asarray(weights))


def kappa(answer: Any, norm: float | None = None) -> float:
    """κ of a Separated, or of the terms of a peer; with norm = ‖T‖, (Σ s_l²)^½ / ‖T‖."""
    A = separated(answer, [(len(U), 1) for U in answer[1]]) if isinstance(answer, tuple) else answer
    return float(A.condition_number) * (float(sm.norm(A)) / norm if norm else 1.0)


# --- the packages -----------------------------------------------------------------------------------------------------


def tensorly(T: Any, rank: int, **settings: Any) -> Callable[[], tuple[Terms, float | None, int]]:
    """TensorLy's parafac; settings not given are its defaults (svd start, 100 iterations, tol 1e-8)."""
    from tensorly.decomposition import parafac

    def call() -> tuple[Terms, float | None, int]:
        (weights, factors), errors = parafac(T, rank, return_errors=True, **settings)
        return (weights, list(factors)), float(errors[-1]) if errors else None, len(errors)

    return call


def pyttb(T: Any, rank: int, seed: int = 0, **settings: Any) -> Callable[[], tuple[Terms, float | None, int]]:
    """pyttb's cp_als; settings not given are its defaults (random start, 1000 iterations, stoptol 1e-4).

    T is an array, or terms: then a sumtensor, pyttb's way to reduce terms without the full tensor. The random start is
    the uniform one of pyttb, drawn from a generator of its own and not from NumPy's global one.
    """
    import pyttb as ttb

    given = ttb.sumtensor([ttb.ktensor(T[1], T[0])]) if isinstance(T, tuple) else ttb.tensor(T)
    shape = [len(U) for U in T[1]] if isinstance(T, tuple) else T.shape

    def call() -> tuple[Terms, float | None, int]:
        start = settings.get("init")
        if start is None:
            rng = np.random.default_rng(seed)
            start = ttb.ktensor([rng.uniform(size=(n, rank)) for n in shape])
        M, _, output = ttb.cp_als(given, rank, **{"printitn": 0} | settings | {"init": start})
        reported = None if isinstance(T, tuple) else 1.0 - float(output["fit"])
        return (M.weights, list(M.factor_matrices)), reported, int(output["iters"]) + 1

    return call


def by_hand(T: Any, rank: int) -> Callable[[], tuple[Terms, float | None, int]]:
    """What a careful user would put together: pyttb's hosvd, TensorLy's parafac with line search on the small core."""
    import pyttb as ttb

    given = ttb.tensor(T)

    def call() -> tuple[Terms, float | None, int]:
        tucker = ttb.hosvd(given, 1e-5, verbosity=0, ranks=np.full(T.ndim, rank))
        settings = {"linesearch": True, "tol": 1e-15, "n_iter_max": 2000}
        (weights, factors), reported, iterations = tensorly(tucker.core.data, rank, **settings)()
        return (weights, [Q @ U for Q, U in zip(tucker.factor_matrices, factors, strict=True)]), reported, iterations

    return call


def sepmat(
    fit: Callable[..., sm.Fit], *arguments: Any, **settings: Any
) -> Callable[[], tuple[sm.Separated, float, int]]:
    """A fit of this library; the matrix it returns may have any class that converts to Separated."""

    def call() -> tuple[Any, float, int]:
        found = fit(*arguments, **settings)
        A: Any = found.matrix if isinstance(found.matrix, sm.Separated) else sm.convert(found.matrix, sm.Separated)
        return A, found.relative_error, found.iterations

    return call
