"""Systems with Cauchy-like matrices C[k, l] = (G B)[k, l] / (λ_k − μ_l), solved by elimination on G and B alone.

Heinig; Gohberg, Kailath and Olshevsky, "Fast Gaussian elimination with partial pivoting for matrices with displacement
structure" (1995): the Schur complements of C are Cauchy-like with generators that are updated in O(n r) a step. Here in
panels of columns, so that the work is in products of blocks. Of C, L and U nothing is stored: the rows of U that the
substitution needs are formed anew from generators kept at every few panels. Balanced generators as in Gu, "Stable and
efficient algorithms for structured systems of linear equations" (1998).

Matrices whose displacement Z_1 A − A Z_{-1} has low rank become Cauchy-like under FFTs, real Toeplitz matrices also
under cosine transforms, with real nodes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.lib.stride_tricks import sliding_window_view

from .. import _array
from .._array import Array
from ._table import KernelTable

PANEL = {"f": 40, "c": 16}  # columns: real, complex. 24 to 48 and 8 to 24 take 10 % longer at most
KEEP = 2.0**-5  # a column is formed anew when its pivot has fallen below this share of what was in it
NARROW = 4  # columns of the panel after one that was cut short; then twice as many again
BALANCED = 4  # panels after which the generators are balanced; at 16 they grow
SEGMENT = 8  # panels whose rows are held at a time in the substitution
CHUNK = 2**11  # rows or columns formed at a time: larger arrays would be mapped anew by the allocator each time


class Solved(NamedTuple):
    """C⁻¹ rhs, and det C = sign exp(logabs); logabs = −inf: C is singular and x is nothing."""

    x: Array
    sign: complex
    logabs: float


class Nodes(NamedTuple):
    """1 / (λ_k − μ_l) = phase[k] plus[k + l] minus[n − 1 + l − k], accurate to the last digits; None: 1."""

    plus: Any
    minus: Any
    phase: Any


def nodes(kind: str, n: int) -> Nodes:
    """kind, with ω = e^{−2πi/n}: "unit" λ_k = ω^k, μ_l = ω^{l+1/2}; "half" the other way round; "cosine" real nodes
    λ_k = 2 cos(kπ/n), μ_l = 2 cos((l+1/2)π/n). NumPy arrays, with room for windows of n entries."""
    pad = np.zeros(n)
    if kind == "cosine":
        plus = -0.25 / np.sin((np.arange(2 * n) + 0.5) * np.pi / (2 * n))
        minus = 1.0 / np.sin((n - 1.5 - np.arange(2 * n)) * np.pi / (2 * n))
        return Nodes(np.concatenate((plus, pad)), np.concatenate((minus, pad)), None)
    first, shift = (0.0, 0.5) if kind == "unit" else (0.5, -0.5)
    turn = 0.5 - 0.5j / np.tan((np.arange(1 - n, n + 1) + shift) * np.pi / n)
    return Nodes(None, np.concatenate((turn, pad)), np.exp(2j * np.pi * (np.arange(n) + first) / n))


def _reference(G: Array, B: Array, rhs: Array, kind: str) -> Solved:
    """C x = rhs for C[k, l] = (G B)[k, l] / (λ_k − μ_l); G (n, r), B (r, n), rhs (n, q), kind: the nodes.

    One column at a time, with partial pivoting. O(n² r) operations; U is kept.
    """
    xp, (n, r) = _array.array_namespace(G), G.shape
    place = {"dtype": G.dtype, "device": _array.device(G)}
    plus, minus, phase = (None if t is None else xp.asarray(t, **place) for t in nodes(kind, n))
    rows, h, b, found = list(range(n)), xp.concat((G, rhs), axis=1), B, []
    sign, logabs = 1.0 + 0.0j, 0.0

    def index(values: Sequence[int]) -> Array:
        return xp.asarray(values, dtype=xp.int64, device=_array.device(G))

    def weights(rows: Sequence[int], cols: Sequence[int]) -> Array:
        w = xp.take(minus, index([n - 1 + l - k for k in rows for l in cols]), axis=0)
        if plus is not None:
            w = w * xp.take(plus, index([k + l for k in rows for l in cols]), axis=0)
        return w if phase is None else w * xp.take(phase, index([k for k in rows for _ in cols]), axis=0)

    for l in range(n):
        if l % (8 * BALANCED) == 0:
            M, inverse = _balanced(h[:, :r])
            h, b = xp.concat((h[:, :r] @ M, h[:, r:]), axis=1), inverse @ b
        column = (h[:, :r] @ b[:, :1])[:, 0] * weights(rows, [l])
        p = int(xp.argmax(xp.abs(column)))
        order = list(range(n - l))
        order[0], order[p] = p, 0
        rows, h, column = (
            [rows[i] for i in order],
            xp.take(h, index(order), axis=0),
            xp.take(column, index(order), axis=0),
        )
        size = _array.to_float(xp.abs(column[0]))
        if not size:
            return Solved(rhs, 0.0, -math.inf)
        sign, logabs = sign * complex(column[0]) / size * (-1 if p else 1), logabs + math.log(size)
        x, V = h[:1, :] / column[0], b[:, :1] / column[0]
        if l + 1 < n:
            row = (h[:1, :r] @ b[:, 1:]) * weights(rows[:1], range(l + 1, n))[None, :]
            h, b = h[1:, :] - column[1:, None] * x, b[:, 1:] - V @ row
            found.append((x[:, r:], row / column[0]))
        rows = rows[1:]
    solution = x[:, r:] if n else rhs
    for z, row in reversed(found):
        solution = xp.concat((z - row @ solution, solution), axis=0)
    return Solved(solution, sign, logabs)


cauchy_solve = KernelTable("cauchy_solve", _reference)


def _on_host(*arrays: Any) -> bool:
    return all(_array.is_numpy(x) or (_array.is_torch(x) and str(_array.device(x)) == "cpu") for x in arrays)


@cauchy_solve.row("panels", lambda G, B, rhs, kind: _on_host(G, B, rhs))
def _in_panels(G: Array, B: Array, rhs: Array, kind: str) -> Solved:
    """The reference in panels of columns, for arrays in the memory of the host."""
    like, (n, r) = G, G.shape
    G, B, rhs = (_array.to_numpy(x) for x in (G, B, rhs))
    weights, full = _Weights(kind, n, G.dtype), PANEL[G.dtype.kind]
    getrf, getrs, trtrs = scipy.linalg.get_lapack_funcs(("getrf", "getrs", "trtrs"), (G,))
    columns, upper = np.empty(full * n, G.dtype), np.triu(np.ones((full, full)))
    order, h, b, x = np.arange(n), np.concatenate((G, rhs), axis=1), B, np.empty_like(rhs)
    panels: list[Panel] = []
    marks: dict[int, Any] = {}
    sign, width, at = 1.0 + 0.0j, full, 0
    while at < n:
        inverse = None
        if len(panels) % BALANCED == 0:
            M, inverse = _balanced(h[:, :r])
            h[:, :r], b = h[:, :r] @ M, inverse @ b
        if len(panels) % SEGMENT == 0:
            marks[len(panels)] = b
        w, left = min(width, n - at), order[at:]
        P = columns[: w * (n - at)].reshape((w, n - at))
        lu, pivots, _ = getrf(weights.columns(h[:, :r], b[:, :w], left, at, P).T, overwrite_a=True)
        size = np.abs(lu[:w]) * upper[:w, :w]
        small = np.flatnonzero(np.diagonal(size) < KEEP * size.sum(axis=0))
        accepted = int(small[0]) if small.size else w
        width, w = min(full, 2 * w) if accepted == w else max(NARROW, accepted), max(1, accepted)
        if not size[w - 1, w - 1] > 0:
            return Solved(like, 0.0, -math.inf)
        moved, swaps = _moves(pivots.tolist())
        to, source = (np.array(list(x), dtype=np.int64) for x in (moved, moved.values()))
        h[to], left[to] = h[source], left[source]
        block, identity = lu[:w, :w].copy(order="F"), np.arange(w, dtype=pivots.dtype)
        sign *= (-1) ** swaps
        Y = trtrs(block, h[:w], lower=1, unitdiag=1)[0]
        V = getrs(block, identity, b[:, :w].T, trans=1)[0].T
        panels.append(Panel(at, w, h[:w, :r].copy(), V, block, left[:w].copy(), inverse))
        x[at : at + w] = trtrs(block, Y[:, r:])[0]
        h, b, at = h[w:], b[:, w:], at + w
        h -= lu[w:, :w] @ Y
        b = np.concatenate([b[:, part] - V @ R for part, R in weights.rows(panels[-1], b)] or [b], axis=1)
    _substitute(x, panels, marks, weights)
    pivot = np.concatenate([np.diagonal(p.block) for p in panels])
    sign *= complex(np.prod(pivot / np.abs(pivot)))
    logabs = float(np.sum(np.log(np.abs(pivot))))
    return Solved(_array.array_namespace(like).asarray(x, device=_array.device(like)), sign, logabs)


def _substitute(x: Any, panels: "list[Panel]", marks: dict[int, Any], weights: "_Weights") -> None:
    """x ← U⁻¹ x in place, where x holds block⁻¹ of each panel already: the rows of U are formed anew.

    Segment after segment from the last one: from the generators at its first panel those of its others follow.
    """
    (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), (x,))
    for start in sorted(marks, reverse=True):
        segment, b, held = panels[start : start + SEGMENT], marks[start], []
        end = segment[-1].at + segment[-1].width  # x is known from here on
        for i, p in enumerate(segment):
            b = (p.inverse @ b if i and p.inverse is not None else b)[:, p.width :]
            known, inside, pieces = np.zeros((p.width, x.shape[1]), x.dtype), None, []
            for part, R in weights.rows(p, b, end):
                pieces.append(b[:, part] - p.V @ R)
                if p.at + p.width + part.start < end:
                    inside = R.copy()
                else:
                    known += R @ x[p.at + p.width + part.start : p.at + p.width + part.stop]
            b = np.concatenate(pieces or [b], axis=1)
            held.append((p, known, inside))
        for p, known, inside in reversed(held):
            stop = p.at + p.width
            if inside is not None:
                known = known + inside @ x[stop:end]
            x[p.at : stop] -= getrs(p.block, np.arange(p.width, dtype=np.int32), known)[0]


class _Weights:
    """Blocks of C from generators: products times 1 / (λ_k − μ_l), in chunks that stay in the cache."""

    def __init__(self, kind: str, n: int, dtype: Any) -> None:
        table, full = nodes(kind, n), PANEL[np.dtype(dtype).kind]
        self.scratch = np.empty(full * max(CHUNK, full * SEGMENT), dtype)
        self.n, self.phase = n, table.phase
        self.minus = sliding_window_view(table.minus, n)
        self.plus = None if table.plus is None else sliding_window_view(table.plus, n)

    def _weigh(self, P: Any, rows: Any, cols: slice) -> None:
        P *= self.minus[:, cols][self.n - 1 - rows]
        if self.plus is not None:
            P *= self.plus[:, cols][rows]
        if self.phase is not None:
            P *= self.phase[rows, None]

    def columns(self, g: Any, b: Any, rows: Any, first: int, out: Any) -> Any:
        """These rows of the columns from `first` on, transposed into out."""
        for i in range(0, len(rows), CHUNK):
            part = slice(i, i + CHUNK)
            P = g[part] @ b
            self._weigh(P, rows[part], slice(first, first + b.shape[1]))
            out[:, part] = P.T
        return out

    def rows(self, p: "Panel", b: Any, end: int = 0) -> Iterator[tuple[slice, Any]]:
        """The pivot rows of a panel right of it, in chunks of columns; columns before `end` are a chunk of their own.

        Every chunk is formed in the same memory.
        """
        first, stop = p.at + p.width, 0
        while stop < b.shape[1]:
            start, stop = stop, min(end - first if first + stop < end else stop + CHUNK, b.shape[1])
            part, R = slice(start, stop), self.scratch[: p.width * (stop - start)].reshape(p.width, stop - start)
            np.matmul(p.g, b[:, part], out=R)
            self._weigh(R, p.rows, slice(first + start, first + stop))
            yield part, R


class Panel(NamedTuple):
    """What the substitution needs of a panel of pivot rows and columns."""

    at: int
    width: int
    g: Any  # generators of the pivot rows
    V: Any  # generators of the pivot columns times block⁻¹
    block: Any  # LU of the pivot block
    rows: Any
    inverse: Any  # what the columns' generators were balanced by before it


def _moves(pivots: list[int]) -> tuple[dict[int, int], int]:
    """Which row each row comes from after LAPACK's interchanges, and the number of these."""
    moved: dict[int, int] = {}
    for i, p in enumerate(pivots):
        moved[i], moved[p] = moved.get(p, p), moved.get(i, i)
    return moved, sum(i != p for i, p in enumerate(pivots))


def _balanced(g: Array) -> tuple[Array, Array]:
    """(M, M⁻¹) such that the columns of g M are near to orthonormal; dependent ones stay small."""
    xp = _array.array_namespace(g)
    values, Q = xp.linalg.eigh(_array.adjoint(g) @ g)
    root = xp.sqrt(xp.maximum(values, xp.max(values) * 1e-28))
    root = _array.astype(xp.where(root > 0, root, xp.ones_like(root)), Q.dtype)
    return Q / root, root[:, None] * _array.adjoint(Q)


# matrices with a displacement ---------------------------------------------------------------------------------------------


def displacement_solve(P: Array, Q: Array, rhs: Array, half: bool = False) -> Solved:
    """A x = rhs for Z_1 A − A Z_{-1} = P Qᵀ (half: Z_{-1} A − A Z_1 = P Qᵀ); P, Q (n, r), rhs (n, q), in double precision.

    C = F A D Fᴴ (half: F Dᴴ A Fᴴ) with the unitary DFT F and D = diag(e^{iπj/n}) is Cauchy-like.
    """
    real = not any(_array.is_complex(x) for x in (P, Q, rhs))
    P, Q, rhs = (_complex(x) for x in (P, Q, rhs))
    xp, n = _array.array_namespace(P), P.shape[0]
    twist = np.exp(1j * np.pi * np.arange(n) / n)[:, None]
    D = xp.asarray(twist, dtype=P.dtype, device=_array.device(P))
    if half:
        P, rhs = xp.conj(D) * P, xp.conj(D) * rhs
    else:
        Q = D * Q
    G, F = (xp.fft.fft(x, axis=0, norm="ortho") for x in (P, rhs))
    B = xp.matrix_transpose(xp.fft.ifft(Q, axis=0, norm="ortho"))
    solved = cauchy_solve(G, B, F, "half" if half else "unit")
    if solved.logabs == -math.inf:
        return solved
    x = xp.fft.ifft(solved.x, axis=0, norm="ortho")
    x = x if half else D * x
    turn = 1j ** ((1 - n) % 4) if not half else 1j ** ((n - 1) % 4)  # det D = i^(n−1)
    return Solved(xp.real(x) if real else x, solved.sign * turn, solved.logabs)


def _complex(x: Array) -> Array:
    return x if _array.is_complex(x) else _array.astype(x, _array.complex_dtype(_array.array_namespace(x), x.dtype))


def _toeplitz_reference(c: Array, r: Array, rhs: Array) -> Solved:
    """T x = rhs for a Toeplitz matrix with first column c and first row r, (n,), rhs (n, q), in double precision."""
    P, Q = toeplitz_generators(c, r)
    return displacement_solve(P, Q, rhs)


def toeplitz_generators(c: Array, r: Array) -> tuple[Array, Array]:
    """P = [e_0, q], Q = [p, e_{n-1}] with Z_1 T − T Z_{-1} = P Qᵀ: q_i = t_i + t_{i−n}, q_0 = 0, p = J (2 c − q)."""
    xp, n = _array.array_namespace(c), c.shape[0]
    q = xp.concat((xp.zeros_like(c[:1]), c[1:] + xp.flip(r[1:])))
    e = xp.astype(xp.arange(n, dtype=xp.int64, device=_array.device(c)) == 0, c.dtype)
    return xp.stack((e, q), axis=1), xp.stack((xp.flip(2 * c - q), xp.flip(e)), axis=1)


toeplitz_solve = KernelTable("toeplitz_solve", _toeplitz_reference)


@toeplitz_solve.row("cosine", lambda c, r, rhs: _on_host(c, r, rhs) and not any(map(_array.is_complex, (c, r, rhs))))
def _by_cosines(c: Array, r: Array, rhs: Array) -> Solved:
    """Real matrices in real arithmetic: Y_1 T − T Y_{-1} is a border of rank 4, where Y_{±1} = Z_0 + Z_0ᵀ with ±1 in the
    last corner and 1 in the first has the eigenvectors of the cosine transforms II and IV."""
    like = rhs
    c, r, rhs = (_array.to_numpy(x) for x in (c, r, rhs))
    n = c.shape[0]
    zero, e, last = np.zeros(1), np.eye(n, 1), np.eye(n, 1, k=1 - n)
    up, left = c[::-1], r[::-1]
    G = np.concatenate(
        (e, last, (np.append(c[1:], zero) - c)[:, None], (np.append(zero, left[:-1]) + left)[:, None]), axis=1
    )
    B = np.concatenate(
        ((r - np.append(r[1:], zero))[None, :], (up - np.append(zero, up[:-1]))[None, :], e.T, last.T), axis=0
    )
    G, rhs = (scipy.fft.dct(x, type=2, axis=0, norm="ortho") for x in (G, rhs))
    solved = cauchy_solve(G, scipy.fft.dct(B, type=4, axis=1, norm="ortho"), rhs, "cosine")
    if solved.logabs == -math.inf:
        return solved
    x = scipy.fft.dct(solved.x, type=4, axis=0, norm="ortho")
    xp = _array.array_namespace(like)
    return Solved(xp.asarray(x, device=_array.device(like)), math.nan, solved.logabs)  # the sign is not worked out
