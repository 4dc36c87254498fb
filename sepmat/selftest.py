"""The self-test: is the library right on this machine, with these libraries, for every class?

`python -m sepmat selftest` takes seconds and needs no test tools. Every class is built from random numbers on every array
library that is installed and compared with its definition, entry by entry, in extended precision; every error is divided
by its bound (`_bounds.BOUNDS`). A ratio above 1 is a bug, of the library or of what it stands on.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import _array, _check
from ._bounds import BOUNDS, ROUNDOFF
from .basic import Dense, Diagonal, Identity
from .displacement import LowDisplacementRank
from .errors import BackendError, UnsupportedError
from .kronecker import Kronecker
from .kronecker_sum import KroneckerSum
from .linalg import norm, slogdet, solve, svdvals, trace
from .low_rank import LowRank
from .matrix import StructuredMatrix
from .multilevel import MultilevelCirculant, MultilevelToeplitz
from .separated import Separated
from .toeplitz import Circulant, Hankel, SkewCirculant, Toeplitz

DTYPES = ("float32", "float64", "complex64", "complex128")
N, P, Q = 12, 3, 4  # every sample is N×N, N = P·Q


@dataclass(frozen=True)
class Line:
    """The worst of `checks` ratios error / bound of one matrix on one backend; `error` is what was raised instead."""

    backend: str
    matrix: str
    quantity: str
    bound: str
    checks: int
    worst: float
    error: str = ""


@dataclass(frozen=True)
class SelfTest:
    """The lines of a self-test. `passed`: no ratio is above 1 and nothing was raised. str() is the table."""

    lines: tuple[Line, ...]

    @property
    def passed(self) -> bool:
        return bool(self.lines) and all(line.worst <= 1 and not line.error for line in self.lines)

    @property
    def checks(self) -> int:
        return sum(line.checks for line in self.lines)

    def __str__(self) -> str:
        backends = list(dict.fromkeys(line.backend for line in self.lines))
        cells = {(s.matrix, s.quantity, s.bound, s.backend): s for s in self.lines}
        rows = list(dict.fromkeys(key[:3] for key in cells))
        text = [f"{'matrix':20s}{'quantity':14s}{'bound':6s}" + "".join(f"{b:>18s}" for b in backends)]
        for row in rows:
            found = [cells.get((*row, b)) for b in backends]
            shown = ["" if s is None else "raised" if s.error else f"{s.worst:.2g}" for s in found]
            text.append(f"{row[0]:20s}{row[1]:14s}{row[2]:6s}" + "".join(f"{cell:>18s}" for cell in shown))
        text += [f"{s.backend}, {s.matrix}, {s.quantity}: {s.error}" for s in self.lines if s.error]
        worst = max((s.worst for s in self.lines), default=math.inf)
        text.append(
            f"{self.checks} checks, the worst at {worst:.2g} of its bound: {'passed' if self.passed else 'FAILED'}"
        )
        return "\n".join(text)


def selftest(backends: Sequence[str] | None = None, seed: int = 0) -> SelfTest:
    """Compare every class with its definition on every backend; the largest ratio of error and bound of each.

    backends: of "numpy", "array_api_strict", "torch", "torch cuda", "cupy"; default: those that are installed. Some 2,000
    checks a backend, a second or two each. Raises BackendError for one that is not there. Print the result for the table.

    >>> import sepmat as sm
    >>> found = sm.selftest(["numpy"])
    >>> found.passed, max(line.worst for line in found.lines) < 1
    (True, True)
    """
    known = _installed()
    for name in backends or ():
        if name not in known:
            advice = "Install it, with a CUDA device where it needs one, or leave it out"
            raise BackendError("selftest", "backends", repr(name), f"one of {', '.join(known)}", advice)
    rng = _check.as_generator(seed, "selftest")
    lines: list[Line] = []
    for backend in backends or known:
        tally = _Tally(backend)
        for dtype in DTYPES:
            for sample in _samples(rng, dtype):
                _compare(sample, known[backend], dtype, rng, tally)
        lines += tally.lines()
    return SelfTest(tuple(lines))


# --- backends -----------------------------------------------------------------------------------------------------------------


def _installed() -> dict[str, Callable[[Any], Any]]:
    """{name: the way from NumPy arrays to that library}"""

    def of(library: Any, **device: Any) -> Callable[[Any], Any]:
        return lambda a: library.asarray(np.array(a), **device)

    found = {"numpy": of(np)}
    if importlib.util.find_spec("array_api_strict"):
        found["array_api_strict"] = of(importlib.import_module("array_api_strict"))
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        found["torch"] = of(torch)
        if torch.cuda.is_available():
            found["torch cuda"] = of(torch, device="cuda")
    if importlib.util.find_spec("cupy"):
        cupy = importlib.import_module("cupy")
        if cupy.is_available():
            found["cupy"] = of(cupy)
    return found


class _Tally:
    """The worst ratio of every (matrix, quantity, bound) on one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.found: dict[tuple[str, str, str], tuple[int, float, str]] = {}

    def add(self, matrix: str, quantity: str, bound: str, error: Any, allowed: Any, dtype: str) -> None:
        """One check: |error| <= allowed · u, entry by entry; what is not finite, or not zero where nothing is allowed, fails."""
        allowed = np.broadcast_to(np.asarray(allowed, np.longdouble) * ROUNDOFF[dtype], np.shape(error))
        with np.errstate(all="ignore"):
            ratios = np.where(allowed > 0, np.abs(error) / allowed, np.where(np.asarray(error) == 0, 0, np.inf))
        self._note(
            matrix, quantity, bound, float(np.max(np.where(np.isfinite(ratios), ratios, np.inf), initial=0.0)), ""
        )

    def fail(self, matrix: str, quantity: str, error: Exception) -> None:
        self._note(matrix, quantity, "", math.inf, f"{type(error).__name__}: {error}")

    def _note(self, matrix: str, quantity: str, bound: str, ratio: float, error: str) -> None:
        checks, worst, before = self.found.get((matrix, quantity, bound), (0, 0.0, ""))
        self.found[matrix, quantity, bound] = (checks + 1, max(worst, ratio), before or error)

    def lines(self) -> Iterator[Line]:
        for (matrix, quantity, bound), (checks, worst, error) in self.found.items():
            yield Line(self.backend, matrix, quantity, bound, checks, worst, error)


# --- samples: each class once, with its definition ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """arrays and make: how to build the matrix. D: what it is. E, G: |computed A x − D x| <= u E |x| and |D| <= G.

    bound: that of a product; solve: that of a solve, "" for a singular matrix.
    """

    name: str
    arrays: tuple[Any, ...]
    make: Callable[..., StructuredMatrix]
    D: Any
    G: Any
    E: Any
    bound: str
    solve: str = "B15"


def _samples(rng: Any, dtype: str) -> Iterable[_Sample]:
    """Every class with random numbers of a dtype; the index arrays i, j run over rows and columns."""

    def draw(*shape: int) -> Any:
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)

    def entrywise(name: str, bound: str, k: int, make: Any, define: Any, *arrays: Any) -> _Sample:
        """Polynomials in the data: G is the same polynomial of the absolute values, E = γ_k G."""
        D, G = (define(*(f(_wide(a)) for a in arrays)) for f in (lambda a: a, np.abs))
        return _Sample(name, arrays, make, D, G, BOUNDS[bound](k + 1, dtype) * G, bound)

    def by_fft(
        name: str, bound: str, size: float, constant: float, solve: str, make: Any, D: Any, *arrays: Any
    ) -> _Sample:
        """Products in the norm: E is the constant times the norm in every entry."""
        G = np.full(D.shape, size, np.longdouble)
        return _Sample(name, arrays, make, D, G, constant * G, bound, solve)

    i, j = np.ogrid[:N, :N]
    A, d, U, V = draw(N, N), draw(N), draw(N, 2), draw(N, 2)
    yield entrywise("Dense", "B3", N, Dense, lambda A: A, A)
    yield entrywise("Diagonal", "B3", 1, Diagonal, lambda d: np.where(i == j, d[i], 0), d)
    yield entrywise(
        "Identity", "B3", 0, lambda one: Identity(N, like=one), lambda one: np.where(i == j, one, 0), d[:1] * 0 + 1
    )
    yield replace(entrywise("LowRank", "B5", N + 2, LowRank, lambda U, V: U @ V.T, U, V), solve="")  # it is singular
    F = draw(P, P), draw(2, 2), draw(2, 2)
    yield entrywise("Kronecker", "B3", P + 4, Kronecker, lambda *F: np.kron(np.kron(F[0], F[1]), F[2]), *F)
    yield entrywise(
        "KroneckerSum",
        "B17",
        Q + 2,
        KroneckerSum,
        lambda A, B: np.kron(A, np.eye(Q)) + np.kron(np.eye(P), B),
        draw(P, P),
        draw(Q, Q),
    )
    yield entrywise(
        "Separated", "B5", P + Q + 3, lambda s, A, B: Separated((A, B), s),
        lambda s, A, B: sum(s[l] * np.kron(A[l], B[l]) for l in range(3)), draw(3), draw(3, P, P), draw(3, Q, Q),
    )  # fmt: skip
    c, t = draw(N), draw(2 * N - 1)
    size = math.sqrt(N) * float(np.linalg.norm(c))

    def wrapped(c: Any, f: int) -> Any:
        return _wide(c)[(i - j) % N] * np.where(i < j, f, 1)

    yield by_fft("Circulant", "B9", size, BOUNDS["B9"](N), "B12", Circulant, wrapped(c, 1), c)
    yield by_fft("SkewCirculant", "B9", size, BOUNDS["B9"](N), "B12", SkewCirculant, wrapped(c, -1), c)
    long = 4 * N
    size = math.sqrt(long) * float(np.linalg.norm(t))
    T, H = _wide(t)[N - 1 + i - j], _wide(t)[i + j]
    yield by_fft("Toeplitz", "B10", size, BOUNDS["B10"](long), "B14", Toeplitz, T, t[N - 1 :], t[N - 1 :: -1])
    yield by_fft("Hankel", "B10", size, BOUNDS["B10"](long), "B14", Hankel, H, t[:N], t[N - 1 :])
    G, B = draw(N, 2), draw(N, 2)
    size = N * sum(float(np.linalg.norm(G[:, k]) * np.linalg.norm(B[:, k])) for k in range(2))
    W = sum(wrapped(G[:, k], 1) @ wrapped(B[:, k], -1) for k in range(2))
    yield by_fft("LowDisplacementRank", "B11", size, BOUNDS["B11"](N, 2), "B14", LowDisplacementRank, W, G, B)
    (p, q), (r, s) = (np.divmod(k, Q) for k in (i, j))
    c2, t2 = draw(P, Q), draw(2 * P - 1, 2 * Q - 1)
    D = _wide(c2)[(p - r) % P, (q - s) % Q]
    yield by_fft("MultilevelCirculant", "B9", math.sqrt(N) * float(np.linalg.norm(c2)), BOUNDS["B9"](N), "B12",
                 MultilevelCirculant, D, c2)  # fmt: skip
    D, long = _wide(t2)[P - 1 + p - r, Q - 1 + q - s], 16 * N
    yield by_fft("MultilevelToeplitz", "B10", math.sqrt(long) * float(np.linalg.norm(t2)), BOUNDS["B10"](long), "B14",
                 MultilevelToeplitz, D, t2)  # fmt: skip


def _wide(x: Any) -> Any:
    """The same numbers in extended precision, where the machine has one."""
    return np.asarray(x).astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)


# --- what is compared -----------------------------------------------------------------------------------------------------------


def _compare(sample: _Sample, to_backend: Callable[[Any], Any], dtype: str, rng: Any, tally: _Tally) -> None:
    """Products from both sides, transposes, sums, the dense form, solves, determinants, norms and singular values."""
    name, D, G, E = sample.name, sample.D, sample.G, sample.E
    A = sample.make(*map(to_backend, sample.arrays))
    x, y = (rng.standard_normal((N, 2)).astype(dtype) for _ in range(2))
    X = to_backend(x)

    def product() -> None:
        add = [(A @ X, D @ x, E @ np.abs(x)), (A.apply(to_backend(x.T)), x.T @ D.T, np.abs(x.T) @ E.T)]
        add += [(A.T @ X, D.T @ x, E.T @ np.abs(x)), (A.H @ X, D.conj().T @ x, E.T @ np.abs(x))]
        for found, expected, allowed in add:
            tally.add(name, "product", sample.bound, _host(found) - expected, allowed, dtype)

    def algebra() -> None:
        """Sums, multiples and products of two: lazy, or closed in the class."""
        near = E + G
        for M, exact, allowed in (
            (A + A.T, D + D.T, near + near.T), (3 * A, 3 * D, 3 * (E + 3 * G)), (A @ A, D @ D, near @ G + G @ near),
        ):  # fmt: skip
            tally.add(name, "algebra", sample.bound, _host(M @ X) - exact @ x, 2 * allowed @ np.abs(x), dtype)

    def entries() -> None:
        tally.add(name, "entries", sample.bound, _host(A.to_dense()) - D, E, dtype)
        tally.add(name, "entries", sample.bound, _host(A[2:9, ::-1]) - D[2:9, ::-1], E[2:9, ::-1], dtype)

    def adjoint() -> None:
        error = np.vdot(y, _host(A @ X)) - np.vdot(_host(A.H @ to_backend(y)), x)
        allowed = np.sum(np.abs(y) * ((2 * E + 6 * N * G) @ np.abs(x)))
        tally.add(name, "adjoint", "B23", error, allowed, dtype)

    def solves() -> None:
        if not sample.solve:
            return
        b = (D @ x).astype(dtype)
        z = _host(solve(A, to_backend(b)))
        size = np.linalg.norm(D.astype(complex), "fro" if sample.solve == "B12" else 2)
        allowed = BOUNDS[sample.solve](N) * size * np.linalg.norm(z, axis=0) + np.linalg.norm(b, axis=0)
        tally.add(name, "solve", sample.solve, np.linalg.norm((b - D @ z).astype(complex), axis=0), allowed, dtype)

    def numbers() -> None:
        exact = D.astype(complex)
        s = np.linalg.svd(exact, compute_uv=False)
        if slogdet.find(type(A)) and sample.solve:
            error = float(_host(slogdet(A).logabsdet)) - float(np.sum(np.log(s)))
            tally.add(name, "slogdet", "B21", error, BOUNDS["B21"]() * N * N * s[0] / s[-1], dtype)
        if svdvals.find(type(A)):
            tally.add(name, "svdvals", "B22", _host(svdvals(A)) - s, BOUNDS["B22"](N) * s[0], dtype)
        if norm.find(type(A)):
            tally.add(
                name,
                "norm",
                "B8",
                float(_host(norm(A))) - np.linalg.norm(s),
                BOUNDS["B8"](Q, 3) * np.linalg.norm(s),
                dtype,
            )
        if trace.find(type(A)):
            tally.add(
                name, "trace", sample.bound, _host(trace(A)) - np.trace(D), np.trace(E) + 3 * N * np.trace(G), dtype
            )

    for quantity in (product, algebra, entries, adjoint, solves, numbers):
        try:
            quantity()
        except UnsupportedError:
            continue
        except Exception as error:  # noqa: BLE001  whatever a library raises here is the finding
            tally.fail(name, quantity.__name__, error)


def _host(x: Any) -> Any:
    return _array.to_numpy(x)
