"""What W(G, H) = Σ_i Z_1(g_i) Z_{-1}(h_i) contains, and with how many terms (SURM, Theorem A.2).

The number of terms is the displacement rank, and displacements have rules. With ∇_{f,g}(A) = Z_f A − A Z_g, f, g = ±1,

    ∇_{f,h}(A B) = ∇_{f,g}(A) B + A ∇_{g,h}(B)   for any g,        ∇_{f,g}(A⁻¹) = −A⁻¹ ∇_{g,f}(A) A⁻¹,

and every class has generators of the form

    ½ ∇_{f,g}(A) = e_0 aᵀ + b e_{n-1}ᵀ + (A e_0) cᵀ + d (Aᵀ e_{n-1})ᵀ + P Qᵀ

with no or one column in each of a, b, c and d: a Toeplitz matrix has a and b, a circulant one a where f = -1 and b where
g = -1. Sums share the columns e_0 and e_{n-1}; in a product A B the columns A e_0 and Bᵀ e_{n-1} of both sides meet; an
inverse swaps a with c and b with d. So p products of t Toeplitz matrices need 2 t p − 2 (p − 1) terms, and T1⁻¹ T2
needs 3: numbers that generic members attain. SURM: Sehanobish et al., "Structured Unrestricted-Rank Matrices for
Parameter Efficient Fine-tuning" (2024).
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import _array
from ._array import Array
from .basic import Dense, Identity, is_identity
from .displacement import LowDisplacementRank, _displacement, _half_generators, _padded, _unit
from .errors import DTypeError, UnsupportedError, speaks
from .inverses import Inverse
from .linalg import conversion
from .low_rank import LowRank
from .matrix import Product, Scaled, StructuredMatrix, Sum
from .toeplitz import Circulant, SkewCirculant, Toeplitz

__all__ = ["displacement_form", "terms_needed"]

SIGNS = (1, -1)


def terms_needed(A: StructuredMatrix) -> int:
    """The number of terms with which W(G, H) is proven to contain A, read off the classes in the expression A.

    1 for circulant and skew-circulant matrices and the identity, 2 for Toeplitz matrices and their inverses, 2 t for a
    product of t of them, 2 t p − 2 (p − 1) for a sum of p products of t Toeplitz matrices, 2 k for rank k, r1 + r2 + 1
    for the product of W(G, H) with r1 and r2 terms, r + 2 for an inverse or a transpose, and never more than the n
    that every n×n matrix has (Theorem A.2 of SURM, which says 2 t p of the sum, and 2 t where inverses or circulants
    make it less). Generic members need that many: displacement_rank attains it. Nothing is computed.
    A: square, or a sum of corners. Raises DTypeError, and UnsupportedError for other rectangular ones.

    >>> import numpy as np, sepmat as sm
    >>> T, C = sm.Toeplitz(np.arange(9.0)), sm.Circulant(np.arange(9.0))
    >>> [sm.terms_needed(A) for A in (C, T, sm.Inverse(T), T @ T, T @ C @ T, T @ T + T @ C, sm.Inverse(T) @ T)]
    [1, 2, 2, 4, 4, 5, 3]
    """
    if not isinstance(A, StructuredMatrix):
        got = f"a {type(A).__name__}"
        raise DTypeError("terms_needed", "A", got, "a structured matrix", "Use sm.displacement_rank(A) for numbers")
    return min(max(A.shape), sum(_count(_whole(A, "terms_needed"), 1, -1)))


@speaks
def displacement_form(A: StructuredMatrix) -> LowDisplacementRank:
    """A as W(G, H) with terms_needed(A) terms; what `convert(A, LowDisplacementRank)` does, and more: a transposed one too.

    A: sums and products, scaled, of circulant, skew-circulant, Toeplitz, low-rank and dense matrices, identities,
    `LowDisplacementRank` and `Inverse` of any of them; square, or a sum of corners. Cost: products and solves of the
    factors with 2 columns each. Where the terms come to more than n, A is formed, which is smaller than they are.
    Raises UnsupportedError for other classes, and what `solve` raises.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([4.0, 1.0, 0.5, 0.0, 2.0], [4.0, 2.0, 1.0, 3.0, 1.0])
    >>> sm.displacement_form(T @ T)
    LowDisplacementRank(r=4, shape=(5, 5), float64)
    """
    if not isinstance(A, StructuredMatrix):
        got = f"a {type(A).__name__}"
        raise DTypeError("displacement_form", "A", got, "a structured matrix", "Use sm.Dense(A)")
    corner, dtype = A.shape, A.dtype
    A = _whole(A, "convert").map(lambda x: _array.astype(x, dtype))
    xp, n = A.xp, A.shape[0]
    for B in leaves(A):
        if not _has_rule(B):
            raise _unsupported(B, "convert", "no rule for its displacement")
    with _array.quiet():
        if sum(_count(A, 1, -1)) > n:
            A = Dense._of(array=A.to_dense())
        X = _closed(A, _generators(A, 1, -1))
    like = xp.zeros((), dtype=dtype, device=A.device)
    first, last = (_unit(like, n, k)[:, None] for k in (0, n - 1))
    G = xp.concat((first[:, : X.a.shape[1]], X.b, X.P), axis=1)
    H = xp.concat((X.a, last[:, : X.b.shape[1]], X.Q), axis=1)
    return LowDisplacementRank._of(g=G, h=xp.flip(H, axis=0), corner=corner, transposed=False)


def _whole(A: StructuredMatrix, where: str) -> StructuredMatrix:
    """The N×N matrix, N = max(m, n), that A is the top-left corner of."""
    (m, n), N = A.shape, max(A.shape)
    match A:
        case _ if m == n and not isinstance(A, Sum):
            return A
        case Sum():
            return Sum._of(terms=tuple(_whole(B, where) for B in A.terms))
        case Scaled():
            return Scaled._of(scale=A.scale, matrix=_whole(A.matrix, where))
        case Circulant() | SkewCirculant():
            return A._of(c=A.c, corner=(N, N))
        case Toeplitz():
            return Toeplitz._of(c=_padded(A.c, N), tail=_padded(A.r, N)[min(1, N) :])
        case LowRank():
            return LowRank._of(U=_padded(A.U, N), V=_padded(A.V, N))
        case LowDisplacementRank():
            return LowDisplacementRank._of(g=A.g, h=A.h, corner=(N, N), transposed=A.transposed)
        case Dense():
            rows = A.xp.matrix_transpose(_padded(A.array, N))
            return Dense._of(array=A.xp.matrix_transpose(_padded(rows, N)))
        case _:
            raise _unsupported(A, where, "no corner of a square matrix of low displacement rank")


# how many ---------------------------------------------------------------------------------------------------------------


class _Count(NamedTuple):
    """The numbers of columns in a, b, c, d (0 or 1) and P."""

    a: int
    b: int
    c: int
    d: int
    k: int


@functools.singledispatch
def _count(A: StructuredMatrix, f: int, g: int) -> _Count:
    """The columns of the generators of ∇_{f,g}(A): a class without a rule has n, as every matrix."""
    return _Count(0, 0, 0, 0, A.shape[0])


@_count.register
def _(A: Toeplitz, f: int, g: int) -> _Count:
    return _Count(1, 1, 0, 0, 0)


@_count.register
def _(A: LowRank, f: int, g: int) -> _Count:
    return _Count(0, 0, 0, 0, 2 * A.rank)


@_count.register
def _(A: Identity, f: int, g: int) -> _Count:
    return _Count(int(f != g), 0, 0, 0, 0)


def _count_at_home(A: Any, f: int, g: int) -> _Count:
    home, k = _home(A)
    return _Count(int(f != home[0]), int(g != home[1]), 0, 0, k)


for _cls in (Circulant, SkewCirculant, LowDisplacementRank):
    _count.register(_cls, _count_at_home)


def _home(A: Any) -> tuple[tuple[int, int], int]:
    """The f and g where ∇(A) has no a and no b, and its rank there."""
    if isinstance(A, LowDisplacementRank):
        return ((-1, 1) if A.transposed else (1, -1)), A.terms
    return ((1, 1) if isinstance(A, Circulant) else (-1, -1)), 0


@_count.register
def _(A: Scaled, f: int, g: int) -> _Count:
    return _count(A.matrix, f, g)


@_count.register
def _(A: Inverse, f: int, g: int) -> _Count:
    a, b, c, d, k = _count(A.matrix, g, f)
    return _Count(c, d, a, b, k)


@_count.register
def _(A: Sum, f: int, g: int) -> _Count:
    counts = [_count(B, f, g) for B in A.terms if not is_identity(B)]
    a, b = (max((x[i] for x in counts), default=0) for i in (0, 1))
    alone = f != g and not a and not b and any(map(is_identity, A.terms))  # e_0 e_{n-1}ᵀ joins a or b
    return _Count(int(a or alone), b, 0, 0, sum(x.c + x.d + x.k for x in counts))


@_count.register
def _(A: Product, f: int, g: int) -> _Count:
    return _route(A, f, g)[0]


def _route(A: Product, f: int, g: int) -> tuple[_Count, tuple[int, ...]]:
    """The fewest columns that a choice of f = f_0, f_1, …, f_t = g, one between each two factors, is known to give."""
    first, *rest = A.factors
    best: dict[int, tuple[_Count, tuple[int, ...]]] = {s: (_count(first, f, s), (f, s)) for s in SIGNS}
    for B in rest:
        steps = {s: [(_of_product(x, _count(B, path[-1], s)), (*path, s)) for x, path in best.values()] for s in SIGNS}
        best = {s: min(found, key=lambda step: sum(step[0])) for s, found in steps.items()}
    return best[g]


def _of_product(x: _Count, y: _Count) -> _Count:
    return _Count(x.a, y.b, y.c, x.d, x.k + y.k + max(x.b, y.d) + max(x.c, y.a))


# which ------------------------------------------------------------------------------------------------------------------


class _Generators(NamedTuple):
    """The columns of ½ ∇_{f,g}(A), all (n, k): each rule below is the one above with numbers."""

    a: Array
    b: Array
    c: Array
    d: Array
    P: Array
    Q: Array


@functools.singledispatch
def _generators(A: StructuredMatrix, f: int, g: int) -> _Generators:
    raise _unsupported(A, "convert", "no rule for its displacement")


def has_displacement(A: StructuredMatrix) -> bool:
    """Whether the classes in a square expression have rules here, a dense matrix not among them."""
    known = (type(B) is not Dense and _has_rule(B) for B in leaves(A))
    return A.shape[0] == A.shape[1] and all(known) and all(B.shape[0] == B.shape[1] for B in leaves(A))


def _has_rule(A: StructuredMatrix) -> bool:
    return _generators.dispatch(type(A)) is not _generators.dispatch(object)


def leaves(A: StructuredMatrix) -> Iterator[StructuredMatrix]:
    """The matrices that an expression is made of."""
    match A:
        case Sum():
            parts = A.terms
        case Product():
            parts = A.factors
        case Scaled() | Inverse():
            parts = (A.matrix,)
        case _:
            yield A
            return
    for B in parts:
        yield from leaves(B)


def _unsupported(A: StructuredMatrix, where: str, why: str) -> UnsupportedError:
    expected = "square Toeplitz-like, low-rank and dense matrices, their sums, products and inverses"
    advice = (
        "Use nearest_displacement(A.to_dense(), rank), or convert(Dense(A.to_dense()), LowDisplacementRank): n terms"
    )
    return UnsupportedError(where, "A", f"{A._name()}: {why}", expected, advice)


def _columns(A: StructuredMatrix, **known: Array) -> _Generators:
    """Generators of which only some columns are there."""
    none = A.xp.zeros((A.shape[0], 0), dtype=A.dtype, device=A.device)
    return _Generators(*(known.get(name, none) for name in _Generators._fields))


def _end(A: StructuredMatrix, k: int) -> Array:
    """The unit vector e_0 (k = 0) or e_{n-1} (k = -1), as a column."""
    n = A.shape[0]
    return _unit(A.xp.zeros((), dtype=A.dtype, device=A.device), n, k % max(n, 1))[:, None]


def _first_column(A: StructuredMatrix) -> Array:
    return A._product(_end(A, 0), -2)


def _last_row(A: StructuredMatrix) -> Array:
    return A.T._product(_end(A, -1), -2)


@_generators.register
def _(A: Dense, f: int, g: int) -> _Generators:
    return _columns(A, P=0.5 * _displacement(A.array, f, g), Q=A.xp.eye(A.shape[0], dtype=A.dtype, device=A.device))


@_generators.register
def _(A: Toeplitz, f: int, g: int) -> _Generators:
    p, q = _half_generators(A, g, f)
    return _columns(A, a=A.xp.flip(p)[:, None], b=q[:, None])


@_generators.register
def _(A: LowRank, f: int, g: int) -> _Generators:
    """Z_f U Vᵀ − U (Z_gᵀ V)ᵀ"""
    U = 0.5 * A.U
    return _columns(A, P=_side_by_side(_down(U, f), -U), Q=_side_by_side(A.V, _up(A.V, g)))


def _down(X: Array, f: int) -> Array:
    """Z_f X"""
    k = X.shape[0] - min(1, X.shape[0])
    return _array.array_namespace(X).concat((f * X[k:, :], X[:k, :]), axis=0)


def _up(X: Array, f: int) -> Array:
    """Z_fᵀ X"""
    k = min(1, X.shape[0])
    return _array.array_namespace(X).concat((X[k:, :], f * X[:k, :]), axis=0)


@_generators.register
def _(A: Identity, f: int, g: int) -> _Generators:
    return _columns(A, a=0.5 * (f - g) * _end(A, -1)) if f != g else _columns(A)


def _away_from_home(A: Any, f: int, g: int) -> _Generators:
    """∇_{f,g}(A) = ∇_home(A) + (f − f_home) e_0 (Aᵀ e_{n-1})ᵀ − (g − g_home) A e_0 e_{n-1}ᵀ."""
    (f0, g0), _ = _home(A)
    known = {}
    if f != f0:
        known["a"] = 0.5 * (f - f0) * _last_row(A)
    if g != g0:
        known["b"] = 0.5 * (g0 - g) * _first_column(A)
    if isinstance(A, LowDisplacementRank):
        P, Q = A.g, A.xp.flip(A.h, axis=0)
        # ∇_{-1,1}(Wᵀ) = Z_{-1} ∇_{1,-1}(W)ᵀ Z_1
        known |= {"P": _down(Q, -1), "Q": _up(P, 1)} if A.transposed else {"P": P, "Q": Q}
    return _columns(A, **known)


for _cls in (Circulant, SkewCirculant, LowDisplacementRank):
    _generators.register(_cls, _away_from_home)


@_generators.register
def _(A: Scaled, f: int, g: int) -> _Generators:
    X = _generators(A.matrix, f, g)
    return X._replace(a=A.scale * X.a, b=A.scale * X.b, P=A.scale * X.P)


@_generators.register
def _(A: Inverse, f: int, g: int) -> _Generators:
    X = _generators(A.matrix, g, f)
    b, d, P = _split(-A._product(_side_by_side(X.d, X.b, X.P), -2), X.d, X.b)
    a, c, Q = _split(A.T._product(_side_by_side(X.c, X.a, X.Q), -2), X.c, X.a)
    return _Generators(-a, b, -c, d, P, Q)


@_generators.register
def _(A: Sum, f: int, g: int) -> _Generators:
    found = [_closed(B, _generators(B, f, g)) for B in A.terms if not is_identity(B)]
    none = _columns(A)
    a, b = (functools.reduce(_plus, (X[i] for X in found), none[i]) for i in (0, 1))
    for B in filter(is_identity, A.terms):
        one = _generators(B, f, g).a
        a, b = (a, _plus(b, A.xp.flip(one, axis=0))) if b.shape[1] and not a.shape[1] else (_plus(a, one), b)
    return _columns(
        A, a=a, b=b, P=_side_by_side(none.P, *(X.P for X in found)), Q=_side_by_side(none.Q, *(X.Q for X in found))
    )


@_generators.register
def _(A: Product, f: int, g: int) -> _Generators:
    path = _route(A, f, g)[1]
    B, X = A.factors[0], _generators(A.factors[0], path[0], path[1])
    for C, (s, t) in zip(A.factors[1:], itertools.pairwise(path[1:]), strict=True):
        X = _product(B, X, C, _generators(C, s, t))
        B = B @ C
    return X


def _product(A: StructuredMatrix, X: _Generators, B: StructuredMatrix, Y: _Generators) -> _Generators:
    """∇(A B) of ∇(A) and ∇(B)."""
    b, d, P = _split(A._product(_side_by_side(Y.b, Y.d, Y.P), -2), Y.b, Y.d)
    a, c, Q = _split(B.T._product(_side_by_side(X.a, X.c, X.Q), -2), X.a, X.c)
    last, first = _plus(X.b, d), _plus(c, Y.a)  # beside Bᵀ e_{n-1} and A e_0
    P = _side_by_side(X.P, P, last, *([_first_column(A)] if first.shape[1] else []))
    Q = _side_by_side(Q, Y.Q, *([_last_row(B)] if last.shape[1] else []), first)
    return _Generators(a, b, Y.c, X.d, P, Q)


def _closed(A: StructuredMatrix, X: _Generators) -> _Generators:
    """c and d moved into P and Q."""
    c, d = bool(X.c.shape[1]), bool(X.d.shape[1])
    P = _side_by_side(X.P, *([_first_column(A)] if c else []), X.d)
    Q = _side_by_side(X.Q, X.c, *([_last_row(A)] if d else []))
    return _columns(A, a=X.a, b=X.b, P=P, Q=Q)


def _side_by_side(*blocks: Array) -> Array:
    return _array.array_namespace(*blocks).concat(blocks, axis=1)


def _split(X: Array, first: Array, second: Array) -> Iterator[Array]:
    """The columns of X in three parts, the first two as wide as these."""
    i = first.shape[1]
    j = i + second.shape[1]
    yield from (X[:, :i], X[:, i:j], X[:, j:])


def _plus(x: Array, y: Array) -> Array:
    """x + y, where either may be no column at all, which is 0."""
    return x + y if x.shape[1] == y.shape[1] else x if x.shape[1] else y


# conversions ------------------------------------------------------------------------------------------------------------


@conversion
def _(A: Circulant | SkewCirculant | Toeplitz | LowRank | Dense | Sum | Product | Inverse) -> LowDisplacementRank:
    return displacement_form(A)
