"""What an iteration sees of its target C: the least squares of one mode, and the Gauss–Newton system of all modes.

A core is a dense d-way array, or a sum of rank-one terms with any d. Both answer in orthonormal coordinates, so that
no step squares a condition number; a residual is formed and then measured, never a difference of squares.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from .. import _array
from .._array import Array
from ..kernels.terms import khatri_rao, thin
from ..tree import tree

Factors = list[Array]  # d matrices (n_k, r): the terms are the products of their columns


class System(NamedTuple):
    """The residual Ĉ − C at a point and its derivatives, all in the same orthonormal coordinates."""

    jacobian: Array  # (rows, Σ n_k r), the unknowns of mode k as (n_k, r) row by row
    residual: Array  # (rows,)
    curvature: Callable[[Factors], Array]  # v ↦ the second derivative of Ĉ along v, (rows,)


class Core(Protocol):
    """The target of a fit."""

    sizes: tuple[int, ...]
    like: Array

    @property
    def norm(self) -> float: ...
    def arranged(self, order: Sequence[int], scale: float) -> "Core": ...  # the modes in another order, scaled
    def sweep(self, factors: Factors, penalty: float) -> Factors: ...  # alternating least squares on [KR; √λ I]
    def system(self, factors: Factors) -> System: ...
    def residual(self, factors: Factors) -> float: ...  # ‖Ĉ − C‖
    def flops(self, terms: int) -> float: ...  # of one system and its factorization
    def contract(self, weights: Sequence[Array]) -> Array: ...  # C times a vector in every mode from the third on
    def orthonormal(self, terms: int) -> Factors: ...  # at most so many terms that are orthogonal to each other


# dense ------------------------------------------------------------------------------------------------------------------


class DenseCore:
    """A dense d-way array."""

    def __init__(self, C: Array) -> None:
        xp = _array.array_namespace(C)
        self.like, self.sizes = C, tuple(int(n) for n in C.shape)
        self._unfolded = [  # the other modes down, mode k across
            xp.reshape(xp.moveaxis(C, k, -1), (math.prod(self.sizes) // n, n)) for k, n in enumerate(self.sizes)
        ]

    @property
    def norm(self) -> float:
        return vector_norm(self.like)

    def arranged(self, order: Sequence[int], scale: float) -> "DenseCore":
        return DenseCore(_array.array_namespace(self.like).permute_dims(self.like, tuple(order)) * scale)

    def flops(self, terms: int) -> float:
        return 4.0 * math.prod(self.sizes) * (sum(self.sizes) * terms) ** 2

    def sweep(self, factors: Factors, penalty: float) -> Factors:
        xp = _array.array_namespace(self.like)
        factors = [unit(U) for U in factors]
        after = _suffixes(factors)
        before = after[-1]
        for k, C in enumerate(self._unfolded):
            Q, R = _ridge(khatri_rao(before, after[k]), penalty)
            X = _array.solve_triangular(R, adjoint(Q[: C.shape[0], :]) @ C)
            factors[k] = xp.matrix_transpose(X)
            before = khatri_rao(before, unit(factors[k]))
            if k < len(factors) - 1:
                factors[k] = unit(factors[k])
        return factors

    def _difference(self, factors: Factors) -> Array:
        xp = _array.array_namespace(self.like)
        *_, L = _prefixes(factors[:-1])
        return xp.reshape(L @ xp.matrix_transpose(factors[-1]), self.sizes) - self.like

    def residual(self, factors: Factors) -> float:
        return vector_norm(self._difference(factors))

    def system(self, factors: Factors) -> System:
        xp = _array.array_namespace(self.like)
        r, N = factors[0].shape[1], math.prod(self.sizes)
        blocks = []
        for U, L, R in zip(factors, _prefixes(factors), _suffixes(factors), strict=False):
            n = U.shape[0]
            both = L[:, None, None, None, :] * R[None, None, :, None, :]
            eye = xp.eye(n, dtype=U.dtype, device=_array.device(U))
            blocks.append(xp.reshape(both * eye[None, :, None, :, None], (N, n * r)))

        def curvature(step: Factors) -> Array:
            # products with none, one and two of the factors replaced by their step; the last mode closes the sum
            none, one, two = factors[0], step[0], xp.zeros_like(factors[0])
            for U, V in zip(factors[1:-1], step[1:-1], strict=True):
                two = khatri_rao(two, U) + khatri_rao(one, V)
                one = khatri_rao(one, U) + khatri_rao(none, V)
                none = khatri_rao(none, U)
            closed = two @ xp.matrix_transpose(factors[-1]) + one @ xp.matrix_transpose(step[-1])
            return 2 * xp.reshape(closed, (N,))

        return System(xp.concat(blocks, axis=1), xp.reshape(self._difference(factors), (N,)), curvature)

    def contract(self, weights: Sequence[Array]) -> Array:
        xp, T = _array.array_namespace(self.like), self.like
        for w in reversed(weights):
            T = T @ w
        return xp.reshape(T, self.sizes[:2])

    def orthonormal(self, terms: int) -> Factors:
        weights, factors = tree(self.like, rank=terms)
        return [factors[0] * _array.astype(weights, self.like.dtype), *factors[1:]]


# a sum of terms -----------------------------------------------------------------------------------------------------------


class TermsCore:
    """Σ_m f_1^m ∘ … ∘ f_d^m, given by its factors (n_k, R): nothing of the size of the array is formed.

    Every Khatri–Rao product is met through the triangular factors of a sweep over the modes (Minster, Viviano, Liu and
    Ballard 2023), which costs O(d n r² R) and is as accurate as the QR factorization of the whole product.
    """

    def __init__(self, factors: Sequence[Array]) -> None:
        self.factors = list(factors)
        self.like, self.sizes = factors[0], tuple(int(F.shape[0]) for F in factors)
        self.terms = int(factors[0].shape[1])

    @property
    def norm(self) -> float:
        return terms_norm(self.factors)

    def arranged(self, order: Sequence[int], scale: float) -> "TermsCore":
        first, *others = (self.factors[k] for k in order)
        return TermsCore([first * scale, *others])

    def flops(self, terms: int) -> float:
        total, columns = 0.0, terms + self.terms
        for n in self.sizes:
            rows, columns = columns * n, columns + n * terms
            total += 4.0 * rows * columns**2
        return total

    def sweep(self, factors: Factors, penalty: float) -> Factors:
        xp = _array.array_namespace(self.like)
        factors = [unit(U) for U in factors]
        d, r, R = len(factors), factors[0].shape[1], self.terms
        start = (xp.ones((1, r), dtype=self.like.dtype), xp.ones((1, R), dtype=self.like.dtype))
        start = tuple(_array.to_device(x, _array.device(self.like)) for x in start)
        after = [start]
        for U, F in zip(factors[:0:-1], self.factors[:0:-1], strict=True):
            after.append(_extended(after[-1], U, F))
        before = start
        for k, F in enumerate(self.factors):
            KR, G = (khatri_rao(x, y) for x, y in zip(before, after.pop(), strict=True))
            Q, T = _ridge(KR, penalty)
            X = _array.solve_triangular(T, adjoint(Q[: KR.shape[0], :]) @ G)
            factors[k] = F @ xp.matrix_transpose(X)
            if k < d - 1:
                factors[k] = unit(factors[k])
                before = _extended(before, factors[k], F)
        return factors

    def residual(self, factors: Factors) -> float:
        xp = _array.array_namespace(self.like)
        negative = [-self.factors[0], *self.factors[1:]]
        return terms_norm([xp.concat((U, F), axis=1) for U, F in zip(factors, negative, strict=True)])

    def system(self, factors: Factors) -> System:
        """By one sweep over all tangents: the products with one factor replaced by a unit vector.

        Columns of the state: the products of the modes so far, those of the target, and the tangents of those modes.
        """
        xp = _array.array_namespace(self.like)
        r, R = factors[0].shape[1], self.terms
        ones = xp.ones((1, 1), dtype=self.like.dtype, device=_array.device(self.like))
        ours, target = xp.repeat(ones, r, axis=1), xp.repeat(ones, R, axis=1)
        tangents: list[Array] = []
        bases: list[Array | None] = []
        for U, F in zip(factors, self.factors, strict=True):
            n = U.shape[0]
            eye = xp.eye(n, dtype=U.dtype, device=_array.device(U))
            new = xp.reshape(ours[:, None, None, :] * eye[None, :, :, None], (ours.shape[0] * n, n * r))
            tangents = [khatri_rao(T, xp.tile(U, (1, T.shape[1] // r))) for T in tangents] + [new]
            ours, target = khatri_rao(ours, U), khatri_rao(target, F)
            stacked, Q = xp.concat((ours, target, *tangents), axis=1), None
            if stacked.shape[0] > stacked.shape[1]:
                Q, stacked = xp.linalg.qr(stacked)
            bases.append(Q)
            ours, target = stacked[:, :r], stacked[:, r : r + R]
            widths, at = [T.shape[1] for T in tangents], r + R
            tangents = [stacked[:, at + sum(widths[:i]) : at + sum(widths[: i + 1])] for i in range(len(widths))]

        def curvature(step: Factors) -> Array:
            none = xp.repeat(ones, r, axis=1)
            one = two = 0 * none
            for U, V, Q in zip(factors, step, bases, strict=True):
                two = khatri_rao(two, U) + khatri_rao(one, V)
                one = khatri_rao(one, U) + khatri_rao(none, V)
                none = khatri_rao(none, U)
                if Q is not None:
                    none, one, two = (adjoint(Q) @ X for X in (none, one, two))
            return 2 * xp.sum(two, axis=1)

        residual = xp.sum(ours, axis=1) - xp.sum(target, axis=1)
        return System(xp.concat(tangents, axis=1), residual, curvature)

    def contract(self, weights: Sequence[Array]) -> Array:
        xp = _array.array_namespace(self.like)
        scale = xp.ones((self.terms,), dtype=self.like.dtype, device=_array.device(self.like))
        for w, F in zip(weights, self.factors[2:], strict=True):
            scale = scale * (w @ F)
        return (self.factors[0] * scale[None, :]) @ xp.matrix_transpose(self.factors[1])

    def orthonormal(self, terms: int) -> Factors:
        xp = _array.array_namespace(self.like)
        largest = int(xp.argmax(scales(self.factors)))
        return [F[:, largest : largest + 1] for F in self.factors]


def _extended(state: tuple[Array, Array], U: Array, F: Array) -> tuple[Array, Array]:
    """(R, G) of one mode more: R has the Gram matrix of the Khatri–Rao product, G is the target in its coordinates."""
    KR, G = khatri_rao(state[0], U), khatri_rao(state[1], F)
    if KR.shape[0] <= KR.shape[1]:
        return KR, G
    Q, R = _array.array_namespace(KR).linalg.qr(KR)
    return R, adjoint(Q) @ G


# columns ------------------------------------------------------------------------------------------------------------------


def adjoint(X: Array) -> Array:
    xp = _array.array_namespace(X)
    X = xp.matrix_transpose(X)
    return xp.conj(X) if _array.is_complex(X) else X


def vector_norm(x: Array) -> float:
    """‖x‖ of an array that is already scaled to 1."""
    xp = _array.array_namespace(x)
    return _array.to_float(xp.linalg.vector_norm(xp.reshape(x, (-1,))))


def column_norms(U: Array) -> Array:
    """The norms of the columns, real."""
    return _array.array_namespace(U).linalg.vector_norm(U, axis=0)


def unit(U: Array) -> Array:
    """The columns divided by their norms; a zero column stays."""
    xp, norms = _array.array_namespace(U), column_norms(U)
    return U / _array.astype(xp.where(norms > 0, norms, xp.ones_like(norms)), U.dtype)


def scales(factors: Factors) -> Array:
    """s_l: the norms of the terms."""
    total = column_norms(factors[0])
    for U in factors[1:]:
        total = total * column_norms(U)
    return total


def terms_norm(factors: Sequence[Array]) -> float:
    """‖Σ_l f_1^l ∘ … ∘ f_d^l‖ by the QR sweep."""
    S, *rest = (_span(U) for U in factors)
    for U in rest:
        S = khatri_rao(thin(S), U)
    return vector_norm(_array.array_namespace(S).sum(S, axis=1))


def _span(U: Array) -> Array:
    """Many columns in coordinates of the space they span, which is often small: their sweep is the shorter for it."""
    if U.shape[1] <= 4 * U.shape[0]:
        return U
    xp = _array.array_namespace(U)
    _, s, Vt = xp.linalg.svd(U, full_matrices=False)
    floor = 4 * _array.unit_roundoff(xp, U.dtype) * _array.to_float(s[0])
    r = max(1, int(xp.sum(xp.astype(s > floor, xp.int64))))
    return _array.astype(s[:r], U.dtype)[:, None] * Vt[:r, :]


def balanced(factors: Factors) -> Factors:
    """The same terms with equal norms in all modes."""
    root = scales(factors) ** (1 / len(factors))
    return [unit(U) * _array.astype(root, U.dtype) for U in factors]


def _ridge(KR: Array, penalty: float) -> tuple[Array, Array]:
    """QR of [KR; √λ I]."""
    xp, r = _array.array_namespace(KR), KR.shape[1]
    eye = xp.eye(r, dtype=KR.dtype, device=_array.device(KR))
    Q, R = xp.linalg.qr(xp.concat((KR, eye * math.sqrt(penalty))))
    return Q, R


def _prefixes(factors: Factors) -> list[Array]:
    """Khatri–Rao products of the first 0, 1, …, all factors."""
    xp = _array.array_namespace(factors[0])
    found = [xp.ones((1, factors[0].shape[1]), dtype=factors[0].dtype, device=_array.device(factors[0]))]
    for U in factors:
        found.append(khatri_rao(found[-1], U))
    return found


def _suffixes(factors: Factors) -> list[Array]:
    """Khatri–Rao products of the factors after mode 0, 1, …, d − 1."""
    found = _prefixes(factors)[:1]
    for U in factors[:0:-1]:
        found.insert(0, khatri_rao(U, found[0]))
    return found
