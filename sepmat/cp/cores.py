"""What an iteration sees of its target C: the least squares of one mode, and the Gauss–Newton system of all modes.

A core is a dense d-way array (here) or a tensor train (train.py). Both answer in orthonormal coordinates, so that no
step squares a condition number; a residual is formed and then measured, never a difference of squares.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from .. import _array
from .._array import Array, adjoint, conj
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
    def norm(self) -> float: ...  # ‖C‖
    def order(self) -> list[int]: ...  # of the modes, as the iterations like them
    def arranged(self, order: Sequence[int], scale: float) -> "Core": ...  # the modes in another order, scaled
    def sweep(self, factors: Factors, penalty: float) -> Factors: ...  # alternating least squares on [KR; √λ I]
    def system(self, factors: Factors) -> System: ...
    def products(self, factors: Factors) -> Factors: ...  # C times the conjugate Khatri–Rao products, mode by mode
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

    def order(self) -> list[int]:
        return sorted(range(len(self.sizes)), key=lambda k: -self.sizes[k])

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
            Q, R = ridge(khatri_rao(before, after[k]), penalty)
            X = _array.solve_triangular(R, adjoint(Q[: C.shape[0], :]) @ C)
            factors[k] = xp.matrix_transpose(X)
            before = khatri_rao(before, unit(factors[k]))
            if k < len(factors) - 1:
                factors[k] = unit(factors[k])
        return factors

    def products(self, factors: Factors) -> Factors:
        xp, conjugate = _array.array_namespace(self.like), [conj(U) for U in factors]
        pairs = zip(self._unfolded, _prefixes(conjugate), _suffixes(conjugate), strict=False)
        return [xp.matrix_transpose(C) @ khatri_rao(before, after) for C, before, after in pairs]

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


# columns ------------------------------------------------------------------------------------------------------------------


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
    S, *rest = factors
    for U in rest:
        S = khatri_rao(thin(S), U)
    return vector_norm(_array.array_namespace(S).sum(S, axis=1))


def balanced(factors: Factors) -> Factors:
    """The same terms with equal norms in all modes."""
    root = scales(factors) ** (1 / len(factors))
    return [unit(U) * _array.astype(root, U.dtype) for U in factors]


def ridge(KR: Array, penalty: float) -> tuple[Array, Array]:
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


def unpacked(x: Array, factors: Factors) -> Factors:
    xp, parts, at = _array.array_namespace(x), [], 0
    for U in factors:
        n, r = U.shape
        parts.append(xp.reshape(x[at : at + n * r, 0], (n, r)))
        at += n * r
    return parts


def positive(x: Array) -> Array:
    xp = _array.array_namespace(x)
    return xp.where(x > 0, x, xp.ones_like(x))
