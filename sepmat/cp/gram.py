"""The Gauss–Newton system of a core in Gram form: for fits with too many unknowns for orthogonal steps.

JᴴJ of a sum of terms is known from the Gram matrices of its factors alone, so a step costs O((d n r)³ / 3) whatever the
target is. It resolves the curvature to u ‖J‖² and not to the square of that, which is what the border-rank targets of
small cores need; the gradient is right to u, and so is the error that a fit comes down to.
"""

import math

from .. import _array
from .._array import Array, adjoint, conj, real
from .cores import Core, Factors, positive, unpacked, vector_norm


class GramModel:
    """The steps of Levenberg–Marquardt, bent, from the normal equations. Same signature as `optimise.QRModel`."""

    least = 1e-14  # damping, relative to ‖J‖²: what round-off in JᴴJ leaves of it

    def __init__(self, core: Core, factors: Factors, penalty: float) -> None:
        xp, r = _array.array_namespace(core.like), factors[0].shape[1]
        self.factors, self.penalty = factors, penalty
        self.grams = [adjoint(U) @ U for U in factors]
        self.squares = [positive(real(xp.linalg.diagonal(G))) for G in self.grams]
        self.energy = _product(self.squares)  # s_l²
        self.normals = [U / _array.astype(q, U.dtype)[None, :] for U, q in zip(factors, self.squares, strict=True)]
        before, after = (
            _running(self.grams),
            _running(self.grams[::-1])[::-1],
        )  # products of the first k, of the last d − k
        without = [P * S for P, S in zip(before[:-1], after[1:], strict=True)]
        gradient = [
            U @ xp.matrix_transpose(G) - C + self._shrink(W)
            for U, G, C, W in zip(factors, without, core.products(factors), self.normals, strict=True)
        ]
        self.target = -_packed(gradient)
        d, same = len(factors), xp.eye(r, dtype=self.grams[0].dtype, device=_array.device(self.grams[0]))
        flipped = [(adjoint(V), adjoint(X)) for V, X in zip(factors, self.normals, strict=True)]
        rows = [[self.grams[0]] * d for _ in range(d)]
        for k, (U, W) in enumerate(zip(factors, self.normals, strict=True)):
            n, between, shrunk = U.shape[0], before[k], self._shrink(W)
            for j in range(k, d):
                V, X = flipped[j]
                ridge = shrunk[:, :, None] * X[None, :, :]  # (n, l, n'), of one term
                block = ridge[:, :, :, None] * same[None, :, None, :]
                if j == k:
                    eye = xp.eye(n, dtype=U.dtype, device=_array.device(U))
                    block = block + eye[:, None, :, None] * without[k][None, :, None, :]
                else:
                    both = between * after[j + 1]
                    block = block + U[:, None, None, :] * V[None, :, :, None] * both[None, :, None, :]
                    between = between * self.grams[j]
                rows[k][j] = xp.reshape(block, (n * r, V.shape[1] * r))
                rows[j][k] = adjoint(rows[k][j])
        self.hessian = xp.concat([xp.concat(row, axis=1) for row in rows])
        self.floor = self.least * max(1.0, _array.to_float(xp.max(real(xp.linalg.diagonal(self.hessian)))))

    def _shrink(self, W: Array) -> Array:
        """λ s_l² times the columns."""
        return W * _array.astype(self.penalty * self.energy, W.dtype)[None, :]

    def step(self, damping: float) -> tuple[Factors, float, float]:
        """The bent step, how large the bend is, ‖a‖ / ‖v‖, and what the linear model says that J falls by."""
        xp, n = _array.array_namespace(self.hessian), self.hessian.shape[0]
        eye = xp.eye(n, dtype=self.hessian.dtype, device=_array.device(self.hessian))
        inverse = xp.linalg.inv(self.hessian + max(damping, self.floor) * eye)
        straight = inverse @ self.target
        along = self.hessian @ straight
        promise = _array.to_float(xp.sum(real(conj(straight) * (2 * self.target - along))))
        bend = inverse @ -self._curvature(unpacked(straight, self.factors))
        size = vector_norm(straight)
        return unpacked(straight + 0.5 * bend, self.factors), vector_norm(bend) / size if size else 0.0, promise

    def _curvature(self, step: Factors) -> Array:
        """Jᴴ times the second derivative of Ĉ along a step: a quadratic polynomial in the step, mode by mode."""
        xp = _array.array_namespace(self.hessian)
        crossed = [adjoint(U) @ V for U, V in zip(self.factors, step, strict=True)]
        first = second = 0.0 * self.energy
        for H, V, q in zip(crossed, step, self.squares, strict=True):
            a = real(xp.linalg.diagonal(H)) / q
            first, second = first + a, second + real(xp.sum(conj(V) * V, axis=0)) / q - 2 * a**2
        found = []
        for k, (U, V) in enumerate(zip(self.factors, step, strict=True)):
            none = one = two = None
            for m, (G, H) in enumerate(zip(self.grams, crossed, strict=True)):
                if m == k:
                    continue
                if none is None:
                    none, one, two = G, H, 0 * G
                else:
                    two, one, none = two * G + one * H, one * G + none * H, none * G
            data = 2 * (U @ xp.matrix_transpose(two) + V @ xp.matrix_transpose(one))
            weight = _array.astype(first**2 + second, U.dtype)
            found.append(data + self._shrink(self.normals[k]) * weight[None, :])
        return _packed(found)


def _running(arrays: list[Array]) -> list[Array]:
    """The products of the first 0, 1, …, all arrays."""
    found = [_array.array_namespace(arrays[0]).ones_like(arrays[0])]
    for X in arrays:
        found.append(found[-1] * X)
    return found


def _product(arrays: list[Array]) -> Array:
    total, *rest = arrays
    for X in rest:
        total = total * X
    return total


def _packed(parts: Factors) -> Array:
    xp = _array.array_namespace(parts[0])
    return xp.concat([xp.reshape(X, (math.prod(X.shape), 1)) for X in parts])
