"""The cells of the speed study: one product each, with every way to compute it, the truth, and what it costs.

A cell is described by a plain dictionary (family, size, columns, dtype, library, threads), so that it can stand in JSON;
`build` makes arrays and entries of it. Kronecker families count flops and traffic: 2 Σ_i m_i n_i Π (other sizes), and
one read and one write of the array for each factor. FFT families count one real transform there and one back.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft

import sepmat as sm
from studies import _references as plain
from studies import _rivals
from studies._race import OURS, Entry

BOUND = {"float64": 1e-11, "float32": 1e-4}
GEMM_SIDE = 1024
DENSE = 4096  # a dense matrix of this size is an entry too
TERMS = 8


@dataclasses.dataclass
class Cell:
    """Entries of a race, the truth they are compared with, and the work of the product."""

    entries: list[Entry]
    truth: Any
    work: dict[str, float]
    route: str | None = None


def build(spec: dict[str, Any], rng: Any) -> Cell:
    """The cell of a description."""
    make: Callable[..., Cell] = FAMILIES[spec["family"]]
    cell = make(spec, rng)
    cell.route = route(cell)
    return cell


def route(cell: Cell) -> str | None:
    """What `sm.explain` says our entry does, where it was a product."""
    asked = next(e.asked for e in cell.entries if e.name == OURS)
    return str(sm.explain(*asked).route) if asked else None


# --- arrays ----------------------------------------------------------------------------------------------------------------


def draw(rng: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Gaussian numbers of a dtype."""
    return rng.standard_normal(shape, dtype=dtype)


def into(library: str, x: Any) -> Any:
    """A NumPy array as it is, or as a tensor on the same memory."""
    if library == "numpy":
        return x
    import torch

    return torch.from_numpy(x)


def fft_of(library: str) -> Any:
    """scipy.fft or torch.fft."""
    if library == "numpy":
        return scipy.fft
    import torch

    return torch.fft


def ours(A: Any, x: Any, axis: int = -2, back: Callable[[Any], Any] | None = None) -> Entry:
    """Our entry: A @ x, or the rows of x with axis=-1."""
    call = functools.partial(A.apply if axis == -1 else A.__matmul__, x)
    return Entry(OURS, "ours", call, back, (A, x, axis if x.ndim > 1 else -1))


def gemm_side(X: Any) -> int:
    """The side of the square GEMM whose rate is the limit: large, but for the tiny products of the smoke preset."""
    return GEMM_SIDE if X.nbytes >= 2**13 else 64


def limits(library: str, dtype: str, X: Any, rng: Any) -> list[Entry]:
    """A square GEMM and a copy of X in the same library: what the machine can do, in the same rounds."""
    n = gemm_side(X)
    A, B = (into(library, draw(rng, (n, n), dtype)) for _ in range(2))
    if library == "numpy":
        C, Y = np.empty_like(A), np.empty_like(X)
        return [Entry("GEMM", "limit", lambda: np.matmul(A, B, out=C)), Entry("copy", "limit", lambda: np.copyto(Y, X))]
    import torch

    C, Y = torch.empty_like(A), torch.empty_like(X)
    return [Entry("GEMM", "limit", lambda: torch.matmul(A, B, out=C)), Entry("copy", "limit", lambda: Y.copy_(X))]


# --- Kronecker products ----------------------------------------------------------------------------------------------------


def kronecker(spec: dict[str, Any], rng: Any) -> Cell:
    """(F_1 ⊗ … ⊗ F_d) X, X (N, k); with "rows" X Fᵀ for rows X (k, N)."""
    n, d, k, dtype, library = (spec[key] for key in ("n", "d", "k", "dtype", "library"))
    F = [draw(rng, (n, n), dtype) / math.sqrt(n) for _ in range(d)]
    X = draw(rng, (n**d, k) if k > 1 else (n**d,), dtype)
    truth = plain.reshaped([f.astype(float) for f in F], X.astype(float))()
    T, x = [into(library, f) for f in F], into(library, X)
    K = sm.Kronecker(*T)
    if spec.get("rows"):
        rows = into(library, np.ascontiguousarray(X.T))
        entries = [ours(K, rows, -1, lambda y: y.T)]
        entries += [e for e in _rivals.fastkron(T, x, library) if "rows" in e.name]
        entries += [Entry("G, rows", "reference", plain.rows_from_the_right(T, rows), lambda y: y.T)]
        entries += [Entry("B, rows", "reference", plain.rows_batched(T, rows), lambda y: y.T)]
    else:
        entries = [ours(K, x)]
        entries += _rivals.kronecker(T, x, library, patient=d <= 3 or (k == 1 and d <= 6))
        entries += kronecker_references(F, X, library)
    work = {
        "flops": 2.0 * d * n * n**d * k,
        "traffic": 2.0 * d * X.nbytes,
        "once": 2.0 * X.nbytes,
        "gemm": gemm_side(X),
    }
    return Cell(entries + limits(library, dtype, x, rng), truth, work)


def kronecker_references(F: list[Any], X: Any, library: str) -> list[Entry]:
    """B, R, G in either library; E, merged neighbours, chunks and the dense matrix in NumPy."""
    T, x = [into(library, f) for f in F], into(library, X)
    entries = [
        Entry("B", "reference", plain.batched(T, x)),
        Entry("R", "reference", plain.reshaped(T, x)),
        Entry("G", "reference", plain.from_the_right(T, x)),
    ]
    if library == "numpy":
        n, d = F[0].shape[0], len(F)
        if d == 2 and X.shape[0] <= DENSE:
            entries += [Entry("D", "reference", plain.dense(plain.kron(F), X))]
        if d == 2 and X.size <= 2**20:
            entries += [Entry("E", "reference", plain.einsum(F, X))]
        if d > 2 and n <= 16:
            for side in (16, 64, 512):
                if n < side:
                    entries += [Entry(f"M, {side}", "reference", plain.merged(F, X, side))]
            if X.ndim > 1:
                entries += [Entry("C", "reference", plain.blocked(F, X))]
    return entries


def separated(spec: dict[str, Any], rng: Any) -> Cell:
    """Σ_l V_l ⊗ W_l, eight terms."""
    n, k, dtype, library = (spec[key] for key in ("n", "k", "dtype", "library"))
    V, W = (draw(rng, (TERMS, n, n), dtype) / math.sqrt(n) for _ in range(2))
    X = draw(rng, (n * n, k) if k > 1 else (n * n,), dtype)
    truth = plain.looped(V.astype(float), W.astype(float), X.astype(float))()
    v, w, x = (into(library, a) for a in (V, W, X))
    entries = [
        ours(sm.Separated([v, w]), x),
        *_rivals.sums([v, w], x, library, patient=k == 1),
        Entry("L", "reference", plain.looped(v, w, x)),
        Entry("K", "reference", plain.stacked(v, w, x)),
    ]
    if library == "numpy" and n * n <= DENSE:
        A = sum(np.kron(a, b) for a, b in zip(V, W, strict=True))
        entries += [Entry("D", "reference", plain.dense(A, X))]
    work = {
        "flops": 4.0 * TERMS * n**3 * k,
        "traffic": 4.0 * TERMS * X.nbytes,
        "once": 2.0 * X.nbytes,
        "gemm": gemm_side(X),
    }
    return Cell(entries + limits(library, dtype, x, rng), truth, work)


def kronecker_solve(spec: dict[str, Any], rng: Any) -> Cell:
    """(F_1 ⊗ F_2)⁻¹ B with positive definite factors of condition about 10."""
    n, k, dtype, library = (spec[key] for key in ("n", "k", "dtype", "library"))
    F = [draw(rng, (n, n), dtype) for _ in range(2)]
    F = [(f @ f.T / n + np.eye(n, dtype=dtype) / 2).astype(dtype) for f in F]
    B = draw(rng, (n * n, k) if k > 1 else (n * n,), dtype)
    truth = plain.kronecker_solve([f.astype(float) for f in F], B.astype(float))()
    T, b = [into(library, f) for f in F], into(library, B)
    entries = [Entry(OURS, "ours", lambda: sm.solve(sm.Kronecker(*T), b)), *_rivals.kronecker_solve(T, b, library)]
    if library == "numpy":
        entries += [Entry("LU of each factor", "reference", plain.kronecker_solve(F, B))]
    work = {
        "flops": 4.0 * n**3 * k + 4.0 / 3.0 * n**3,
        "traffic": 4.0 * B.nbytes,
        "once": 2.0 * B.nbytes,
        "gemm": gemm_side(B),
    }
    return Cell(entries + limits(library, dtype, b, rng), truth, work)


# --- circulant, Toeplitz, Hankel -------------------------------------------------------------------------------------------


def toeplitz(spec: dict[str, Any], rng: Any) -> Cell:
    """Circulant, skew-circulant, Toeplitz, symmetric Toeplitz and Hankel matrices: one vector, rows, or columns."""
    kind, n, k, layout, library = (spec[key] for key in ("kind", "n", "k", "layout", "library"))
    dtype = spec["dtype"]
    c, r = draw(rng, (n,), dtype), draw(rng, (n,), dtype)
    x = draw(rng, (k, n) if k > 1 else (n,), dtype)  # rows
    r[0] = c[-1] if kind == "hankel" else c[0]
    if kind == "symmetric_toeplitz":
        r = c
    column, length, start = embedding(kind, c, r)
    flipped = np.ascontiguousarray(x[..., ::-1]) if kind == "hankel" else x
    wide = column.astype(float), flipped.astype(float)
    truth = plain.spectrum_kept(scipy.fft, wide[0], length, wide[1], start, start + n)()
    A = matrix(kind, into(library, c), into(library, r))
    fft, column, x, flipped = fft_of(library), into(library, column), into(library, x), into(library, flipped)
    columns = layout == "columns"
    X = _rivals.contiguous(x.T) if columns else x
    back = (lambda y: y.T) if columns else None
    entries = [ours(A, X, -2 if columns or k == 1 else -1, back)]
    entries += rivals_of_toeplitz(kind, c, r, flipped, library)
    if columns:
        keep = plain.spectrum_kept(fft, column, length, _rivals.contiguous(flipped.T), start, start + n, 0)
        entries += [Entry("S, axis 0", "reference", keep, back)]
        turned = plain.turned(fft, column, length, _rivals.contiguous(flipped.T), start, start + n)
        entries += [Entry("S, transposed copy", "reference", turned, back)]
    else:
        entries += [Entry("S", "reference", plain.spectrum_kept(fft, column, length, flipped, start, start + n))]
    if library == "numpy" and kind == "circulant" and n < 2**20:
        entries += [Entry("N", "reference", plain.spectrum_kept(np.fft, column, length, x, 0, n))]
    if (
        kind == "circulant" and not columns and scipy.fft.next_fast_len(n, real=True) != n
    ):  # as part of a larger circulant
        t, longer = into(library, np.concatenate((c[1:], c))), scipy.fft.next_fast_len(2 * n - 1, real=True)
        entries += [Entry("S, padded", "reference", plain.spectrum_kept(fft, t, longer, x, n - 1, 2 * n - 1))]
    if library == "numpy" and n <= DENSE:
        D = dense_toeplitz(kind, c, r)
        entries += [Entry("D", "reference", plain.dense(D, X), back)] if columns or k == 1 else dense_rows(D, x)
    entries += [Entry("FFT", "limit", plain.one_and_back(fft, length if kind != "skew_circulant" else n, flipped))]
    return Cell(entries, truth, {"transforms": 1.0})


def dense_rows(D: Any, x: Any) -> list[Entry]:
    """Rows times the transpose of a dense matrix, in the layout that GEMM likes better."""
    E = np.ascontiguousarray(D.T)
    return [Entry("D", "reference", lambda: x @ E)]


def rivals_of_toeplitz(kind: str, c: Any, r: Any, x: Any, library: str) -> list[Entry]:
    """Peers on columns, whichever layout we are given: theirs is prepared outside the clock."""
    if kind == "skew_circulant" or c.shape[0] * math.prod(x.shape) >= 2**45:
        return []
    X = _rivals.contiguous(x.T) if x.ndim > 1 else x
    back = (lambda y: y.T) if x.ndim > 1 else None
    if kind == "circulant":
        c, r = c, np.concatenate((c[:1], c[:0:-1]))
    if kind == "hankel":  # on x reversed, which costs nothing here
        h = np.concatenate((c, r[1:]))
        n = c.shape[0]
        c, r = h[n - 1 :], h[n - 1 :: -1]
    c, r = (into(library, np.ascontiguousarray(v)) for v in (c, r))
    found = _rivals.toeplitz(c, r, X, library, kind == "symmetric_toeplitz")
    return [dataclasses.replace(e, back=chain(e.back, back)) for e in found]


def chain(first: Any, second: Any) -> Any:
    """second after first; None is the identity."""
    if first is None or second is None:
        return first or second
    return lambda y: second(first(y))


def embedding(kind: str, c: Any, r: Any) -> tuple[Any, int, int]:
    """The first column of a circulant that the matrix is a part of, its size, and the row the part begins at."""
    n = c.shape[0]
    if kind == "circulant":
        return c, n, 0
    if kind == "skew_circulant":
        t = np.concatenate((-c[1:], c))
    elif kind == "hankel":
        t = np.concatenate((c, r[1:]))
    else:
        t = np.concatenate((r[:0:-1], c))
    return t, scipy.fft.next_fast_len(2 * n - 1, real=True), n - 1


def matrix(kind: str, c: Any, r: Any) -> Any:
    """The structured matrix."""
    if kind == "symmetric_toeplitz":
        return sm.Toeplitz(c)
    made: dict[str, Callable[[], Any]] = {
        "circulant": lambda: sm.Circulant(c),
        "skew_circulant": lambda: sm.SkewCirculant(c),
        "toeplitz": lambda: sm.Toeplitz(c, r),
        "hankel": lambda: sm.Hankel(c, r),
    }
    return made[kind]()


def dense_toeplitz(kind: str, c: Any, r: Any) -> Any:
    """The same as a dense array, by SciPy."""
    if kind == "circulant":
        return scipy.linalg.circulant(c)
    if kind == "skew_circulant":
        return plain.skew_circulant(c)
    return scipy.linalg.hankel(c, r) if kind == "hankel" else scipy.linalg.toeplitz(c, r)


def fresh(spec: dict[str, Any], rng: Any) -> Cell:
    """A Toeplitz matrix used once: made and multiplied inside the clock."""
    n, dtype = spec["n"], spec["dtype"]
    c, r, x = (draw(rng, (n,), dtype) for _ in range(3))
    r[0] = c[0]
    column, length, start = embedding("toeplitz", c, r)
    wide = plain.spectrum_each_call(column.astype(float), length, x.astype(float), start, start + n)
    entries = [
        Entry(OURS, "ours", lambda: sm.Toeplitz(c, r) @ x),
        *_rivals.toeplitz(c, r, x, "numpy"),
        Entry("S, made anew", "reference", plain.made_anew(c, r, length, x)),
    ]
    return Cell(entries, wide(), {"transforms": 1.5})


def circulant_solve(spec: dict[str, Any], rng: Any) -> Cell:
    """C⁻¹ b with the matrix used again, or made and solved with inside the clock."""
    n, dtype = spec["n"], spec["dtype"]
    c, b = draw(rng, (n,), dtype), draw(rng, (n,), dtype)
    c[0] += 8 * math.sqrt(n)
    inverse = 1.0 / scipy.fft.rfft(c)
    truth = scipy.fft.irfft(scipy.fft.rfft(b.astype(float)) / scipy.fft.rfft(c.astype(float)), n)
    C = sm.Circulant(c)
    once = spec["once"]
    entries = [
        Entry(OURS, "ours", (lambda: sm.solve(sm.Circulant(c), b)) if once else (lambda: sm.solve(C, b))),
        *_rivals.solve_circulant(c, b),
    ]
    if once:
        entries += [Entry("S", "reference", lambda: scipy.fft.irfft(scipy.fft.rfft(b) / scipy.fft.rfft(c), n))]
    else:
        entries += [Entry("S", "reference", lambda: scipy.fft.irfft(scipy.fft.rfft(b) * inverse, n))]
    entries += [Entry("FFT", "limit", plain.one_and_back(scipy.fft, n, b))]
    return Cell(entries, truth, {"transforms": 1.5 if once else 1.0})


# --- low displacement rank -------------------------------------------------------------------------------------------------


def displacement(spec: dict[str, Any], rng: Any) -> Cell:
    """W(G, H) x, r terms: one vector or rows."""
    n, r, k, dtype, library = (spec[key] for key in ("n", "r", "k", "dtype", "library"))
    G, H = (draw(rng, (n, r), dtype) / math.sqrt(n) for _ in range(2))
    x = draw(rng, (k, n) if k > 1 else (n,), dtype)
    truth = plain.whole_length(scipy.fft, G.astype(float), H.astype(float), x.astype(float))()
    g, h, X = (into(library, a) for a in (G, H, x))
    fft = fft_of(library)
    entries = [
        ours(sm.LowDisplacementRank(g, h), X, -2 if k == 1 else -1),
        Entry("P", "reference", plain.whole_length(fft, g, h, X)),
    ]
    if library == "numpy":
        if n % 2 == 0:
            entries += [Entry("H", "reference", plain.half_length(G, H, x))]
        if n <= DENSE:
            D = plain.low_displacement_rank(G, H).astype(dtype)
            entries += [Entry("D", "reference", plain.dense(D, x))] if k == 1 else dense_rows(D, x)
    entries += [Entry("FFT", "limit", plain.one_and_back(fft, n, X))]
    return Cell(entries, truth, {"transforms": 1.0 + r})


# --- the overhead of a small product ---------------------------------------------------------------------------------------


def overhead(spec: dict[str, Any], rng: Any) -> Cell:
    """2×2 ⊗ 2×2 times a vector: the arithmetic is nothing, so this is what a call costs."""
    cell = kronecker(spec | {"n": 2, "d": 2, "k": 1}, rng)
    cell.entries = [e for e in cell.entries if e.kind != "limit" and e.name != "E"]
    return cell


FAMILIES: dict[str, Callable[..., Cell]] = {
    "Kronecker": kronecker,
    "sum": separated,
    "Kronecker solve": kronecker_solve,
    "fft": toeplitz,
    "used once": fresh,
    "circulant solve": circulant_solve,
    "displacement": displacement,
    "overhead": overhead,
}
