"""The minimisation of J = ‖Ĉ − C‖² + λ Σ_l s_l² over r rank-one terms, s_l = ‖term l‖.

The penalty is a function of the terms only, so J has a minimiser for every λ > 0, also where the best approximation
of r terms does not exist: there Σ s_l² <= ‖C‖² / λ, and κ grows like λ^(-1/6) (maths: docs/separated.md).
"""

import dataclasses
import math

from .. import _array
from .._array import Array, adjoint, conj, real
from .cores import Core, Factors, System, balanced, positive, scales, unpacked, vector_norm
from .gram import GramModel

START, DOWN, UP = 1e-2, 2.0, 4.0  # the damping of Levenberg and Marquardt, and what success and failure do to it
LEAST = 1e-18
ORTHOGONAL = 1e8  # multiplications up to which a step is orthogonal
BEND = 0.75  # the largest second-order correction, relative to the step


@dataclasses.dataclass(frozen=True)
class Point:
    """r terms, how well they do, and how they were found."""

    factors: Factors  # balanced
    residual: float  # ‖Ĉ − C‖
    size: float  # (Σ s_l²)^½
    penalty: float
    steps: int = 0
    settled: bool = False

    @property
    def objective(self) -> float:
        return self.residual**2 + self.penalty * self.size**2


def point(core: Core, factors: Factors, penalty: float, steps: int = 0, settled: bool = False) -> Point:
    """The factors with their objective."""
    factors = balanced(factors)
    return Point(factors, core.residual(factors), vector_norm(scales(factors)), penalty, steps, settled)


def alternate(core: Core, factors: Factors, penalty: float, sweeps: int, gain: float = 1e-7) -> Point:
    """Alternating least squares: sweeps until one lowers J by less than `gain` of it."""
    best = point(core, factors, penalty)
    for sweep in range(1, sweeps + 1):
        found = point(core, core.sweep(best.factors, penalty), penalty, sweep)
        if not found.objective < best.objective:  # round-off
            return dataclasses.replace(best, steps=sweep, settled=True)
        settled = best.objective - found.objective <= gain * best.objective
        best = dataclasses.replace(found, settled=settled)
        if settled:
            break
    return best


def choose(core: Core, factors: Factors, penalty: float) -> "QRModel | GramModel":
    """Orthogonal steps where they are affordable, else normal equations."""
    affordable = core.flops(factors[0].shape[1]) <= ORTHOGONAL
    return QRModel(core, factors, penalty) if affordable else GramModel(core, factors, penalty)


def descend(core: Core, start: Point, penalty: float, steps: int, gain: float = 1e-9) -> Point:
    """Levenberg–Marquardt with geodesic acceleration (Transtrum and Sethna 2012), settled when three steps gain nothing.

    Near a degenerate target the terms move along a narrow curved valley, in which a straight step is worth little:
    the step is bent by the second derivative along it, for the price of one more product with Qᴴ.
    """
    u = _array.unit_roundoff(_array.array_namespace(core.like), core.like.dtype)
    best, idle = point(core, start.factors, penalty), 0
    damping = max(START * math.sqrt(best.objective), LEAST)
    for step in range(1, steps + 1):
        model = choose(core, best.factors, penalty)
        noise = max(gain * best.objective, 4 * u * math.sqrt(best.objective))  # ‖Ĉ − C‖ is known to u
        found = None
        while found is None:
            move, bend, promise = model.step(damping)
            if not promise > (10 * u) ** 2 or (promise <= noise and bend > BEND):
                return dataclasses.replace(best, steps=step, settled=True)
            if bend <= BEND:
                found = point(core, [U + V for U, V in zip(best.factors, move, strict=True)], penalty)
                if not found.objective < best.objective:
                    found = None
                    if promise <= noise:
                        return dataclasses.replace(best, steps=step, settled=True)
            damping = damping * UP if found is None else max(damping / DOWN, LEAST)
        idle = idle + 1 if best.objective - found.objective <= noise else 0
        best = dataclasses.replace(found, steps=step, settled=idle == 3)
        if best.settled:
            break
    return best


def _penalised(system: System, factors: Factors, penalty: float) -> System:
    """The system with one row √λ s_l a term below."""
    xp, root = _array.array_namespace(system.residual), math.sqrt(penalty)
    r, s = factors[0].shape[1], scales(factors)
    like = factors[0]
    eye = xp.eye(r, dtype=like.dtype, device=_array.device(like))
    squares = [xp.real(U) ** 2 + xp.imag(U) ** 2 if _array.is_complex(U) else U**2 for U in factors]
    sizes = [positive(xp.sum(q, axis=0)) for q in squares]
    rows = [
        xp.reshape(eye[:, None, :] * adjoint(root * U * _array.astype(s / q, U.dtype)[None, :])[:, :, None], (r, -1))
        for U, q in zip(factors, sizes, strict=True)
    ]

    def curvature(step: Factors) -> Array:
        # s = Π q_k^½ with q_k = |u_k|²: s'' = s ((Σ a_k)² + Σ |v_k|²/q_k − 2 a_k²), a_k = Re(u_kᴴ v_k) / q_k
        first = second = 0.0 * s
        for U, V, q in zip(factors, step, sizes, strict=True):
            a = real(xp.sum(conj(U) * V, axis=0)) / q
            first, second = first + a, second + real(xp.sum(conj(V) * V, axis=0)) / q - 2 * a**2
        return xp.concat((system.curvature(step), _array.astype(root * s * (first**2 + second), like.dtype)))

    J = xp.concat((system.jacobian, xp.concat(rows, axis=1)))
    return System(J, xp.concat((system.residual, _array.astype(root * s, like.dtype))), curvature)


class QRModel:
    """The steps that a system proposes, for any damping, by orthogonal transformations."""

    def __init__(self, core: Core, factors: Factors, penalty: float) -> None:
        xp = _array.array_namespace(core.like)
        self.factors = factors
        self.system = system = _penalised(core.system(factors), factors, penalty)
        self.Q, self.R = xp.linalg.qr(system.jacobian)
        self.target = adjoint(self.Q) @ -system.residual[:, None]

    def step(self, damping: float) -> tuple[Factors, float, float]:
        """The bent step, how large the bend is, ‖a‖ / ‖v‖, and what the linear model says that J falls by."""
        xp, n = _array.array_namespace(self.R), self.R.shape[1]
        eye = xp.eye(n, dtype=self.R.dtype, device=_array.device(self.R))
        Q, R = xp.linalg.qr(xp.concat((self.R, eye * math.sqrt(damping))))
        Q = adjoint(Q[: self.R.shape[0], :])
        straight = _array.solve_triangular(R, Q @ self.target)
        second = self.system.curvature(unpacked(straight, self.factors))
        bend = _array.solve_triangular(R, Q @ (adjoint(self.Q) @ -second[:, None]))
        size, along = vector_norm(straight), self.R @ straight
        promise = _array.to_float(xp.sum(real(conj(along) * (2 * self.target - along))))
        return unpacked(straight + 0.5 * bend, self.factors), vector_norm(bend) / size if size else 0.0, promise
