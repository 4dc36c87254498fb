"""R(A) of an operator A, of which only products with columns are known."""

import math
from typing import Any

from .. import _array, _check
from .._array import Array, adjoint, conj
from ..fit import svd
from ..kernels.terms import khatri_rao
from ..linalg import norm
from ..low_rank import LowRank
from ..matrix import StructuredMatrix
from ..rearranged import Pairs, Rearranged, Triplets, total
from .source import Source, two_dimensional

PROBES = 128  # random vectors that norms and errors are estimated from
SLAB = 2**23  # entries of a block of products
CONDITION = 1e3  # of Ψᵀ Q: of a Gaussian Ψ with four times the columns of Q it is below 10
MISSED = 1e-6  # an error that R Ω of full rank would not leave


class Operator:
    """What can be multiplied with columns only: its products, scaled and checked."""

    def __init__(self, A: Any, where: str, rng: Any) -> None:
        self.shape, self.where, self.rng = two_dimensional(A, where), where, rng
        if isinstance(A, StructuredMatrix):
            self.A: Any = A.map(_array.stop_gradient)
            like = A.xp.zeros((0,), dtype=A.dtype, device=A.device)
        else:
            draws = rng.standard_normal((0,))
            xp = _array.array_namespace(draws)
            like = _array.astype(draws, _array.as_dtype(xp, getattr(A, "dtype", None) or float) or draws.dtype)
            self.A = A
        self.like, self.exponent = _check.check_full_precision(like, where, "M"), 0
        images = self.times(_array.normal(rng, (self.shape[1], 8), self.like))
        self.like, self.exponent = images[:0, 0], _array.exponent(images)

    def times(self, X: Array) -> Array:
        """In the dtype of X, or complex where A turns out to be."""
        Y = self.A @ X if isinstance(self.A, StructuredMatrix) else self.A.matmat(X)
        Y = _check.check_finite(_check.as_array(Y, self.where, "M @ x", 2), self.where, "M @ x")
        if _array.is_complex(X) or not _array.is_complex(Y):
            Y = _array.astype(Y, X.dtype)
        return _array.ldexp(Y, -self.exponent)

    def source(self) -> Source:
        k = self.exponent
        return Source(self.shape, self.like, (k // 2, k - k // 2), lambda pairs: FromOperator(self, pairs))

    def formed(self) -> Array:
        if isinstance(self.A, StructuredMatrix):
            return self.A.to_dense()
        xp, n = _array.array_namespace(self.like), self.shape[1]
        size = _array.itemsize(self.like.dtype)
        _check.check_bytes(self.shape, size, _check.DENSE_LIMIT, self.where, "Use exact=False")
        return self.A.matmat(xp.eye(n, dtype=self.like.dtype))


class FromOperator(Rearranged):
    """R(A) of an operator, from (n1 + n2) c products with A instead of n1 n2, c = 4 or a little more.

    A (I ⊗ V) with V (n2, c) holds R(A) times the random matrices Σ_t g_t v_tᵀ of rank c, and A (B ⊗ I) the same of its
    rows. Both sides give R ≈ L = Q (Ψᵀ Q)⁺ Ψᵀ R with Q = orth(R Ω), the generalised Nyström method (Nakatsukasa 2020), near
    the optimum because four times as many combinations are taken as there are columns: they cost no further product. c grows
    to n1 or n2 where the terms live in so few rows or columns that c combinations of them do not show them.

    ‖R‖ and residuals: what L says is exact, and only ‖R − L‖ is estimated, from 128 products with random vectors. Products
    with R itself, which a refinement of three or more factors asks for, take n products with A.
    """

    def __init__(self, A: Operator, pairs: Pairs) -> None:
        self.A, self.pairs, self.like = A, pairs, A.like
        (m1, n1), (m2, n2) = pairs
        self.shape, xp = (m1 * n1, m2 * n2), _array.array_namespace(A.like)
        self.first, self.second = (xp.sign(_array.normal(A.rng, (n, PROBES), A.like)) for n in (n1, n2))
        images = A.times(khatri_rao(self.first, self.second))
        self.images = xp.reshape(xp.matrix_transpose(images), (PROBES, m1, m2))
        nothing = [xp.zeros((n, 1), dtype=A.like.dtype, device=_array.device(A.like)) for n in self.shape]
        self._explain(nothing[0], nothing[1], 0.0)

    def _explain(self, U: Array, V: Array, size: float) -> None:
        """From now on R is L = U Vᵀ, of the given norm, and a small rest."""
        images = self._images(U, V)
        self.L, self.rest = (U, V), self.images - images
        self.norm = self._with_rest(size, images)

    def _with_rest(self, known: float, images: Array) -> float:
        """‖X + (R − L)‖ from ‖X‖ and the images of the random vectors under X."""
        xp = _array.array_namespace(images)
        x, y = (xp.reshape(_array.double(z), (-1,)) for z in (images, self.rest))
        both = _array.to_float(xp.real(xp.vecdot(x, y)) if _array.is_complex(x) else xp.vecdot(x, y))
        return math.sqrt(max(0.0, known**2 + (2 * both + total(iter([y])) ** 2) / PROBES))

    def residual(self, U: Array, V: Array) -> float:
        """‖(L − U Vᵀ) + (R − L)‖: the square of the first exactly, the other parts from the random vectors."""
        xp, (P, W) = _array.array_namespace(U), self.L
        U, V = xp.concat((P, -_array.astype(U, P.dtype)), axis=1), xp.concat((W, _array.astype(V, W.dtype)), axis=1)
        known = _array.to_float(norm.rule(LowRank._of(U=U, V=V), "fro"))
        return self._with_rest(known, self._images(U, V))

    def _images(self, U: Array, V: Array) -> Array:
        """(U Vᵀ as a sum of Kronecker products) times the random vectors g ⊗ h: Σ_l U_l g ⊗ V_l h."""
        xp, parts = _array.array_namespace(U), []
        for X, g, (m, n) in zip((U, V), (self.first, self.second), self.pairs, strict=True):
            parts.append(xp.reshape(xp.permute_dims(xp.reshape(X, (m, n, -1)), (2, 0, 1)), (-1, n)) @ g)
        left, right = (xp.reshape(Y, (U.shape[1], m, PROBES)) for Y, (m, _) in zip(parts, self.pairs, strict=True))
        return xp.permute_dims(left, (2, 1, 0)) @ xp.permute_dims(right, (2, 0, 1))

    def triplets(self, block: int, rng: Any, exact: bool = False) -> tuple[Triplets, bool]:
        return (self.svd(), True) if exact else (self.leading(block, rng), block >= min(self.shape))

    def leading(self, block: int, rng: Any) -> Triplets:
        """From random factors of rank c on each side; c doubles as long as they are seen to miss a part of R.

        They do where the terms of A live in few rows or columns of a factor (an arrow of blocks), of which only c combinations are
        looked at: Ψᵀ Q is ill-conditioned, or R Ω has a smaller rank than asked for and L yet does not explain A.
        """
        (m1, n1), (m2, n2) = self.pairs
        p, q = self.shape
        b = min(4 * block, p, q)
        more = min(4 * b, p)
        left, right = max(4, math.ceil(2 * more / m1)), max(4, math.ceil(2 * b / m2))
        while True:
            (U, s, V), rank, condition = self._sketch(b, more, left, right, rng)
            self._explain(U * _array.astype(s, U.dtype), V, _array.to_float(_array.frobenius(s)))
            missed = rank < b and total(iter([self.rest])) > MISSED * self.norm * math.sqrt(PROBES)
            grown = (
                min(n1, 2 * left if condition > CONDITION or missed else left),
                min(n2, 2 * right if missed else right),
            )
            if grown == (min(n1, left), min(n2, right)):
                return U[:, :block], s[:block], V[:, :block]
            left, right = grown

    def _sketch(self, b: int, more: int, left: int, right: int, rng: Any) -> tuple[Triplets, int, float]:
        """L by left and right random vectors for each unit vector; the rank of R Ω, and the condition number of Ψᵀ Q."""
        (m1, n1), (m2, n2) = self.pairs
        xp, p = _array.array_namespace(self.like), self.shape[0]
        V = self._vectors(rng, n2, right)
        G = _array.normal(rng, (m2 * V.shape[1], b), self.like)
        Q, s, _ = svd(xp.reshape(self._first(V, G), (p, b)))
        # directions that are rounding alone are no random ones: those of a sparse A are unit vectors, which Ψ may not see
        floor = 4 * math.sqrt(p) * _array.unit_roundoff(xp, Q.dtype) * (_array.to_float(s[0]) if b else 0.0)
        rank = max(min(1, b), int(_array.to_float(xp.sum(_array.astype(s > floor, s.dtype)))))
        B = self._vectors(rng, n1, left)
        c = B.shape[1]
        H = _array.normal(rng, (m1 * c, more), self.like)
        rows = self._second(B, H)  # Ψᵀ R
        combined = xp.reshape(xp.permute_dims(xp.reshape(H, (m1, c, more)), (0, 2, 1)), (m1 * more, c))
        combined = combined @ xp.matrix_transpose(B)  # Ψ as (m1, more, n1)
        psi = xp.reshape(xp.permute_dims(xp.reshape(combined, (m1, more, n1)), (0, 2, 1)), (p, more))
        P, t, Z = svd(xp.matrix_transpose(psi) @ Q[:, :rank])
        largest, smallest = (_array.to_float(t[k]) for k in (0, -1)) if rank else (1.0, 1.0)
        t = xp.where(t > 0, t, xp.ones_like(t))
        W = conj(Z) @ ((adjoint(P) @ rows) / _array.astype(t, P.dtype)[:, None])
        W = xp.concat((W, xp.zeros((b - rank, W.shape[1]), dtype=W.dtype, device=_array.device(W))), axis=0)
        U, s, V = svd(W)
        return (Q @ U, s, V), rank, largest / smallest if smallest else math.inf

    def _vectors(self, rng: Any, n: int, count: int) -> Array:
        """Random columns, or all unit vectors where those are not more."""
        return _array.normal(rng, (n, count), self.like) if count < n else self._unit(n)

    def _unit(self, n: int) -> Array:
        return _array.array_namespace(self.like).eye(n, dtype=self.like.dtype, device=_array.device(self.like))

    def _first(self, V: Array, G: Array) -> Array:
        """(m1, n1, b): for every j the products with e_j ⊗ V, combined by G (m2 c, b)."""
        (m1, n1), (m2, n2) = self.pairs
        xp, c = _array.array_namespace(V), V.shape[1]
        eye, step, parts = self._unit(n1), self._step(c), []
        for j in range(0, n1, step):
            E = eye[:, j : min(j + step, n1)]
            X = xp.reshape(E[:, None, :, None] * V[None, :, None, :], (n1 * n2, E.shape[1] * c))
            Y = xp.permute_dims(xp.reshape(self.A.times(X), (m1, m2, E.shape[1], c)), (0, 2, 1, 3))
            parts.append(xp.reshape(Y, (m1, E.shape[1], m2 * c)) @ G)
        return xp.concat(parts, axis=1)

    def _second(self, B: Array, H: Array) -> Array:
        """(b, m2 n2): for every j the products with B ⊗ e_j, combined by H (m1 c, b)."""
        (m1, n1), (m2, n2) = self.pairs
        xp, c = _array.array_namespace(B), B.shape[1]
        eye, step, parts = self._unit(n2), self._step(c), []
        for j in range(0, n2, step):
            E = eye[:, j : min(j + step, n2)]
            X = xp.reshape(B[:, None, :, None] * E[None, :, None, :], (n1 * n2, c * E.shape[1]))
            Y = xp.permute_dims(xp.reshape(self.A.times(X), (m1, m2, c, E.shape[1])), (0, 2, 1, 3))
            Y = xp.matrix_transpose(H) @ xp.reshape(Y, (m1 * c, m2 * E.shape[1]))
            parts.append(xp.reshape(Y, (H.shape[1], m2, E.shape[1])))
        return xp.reshape(xp.concat(parts, axis=2), (H.shape[1], m2 * n2))

    def _step(self, columns: int) -> int:
        return max(1, SLAB // max(1, columns * max(self.A.shape)))

    def times(self, X: Array) -> Array:
        """By n products."""
        return _array.array_namespace(X).reshape(self._first(self._unit(self.pairs[1][1]), X), (-1, X.shape[1]))

    def adjoint_times(self, Y: Array) -> Array:
        """By n products."""
        return adjoint(self._second(self._unit(self.pairs[0][1]), conj(Y)))

    def svd(self) -> Triplets:
        size = _array.itemsize(self.like.dtype)
        _check.check_bytes(self.shape, size, _check.DENSE_LIMIT, self.A.where, "Use exact=False")
        return svd(self.times(self._unit(self.shape[1])))
