"""Fit, the result of every approximation, and what the fits share: targets scaled to 1, true errors, tolerances."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from . import _array, _check
from ._array import Array
from .errors import BackendError, DTypeError, PrecisionWarning, warn
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["Fit"]

NEAR = 16  # powers of two that the largest entry of a target may be away from 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """What an approximation of M returns: the structured matrix Â and how good it is.

    relative_error: ‖M − Â‖_F / ‖M‖_F, measured by an explicit residual (0 for M = 0). num_parameters: the stored
    scalars of Â. condition_number: κ of the representation, None where the class has no terms. optimal: True only
    where Â is proven to be the best of its class. converged, iterations: of an iterative fit.

    >>> import numpy as np, sepmat as sm
    >>> fit = sm.nearest_toeplitz(np.array([[1.0, 2.0], [4.0, 3.0]]))
    >>> fit.matrix, fit.num_parameters, round(fit.relative_error, 3), fit.optimal
    (Toeplitz(shape=(2, 2), float64), 3, 0.258, True)
    """

    matrix: StructuredMatrix
    relative_error: float
    num_parameters: int
    condition_number: float | None = None
    optimal: bool = False
    converged: bool = True
    iterations: int = 0

    def __repr__(self) -> str:
        share = self.num_parameters / max(1, math.prod(self.matrix.shape))
        optimal = "optimal" if self.optimal else "not proven optimal" if self.converged else "not converged"
        kappa = self.condition_number or 1.0  # up to 1, nothing cancels
        cancels = f"  κ {kappa:.3g}" if float(f"{kappa:.3g}") > 1 else ""
        return (
            f"{self.matrix._name():<36} {self.num_parameters:>9,} parameters ({share:7.2%} of dense)  "
            f"relative error {self.relative_error:.3e}{cancels}  {optimal}"
        )


def constant(x: Array, where: str, name: str) -> Array:
    """x as data of a fit that passes no gradient: without one. torch.func and forward mode would take that for zeros in silence."""
    if _array.attached(x) and not _array.readable(x) and not _array.compiling():
        raise DTypeError(
            where,
            name,
            "a tensor that is being differentiated by torch.func or in forward mode",
            "data without a gradient: the steps of a fit pass none",
            "Detach its tensors, and differentiate what is done with the fit",
        )
    return _array.stop_gradient(x)


def as_target(M: Any, where: str) -> tuple[Array, int]:
    """(M / 2^k, k): a finite dense matrix in float32 or more, with its largest entry near 1, so that no square overflows.

    Where it is near enough k = 0, and nothing is copied.
    """
    if isinstance(M, StructuredMatrix):
        raise DTypeError(where, "M", M._name(), "a dense array", "Use M.to_dense() if it is to be formed")
    M = _check.check_full_precision(_check.as_array(M, where, "M", 2), where, "M")
    _check.check_finite(M, where, "M")
    k = _array.exponent(M)
    return (M, 0) if abs(k) <= NEAR else (_array.ldexp(M, -k), k)


def relative_error(M: Array, approximation: Array) -> float:
    """‖M − Â‖_F / ‖M‖_F of two dense arrays; 0 for M = 0, whose approximation is 0."""
    M = _array.stop_gradient(M)
    norm = _array.to_float(_array.frobenius(M))
    return _array.to_float(_array.frobenius(M - _array.stop_gradient(approximation))) / norm if norm else 0.0


def check_tolerance(tol: Any, M: Array, where: str) -> float:
    """A relative tolerance; PrecisionWarning where the precision of M cannot give it."""
    value = _check.as_tolerance(tol, where)
    u = _array.unit_roundoff(_array.array_namespace(M), M.dtype)
    if value < u:
        warn(
            PrecisionWarning,
            f"{where}: tol: {value:.1e} is below the unit roundoff {u:.1e} of {_array.dtype_name(M.dtype)}; "
            f"the error will stay near {u:.0e}",
        )
    return value


def check_attainable(tol: Any, A: Separated, where: str) -> float:
    """A relative tolerance; PrecisionWarning where A cannot be evaluated to it: tol < κ u (Beylkin & Mohlenkamp)."""
    value, attainable = _check.as_tolerance(tol, where), A.attainable_error()
    if value < attainable:
        warn(
            PrecisionWarning,
            f"{where}: tol: {value:.1e} < {attainable:.1e} = u κ, the unit roundoff of {_array.dtype_name(A.dtype)} times "
            f"the condition number {A.condition_number:.1e} of the terms; the error will stay near {attainable:.0e}",
        )
    return value


def condition_of(A: Separated) -> float:
    """κ of a fit: 1 where it differs from 1 by no more than stored orthonormal terms do, 8 u of their dtype."""
    kappa = A.condition_number
    return 1.0 if abs(kappa - 1) <= 8 * _array.unit_roundoff(A.xp, A.dtype) else kappa


def smallest_rank(tails: list[float], tol: float) -> int:
    """The smallest k >= 1 with tails[k] <= tol, where tails[k] is the relative error of k terms; else the largest."""
    return next((k for k in range(1, len(tails)) if tails[k] <= tol), max(1, len(tails) - 1))


def tail_norms(values: Array, rest: float = 0.0) -> list[float]:
    """[√(rest² + Σ_{i>=k} values_i²) for k = 0 … len(values)], summed from the small end, so without cancellation."""
    squares = [rest**2]
    for v in reversed(_array.to_numpy(values).tolist()):
        squares.append(squares[-1] + v * v)
    return [math.sqrt(s) for s in reversed(squares)]


def svd(M: Array) -> tuple[Array, Array, Array]:
    """(U, s, V) with M = U diag(s) Vᵀ, V not conjugated. An empty matrix has no singular values."""
    xp = _array.array_namespace(M)
    if 0 in M.shape:
        s = xp.zeros((0,), dtype=_array.real_dtype(xp, M.dtype), device=_array.device(M))
        U, V = (xp.zeros((k, 0), dtype=M.dtype, device=_array.device(M)) for k in M.shape)
        return U, s, V
    U, s, Vt = xp.linalg.svd(M, full_matrices=False)
    return U, s, xp.matrix_transpose(Vt)


def progress_bar(where: str, unit: str, items: Iterable[Any] | None = None) -> Any:
    """A bar on stderr over items, or to be updated by hand. Raises BackendError without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        advice = "Use pip install 'sepmat[files]'"
        raise BackendError(where, "progress", "tqdm is not installed", "tqdm", advice) from None
    return tqdm(items, desc=where, unit=unit)
