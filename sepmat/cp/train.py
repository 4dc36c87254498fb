"""A sum of terms as a tensor train, whose size does not depend on how many terms there are.

C[i_1, …, i_d] = T_1[i_1] T_2[i_2] … T_d[i_d] with carriages T_k of shape (ρ_{k-1}, n_k, ρ_k), ρ_0 = ρ_d = 1 (Oseledets 2011).
ρ_k is the rank of the array split between mode k and k + 1, at most the number of terms and often far below. All
steps are orthogonal, so what is cut is known, and norms and errors are right to round-off.
"""

import math
from collections.abc import Sequence

from .. import _array
from .._array import Array, adjoint, conj
from ..fit import svd, tail_norms
from ..kernels.terms import khatri_rao
from .cores import Factors, System, ridge, unit, vector_norm

Train = list[Array]


def from_terms(factors: Sequence[Array]) -> Train:
    """The train of Σ_l f_1^l ∘ … ∘ f_d^l, factors (n_k, R): directions below round-off are left out on the way.

    Left-orthogonal: ‖C‖ is the norm of the last carriage. Cost O(d n ρ R min(ρ n, R)).
    """
    xp = _array.array_namespace(factors[0])
    state = xp.ones((1, factors[0].shape[1]), dtype=factors[0].dtype, device=_array.device(factors[0]))
    train = []
    for U in factors[:-1]:
        basis, coordinates = _span(U)  # columns of many terms often span little
        left, rest = _span(khatri_rao(state, coordinates))
        T = xp.permute_dims(xp.reshape(left, (state.shape[0], coordinates.shape[0], left.shape[1])), (0, 2, 1))
        train.append(xp.permute_dims(T @ xp.matrix_transpose(basis), (0, 2, 1)))
        state = rest
    last = state @ xp.matrix_transpose(factors[-1])
    return [*train, xp.reshape(last, (*last.shape, 1))]


def _span(X: Array) -> tuple[Array, Array]:
    """X = Q Y, Q with orthonormal columns and no more rows in Y than the rank of X to round-off."""
    xp = _array.array_namespace(X)
    Q = None
    if X.shape[0] > X.shape[1]:
        Q, X = xp.linalg.qr(X)
    left, s, right = svd(X)
    keep = max(1, int(xp.sum(xp.astype(s > 8 * _array.unit_roundoff(xp, X.dtype) * s[0], xp.int64))))
    left = left[:, :keep] if Q is None else Q @ left[:, :keep]
    return left, _array.astype(s[:keep], X.dtype)[:, None] * xp.matrix_transpose(right[:, :keep])


def norm(train: Train) -> float:
    """‖C‖ of a left-orthogonal train."""
    return vector_norm(train[-1])


def rounded(train: Train, error: float) -> Train:
    """A left-orthogonal train with the smallest ranks that keep ‖C − Ĉ‖ <= error; its centre is the first carriage."""
    xp = _array.array_namespace(train[0])
    *rest, centre = train
    done: Train = []
    for T in reversed(rest):
        rank, n, after = centre.shape
        left, s, right = svd(xp.reshape(centre, (rank, n * after)))
        tails = tail_norms(s)
        keep = next(k for k in range(len(tails)) if tails[k] <= error / math.sqrt(len(rest)) or k == len(tails) - 1)
        keep = max(1, keep)
        done.insert(0, xp.reshape(xp.matrix_transpose(right[:, :keep]), (keep, n, after)))
        centre = T @ (left[:, :keep] * _array.astype(s[:keep], left.dtype)[None, :])
    return [centre, *done]


def mode_vectors(train: Train, error: float | None) -> tuple[list[Array], list[list[float]], Train]:
    """(bases, spectra, core) of a train whose centre is its first carriage: the singular vectors of every unfolding.

    spectra[k] are the tails: the norm of what is lost with the first 0, 1, 2, … of them. error: what may be lost in each mode;
    the core is the train in the bases that are left (None: in all of them).
    """
    xp = _array.array_namespace(train[0])
    bases: list[Array] = []
    spectra: list[list[float]] = []
    core: Train = []
    centre, *later = train
    while True:
        before, n, after = centre.shape
        unfolded = xp.reshape(xp.permute_dims(centre, (1, 0, 2)), (n, before * after))
        left, s, right = svd(unfolded)
        tails = tail_norms(s)
        spectra.append(tails)
        limit = 2.0**-51 * tails[0] if error is None else error
        keep = max(1, next(k for k in range(len(tails)) if tails[k] <= limit or k == len(tails) - 1))
        bases.append(left[:, :keep])
        part = _array.astype(s[:keep], left.dtype)[:, None] * xp.matrix_transpose(right[:, :keep])
        part = xp.permute_dims(xp.reshape(part, (keep, before, after)), (1, 0, 2))
        if not later:
            return bases, spectra, [*core, part]
        Q, R = xp.linalg.qr(xp.reshape(part, (before * keep, after)))
        core.append(xp.reshape(Q, (before, keep, Q.shape[1])))
        n, after = later[0].shape[1:]
        centre = xp.reshape(R @ xp.reshape(later[0], (R.shape[1], n * after)), (R.shape[0], n, after))
        later = later[1:]


def dense(train: Train) -> Array:
    """The array itself."""
    xp = _array.array_namespace(train[0])
    total = xp.reshape(train[0], train[0].shape[1:])
    for T in train[1:]:
        rank, n, after = T.shape
        total = xp.reshape(total @ xp.reshape(T, (rank, n * after)), (total.shape[0] * n, after))
    return xp.reshape(total, tuple(T.shape[1] for T in train))


def difference(train: Train, factors: Sequence[Array]) -> float:
    """‖C − Σ_l u_1^l ∘ … ∘ u_d^l‖ by a QR sweep over both at once."""
    xp = _array.array_namespace(train[0])
    state = xp.ones((1, factors[0].shape[1]), dtype=factors[0].dtype, device=_array.device(factors[0]))
    target = state[:, :1]
    for U, T in zip(factors, train, strict=True):
        ours, target = khatri_rao(state, U), through(target, T)
        both = xp.concat((ours, target), axis=1)
        if both.shape[0] > both.shape[1]:
            both = xp.linalg.qr(both)[1]
        state, target = both[:, : U.shape[1]], both[:, U.shape[1] :]
    return vector_norm(xp.sum(state, axis=1) - target[:, 0])


def through(state: Array, T: Array) -> Array:
    """Columns of the products up to one mode more: (p, ρ) and (ρ, n, ρ') give (p n, ρ')."""
    xp = _array.array_namespace(T)
    rank, n, after = T.shape
    return xp.reshape(state @ xp.reshape(T, (rank, n * after)), (state.shape[0] * n, after))


class TrainCore:
    """A target given as a left-orthogonal train: nothing of the size of the array is formed.

    Every Khatri–Rao product is met through the triangular factors of a sweep over the modes (Minster, Viviano, Liu and
    Ballard 2023), which costs O(d n r² (r + ρ)) and is as accurate as the QR factorization of the whole product.
    """

    def __init__(self, train: Train) -> None:
        self.train, self.like = train, train[0]
        self.sizes = tuple(int(T.shape[1]) for T in train)

    @property
    def norm(self) -> float:
        return norm(self.train)

    def order(self) -> list[int]:
        return list(range(len(self.sizes)))

    def arranged(self, order: Sequence[int], scale: float) -> "TrainCore":
        return TrainCore([*self.train[:-1], self.train[-1] * scale])

    def flops(self, terms: int) -> float:
        total, columns = 0.0, terms
        for T in self.train:
            rows, columns = (columns + T.shape[0]) * T.shape[1], columns + T.shape[1] * terms
            total += 4.0 * rows * (columns + T.shape[2]) ** 2
        return total

    def sweep(self, factors: Factors, penalty: float) -> Factors:
        xp = _array.array_namespace(self.like)
        factors = [unit(U) for U in factors]
        start = (self._ones(factors[0].shape[1]), self._ones(1))
        after = [start]
        for U, T in zip(factors[:0:-1], self.train[:0:-1], strict=True):
            after.append(_extended(after[-1], U, xp.permute_dims(T, (2, 1, 0))))
        before = start
        for k, T in enumerate(self.train):
            (R, G), (S, H) = before, after.pop()
            KR = khatri_rao(R, S)
            Q, triangle = ridge(KR, penalty)
            # the target between the two coordinate systems: (p, n, q), mode k last for the least squares
            middle = xp.reshape(G @ xp.reshape(T, (T.shape[0], -1)), (G.shape[0], T.shape[1], T.shape[2]))
            middle = xp.permute_dims(middle @ xp.matrix_transpose(H), (0, 2, 1))
            right = adjoint(Q[: KR.shape[0], :]) @ xp.reshape(middle, (KR.shape[0], T.shape[1]))
            factors[k] = xp.matrix_transpose(_array.solve_triangular(triangle, right))
            if k < len(factors) - 1:
                factors[k] = unit(factors[k])
                before = _extended(before, factors[k], T)
        return factors

    def products(self, factors: Factors) -> Factors:
        xp = _array.array_namespace(self.like)
        after = [self._ones(factors[0].shape[1])]
        for U, T in zip(factors[:0:-1], self.train[:0:-1], strict=True):
            after.append(xp.sum((T @ after[-1]) * conj(U)[None, :, :], axis=1))
        before, found = xp.permute_dims(after[0], (1, 0)), []
        for U, T in zip(factors, self.train, strict=True):
            met = xp.reshape(before @ xp.reshape(T, (T.shape[0], -1)), (U.shape[1], *T.shape[1:]))  # (r, n, ρ')
            right = xp.permute_dims(after.pop(), (1, 0))[:, :, None]  # (r, ρ', 1)
            found.append(xp.matrix_transpose((met @ right)[:, :, 0]))
            before = (conj(xp.matrix_transpose(U))[:, None, :] @ met)[:, 0, :]
        return found

    def residual(self, factors: Factors) -> float:
        return difference(self.train, factors)

    def system(self, factors: Factors) -> System:
        """By one sweep over all tangents: the products with one factor replaced by a unit vector.

        Columns of the state: the products of the modes so far, the train so far, and the tangents of those modes.
        """
        xp = _array.array_namespace(self.like)
        r = factors[0].shape[1]
        ours, target, tangents = self._ones(r), self._ones(1), self._ones(0)
        bases: list[Array | None] = []
        for U, T in zip(factors, self.train, strict=True):
            n, rows = U.shape[0], ours.shape[0]
            eye = xp.eye(n, dtype=U.dtype, device=_array.device(U))
            new = xp.reshape(ours[:, None, None, :] * eye[None, :, :, None], (rows * n, n * r))
            tangents = xp.concat((khatri_rao(tangents, xp.tile(U, (1, tangents.shape[1] // r))), new), axis=1)
            ours, target = khatri_rao(ours, U), through(target, T)
            stacked, Q = xp.concat((ours, target, tangents), axis=1), None
            if stacked.shape[0] > stacked.shape[1]:
                Q, stacked = xp.linalg.qr(stacked)
            bases.append(Q)
            at = r + target.shape[1]
            ours, target, tangents = stacked[:, :r], stacked[:, r:at], stacked[:, at:]

        def curvature(step: Factors) -> Array:
            none = self._ones(r)
            one = two = 0 * none
            for U, V, Q in zip(factors, step, bases, strict=True):
                two = khatri_rao(two, U) + khatri_rao(one, V)
                one = khatri_rao(one, U) + khatri_rao(none, V)
                none = khatri_rao(none, U)
                if Q is not None:
                    none, one, two = (adjoint(Q) @ X for X in (none, one, two))
            return 2 * xp.sum(two, axis=1)

        return System(tangents, xp.sum(ours, axis=1) - target[:, 0], curvature)

    def contract(self, weights: Sequence[Array]) -> Array:
        xp = _array.array_namespace(self.like)
        state = self._ones(1)
        for w, T in zip(reversed(weights), reversed(self.train[2:]), strict=True):
            state = (T @ state)[:, :, 0] @ w[:, None]
        first, second = self.train[:2]
        return xp.reshape(first, first.shape[1:]) @ (second @ state)[:, :, 0]

    def orthonormal(self, terms: int) -> Factors:
        return [T[0, :, :] for T in rounded(self.train, math.inf)]

    def _ones(self, columns: int) -> Array:
        xp = _array.array_namespace(self.like)
        return xp.ones((1, columns), dtype=self.like.dtype, device=_array.device(self.like))


def _extended(state: tuple[Array, Array], U: Array, T: Array) -> tuple[Array, Array]:
    """(R, G) of one mode more: R has the Gram matrix of the Khatri–Rao product, G is the train in its coordinates."""
    KR, G = khatri_rao(state[0], U), through(state[1], T)
    if KR.shape[0] <= KR.shape[1]:
        return KR, G
    Q, R = _array.array_namespace(KR).linalg.qr(KR)
    return R, adjoint(Q) @ G
