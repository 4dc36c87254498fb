"""The iterative solvers of SciPy and CuPy for structured matrices, with structured preconditioners.

No solver here is ours. What is added: matrix and preconditioner are applied by their structure with no checks in between,
the true residual has the last word (a solver that believes to be done when it is not is started again from where it
is), and what did not converge is said by a warning.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from . import _array, _check
from ._array import Array
from .errors import ArgumentError, BackendError, ConvergenceWarning, DTypeError, ShapeError, warn
from .fourier_basis import Coordinates, fourier_coordinates
from .matrix import StructuredMatrix
from .restarts import Column, Solution, norm

__all__ = ["Solution", "aslinearoperator", "cg", "gmres", "lsmr", "minres"]

INDEFINITE = ("indefinite preconditioner", "non-symmetric matrix")  # what SciPy's MINRES says


def aslinearoperator(A: StructuredMatrix) -> Any:
    """A as a LinearOperator of SciPy (of cupyx for CuPy), with products with vectors and matrices, A and Aᴴ.

    For everything of scipy.sparse.linalg that sepmat has no function for: eigsh, svds, expm_multiply. Raises
    BackendError for other libraries.

    >>> import numpy as np, sepmat as sm
    >>> op = sm.interop.aslinearoperator(sm.Circulant([2.0, 1.0, 0.0]))
    >>> op.shape, op @ np.ones(3), op.H @ np.ones((3, 1))
    ((3, 3), array([3., 3., 3.]), array([[3.],
           [3.],
           [3.]]))
    """
    module = _solvers(_structured(A, "aslinearoperator"), "aslinearoperator")
    H = A.H  # made once, so that what it remembers serves every product
    return module.LinearOperator(
        A.shape, matvec=A.matvec, rmatvec=H.matvec, matmat=A.matmat, rmatmat=H.matmat, dtype=A.dtype
    )


def cg(
    A: StructuredMatrix,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[Array], Any] | None = None,
    history: bool = False,
) -> Solution:
    """A x = b for a Hermitian positive definite A, by the conjugate gradients of SciPy (CuPy): ‖b − A x‖ <= max(rtol ‖b‖, atol).

    b: (n,) or (n, k), one column after the other; x0 likewise. M ≈ A⁻¹, Hermitian positive definite: a structured matrix
    (`sm.inverse(sm.strang(A))`), a LinearOperator, or a function of a residual (n,). maxiter: 10 n by default. callback(x)
    after every iteration. history: record the true residuals, one more product an iteration.

    Each iteration costs a product with A and one with M. For a Toeplitz A and a circulant M of size n >= 2048 the solver works in the
    orthonormal Fourier basis F, on F A Fᴴ and F M Fᴴ: the same iterates, residuals and tolerance up to rounding, with four transforms
    of length n in place of two of length n and two of 2n. x, x0 and what callback is told are as always.

    Warns with ConvergenceWarning where the tolerance is not met; Solution carries the true residual. Raises ShapeError,
    NonFiniteError, DTypeError, ArgumentError, and BackendError for torch and others.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz(1 / (1 + np.arange(512.0)) ** 1.1)
    >>> sm.interop.cg(T, np.ones(512), rtol=1e-10, M=sm.inverse(sm.strang(T))).iterations < 12
    True
    """
    return _solve("cg", A, b, x0, rtol, atol, maxiter, M, callback, history)


def minres(
    A: StructuredMatrix,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[Array], Any] | None = None,
    history: bool = False,
) -> Solution:
    """A x = b for a real symmetric A, indefinite or not, by SciPy's (CuPy's) MINRES; everything else as for `cg`.

    M has to be positive definite, maxiter is 5 n by default. SciPy stops by its estimate of ‖r‖ / (‖A‖ ‖x‖): it is started again
    until ‖b − A x‖ <= max(rtol ‖b‖, atol). Raises DTypeError for complex data, which SciPy's MINRES is not made for.

    >>> import numpy as np, sepmat as sm
    >>> sm.interop.minres(sm.Diagonal([2.0, -1.0, 4.0]), np.ones(3), rtol=1e-12).x.round(10)
    array([ 0.5 , -1.  ,  0.25])
    """
    return _solve("minres", A, b, x0, rtol, atol, maxiter, M, callback, history)


def gmres(
    A: StructuredMatrix,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    restart: int | None = None,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[float], Any] | None = None,
    history: bool = False,
) -> Solution:
    """A x = b for any square A, by the restarted GMRES of SciPy (CuPy), preconditioned from the left; the rest as for `cg`.

    restart: iterations between restarts, 20 by default; maxiter: the number of these cycles. callback(norm) with the
    preconditioned residual norm after every inner iteration; history records the same norms. Solution.iterations
    counts inner iterations.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([4.0, 1.0, 0.0, 0.0], [4.0, 2.0, 0.0, 0.0])
    >>> sm.interop.gmres(T, np.ones(4), rtol=1e-12)
    Solution(converged, 4 iterations, relative residual ...)
    """
    return _solve("gmres", A, b, x0, rtol, atol, maxiter, M, callback, history, restart=restart)


def lsmr(
    A: StructuredMatrix,
    b: Any,
    damp: float = 0.0,
    *,
    atol: float = 1e-6,
    btol: float = 1e-6,
    conlim: float = 1e8,
    maxiter: int | None = None,
    x0: Any = None,
) -> Solution:
    """min ‖b − A x‖² + damp² ‖x‖² for any A, by SciPy's (CuPy's) LSMR: MINRES for the normal equations, never formed.

    Arguments as SciPy names them. Solution.converged is LSMR's verdict (atol, btol); relative_residual is ‖b − A x‖ / ‖b‖,
    which need not be small. For preconditioned least squares use `cg` with A.H @ A + damp² Identity.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.Toeplitz([1.0, 2.0, 3.0], [1.0, 0.0])
    >>> sm.interop.lsmr(A, A @ np.array([1.0, -1.0]), atol=1e-12, btol=1e-12).x.round(10)
    array([ 1., -1.])
    """
    where = "lsmr"
    _structured(A, where)
    b, columns, dtype = _right_hand_sides(A, b, where)
    starts = _starts(x0, A, b, where)
    limits = {"damp": damp, "atol": atol, "btol": btol, "conlim": conlim}
    _check.as_real(damp, where, "damp")
    limits = {name: _check.as_positive(value, where, name, zero=True) for name, value in limits.items()}
    if maxiter is not None:
        maxiter = _check.as_integer(maxiter, where, "maxiter")
    operator, solver = aslinearoperator(A._in_precision(dtype)), _solvers(A, where).lsmr

    def solve_one(c: Array, start: Array | None) -> Solution:
        size = norm(c)
        if not size:
            return Solution(A.xp.zeros((A.shape[1],), dtype=dtype, device=A.device), True, 0, 0.0)
        found = solver(operator, c, **limits, maxiter=maxiter, x0=start)
        x, stop, steps = found[:3]
        x = _array.astype(x, dtype)
        return Solution(x, int(stop) not in (3, 6, 7), int(steps), norm(c - operator.matvec(x)) / size)

    with _array.quiet():
        result = _gathered([solve_one(c, s) for c, s in zip(columns, starts, strict=True)], b, A, dtype)
    return _warned(result, where, "its own test")


# one solver for all ---------------------------------------------------------------------------------------------------------


def _solve(
    where: str,
    A: StructuredMatrix,
    b: Any,
    x0: Any,
    rtol: float,
    atol: float,
    maxiter: int | None,
    M: Any,
    callback: Callable[[Any], Any] | None,
    history: bool,
    **more: Any,
) -> Solution:
    _check.check_square(_structured(A, where).shape, where)
    b, columns, dtype = _right_hand_sides(A, b, where)
    if where == "minres" and A.xp.isdtype(dtype, "complex floating"):
        advice = "Use cg for a definite matrix, gmres for any other"
        raise DTypeError(
            where, "A, b", _array.dtype_name(dtype), "real data: it is for real symmetric matrices", advice
        )
    starts = _starts(x0, A, b, where)
    rtol, atol = (_check.as_positive(v, where, name, zero=True) for v, name in ((rtol, "rtol"), (atol, "atol")))
    callback, history = _check.as_function(callback, where, "callback"), _check.as_flag(history, where, "history")
    if more.get("restart") is not None:
        more["restart"] = _check.as_integer(more["restart"], where, "restart")
    if maxiter is not None:
        more["maxiter"] = _check.as_integer(maxiter, where, "maxiter")
    if where == "gmres":
        more["callback_type"] = "pr_norm"
    module = _solvers(A, where)
    solver = getattr(module, where)
    tolerance = _name_of_tolerance(solver)
    A = A._in_precision(dtype)
    at = _coordinates(A, M, dtype, where)
    more["M"] = None if at.M is None else _operator(module, at.M, A.shape, dtype)
    operator = _operator(module, at.A, A.shape, dtype)
    told = where != "gmres" and (history or callback is not None)  # of x; gmres tells norms

    def run(r: Array, asked: float, watch: Callable[[Any], None]) -> tuple[Array, int]:
        tell = (lambda v: watch(at.leave(v))) if told else watch
        d, info = solver(operator, at.enter(r), **{tolerance: asked}, callback=tell, **more)
        return at.leave(d), info

    column = Column(where, run, _action(A), rtol, atol, callback, history)
    try:
        with _array.quiet():
            found = [column.solve(c, s) for c, s in zip(columns, starts, strict=True)]
    except ValueError as error:
        if str(error) not in INDEFINITE:
            raise
        expected = "a symmetric A and a positive definite M"
        raise ArgumentError(where, "A, M", str(error), expected, "Use gmres, or sm.strang(T, floor=…)") from None
    return _warned(_gathered(found, b, A, dtype), where, f"max(rtol ‖b‖, atol) with rtol {rtol:.0e}")


@functools.cache
def _name_of_tolerance(solver: Any) -> str:
    return "rtol" if "rtol" in inspect.signature(solver).parameters else "tol"  # CuPy before 14


def _action(A: StructuredMatrix) -> Callable[[Array], Array]:
    """x -> A x for vectors of the precision of A, without checks."""
    dtype, apply, product = A.dtype, A._apply, A._product
    return lambda x: apply(x, -1) if x.dtype == dtype else product(x, -1)


def _operator(module: Any, apply: Callable[[Array], Array], shape: tuple[int, int], dtype: Any) -> Any:
    operator = module.LinearOperator(shape, matvec=apply, dtype=dtype)
    operator.matvec = apply  # what the solvers call, without the checks of every vector
    return operator


def _coordinates(A: StructuredMatrix, M: Any, dtype: Any, where: str) -> Coordinates:
    """The orthonormal basis in which the solver works, with A and M there: the one that x comes in, but for pairs known to be cheaper."""
    apply = None if M is None else _preconditioner(M, A, dtype, where)
    if isinstance(M, StructuredMatrix):
        with_complex = A.xp.isdtype(dtype, "complex floating")
        with _array.quiet():
            found = fourier_coordinates(A, M._in_precision(dtype), with_complex=with_complex)
        if found is not None:
            return found
    return Coordinates(lambda x: x, lambda v: v, _action(A), apply)


def _preconditioner(M: Any, A: StructuredMatrix, dtype: Any, where: str) -> Callable[[Array], Array]:
    expected = "a structured matrix, a LinearOperator or a function of a residual"
    if isinstance(M, StructuredMatrix):
        _check.same_place(where, (("A", A.arrays()[0]), ("M", M.arrays()[0])))
        apply = _action(M._in_precision(dtype))
    elif hasattr(M, "matvec") and isinstance(getattr(M, "shape", None), tuple):
        apply = M.matvec
    elif callable(M) and not hasattr(M, "shape"):

        def checked(r: Array) -> Array:
            y = _check.as_array(M(r), where, "M(r)", 1, like=r)
            _check.check_length(y, -1, r.shape[0], A._name, where)
            return y

        return checked
    else:
        raise DTypeError(where, "M", f"a {type(M).__name__}", expected, "Use sm.Dense(M) for a dense one")
    if tuple(M.shape) != A.shape:
        got = f"{M.shape[0]}×{M.shape[1]}"
        raise ShapeError(where, "M", got, f"{A.shape[0]}×{A.shape[1]} as A", "M approximates the inverse of A")
    return apply


def _gathered(found: list[Solution], b: Array, A: StructuredMatrix, dtype: Any) -> Solution:
    """The solutions of the columns as one."""
    if b.ndim == 1:
        return found[0]
    if not found:
        return Solution(A.xp.zeros((A.shape[1], 0), dtype=dtype, device=A.device), True, 0, 0.0)
    slowest = max(found, key=lambda s: s.iterations)
    return Solution(
        A.xp.stack([s.x for s in found], axis=-1),
        all(s.converged for s in found),
        slowest.iterations,
        max(s.relative_residual for s in found),
        slowest.history,
    )


def _warned(result: Solution, where: str, tolerance: str) -> Solution:
    if not result.converged:
        warn(
            ConvergenceWarning,
            f"{where}: not converged after {result.iterations} iterations: relative residual {result.relative_residual:.1e}; "
            f"expected {tolerance}. Use more iterations, another preconditioner M, or sm.solve where it has a rule.",
        )
    return result


# checks -----------------------------------------------------------------------------------------------------------------


def _structured(A: Any, where: str) -> StructuredMatrix:
    if not isinstance(A, StructuredMatrix):
        advice = "Use the function of scipy.sparse.linalg, or sm.Dense(A)"
        raise DTypeError(where, "A", f"a {type(A).__name__}", "a structured matrix", advice)
    _check.check_full_precision(A.arrays()[0], where, "A")
    return A


def _solvers(A: StructuredMatrix, where: str) -> Any:
    """The module with the solvers for the library of A."""
    first = A.arrays()[0]
    if _array.is_numpy(first):
        return importlib.import_module("scipy.sparse.linalg")
    if _array.is_cupy(first):
        return importlib.import_module("cupyx.scipy.sparse.linalg")
    library = _array.library(first)
    advice = "Use A.map(numpy.asarray) for data on the CPU, or sm.solve where it has a rule"
    raise BackendError(where, "A", f"{A._name()} of {library}", "NumPy or CuPy arrays: these have solvers", advice)


def _right_hand_sides(A: StructuredMatrix, b: Any, where: str) -> tuple[Array, list[Array], Any]:
    """(b, its columns in the common dtype, that dtype)."""
    _solvers(A, where)
    b = _check.check_full_precision(_check.as_array(b, where, "b", like=A.arrays()[0]), where, "b")
    if b.ndim not in (1, 2) or b.shape[0] != A.shape[0]:
        expected = f"({A.shape[0]},) or ({A.shape[0]}, k)"
        raise ShapeError(where, "b", f"shape {tuple(b.shape)}", expected, "Check the sizes")
    _check.check_finite(b, where, "b")
    dtype = A.xp.result_type(A.dtype, b.dtype)
    return b, _columns(b, dtype), dtype


def _starts(x0: Any, A: StructuredMatrix, b: Array, where: str) -> list[Any]:
    count = 1 if b.ndim == 1 else b.shape[1]
    if x0 is None:
        return [None] * count
    x0 = _check.as_array(x0, where, "x0", like=A.arrays()[0])
    expected = (A.shape[1], *b.shape[1:])
    if tuple(x0.shape) != expected:
        raise ShapeError(where, "x0", f"shape {tuple(x0.shape)}", f"{expected}, as the solution", "Check the sizes")
    return _columns(_check.check_finite(x0, where, "x0"), A.xp.result_type(A.dtype, b.dtype, x0.dtype))


def _columns(x: Array, dtype: Any) -> list[Array]:
    """New contiguous vectors."""
    x = _array.copy(_array.astype(x, dtype))
    return [x] if x.ndim == 1 else [_array.copy(x[:, i]) for i in range(x.shape[1])]
