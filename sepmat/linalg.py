"""What one asks about a matrix: open functions whose rule for a class stands in that class's file, right below it.

    @solve.register
    def _(A: Circulant, b): ...

A function without a rule for a class raises UnsupportedError and names two ways out; nothing goes dense in silence.
"""

import dataclasses
import functools
import inspect
import itertools
import typing
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from . import _array, _check
from ._array import Array
from .errors import ArgumentError, DTypeError, ShapeError, SingularMatrixError, UnsupportedError, speaks
from .matrix import Scaled, StructuredMatrix, instead_of

__all__ = [
    "Factorization",
    "SlogdetResult",
    "convert",
    "diagonal",
    "eigvals",
    "factorize",
    "inverse",
    "lstsq",
    "norm",
    "slogdet",
    "solve",
    "svdvals",
    "trace",
]

Rule = TypeVar("Rule", bound=Callable[..., Any])


class SlogdetResult(NamedTuple):
    """Sign and logarithm of the absolute value of a determinant, as 0-d arrays."""

    sign: Array
    logabsdet: Array


class OpenFunction:
    """A function of a matrix that dispatches on its class: checks in front, rules behind.

    `register` adds the rule for the class that its first argument is annotated with; `rules` lists them.
    """

    __name__: str

    def __init__(self, front: Callable[..., Any], two_ways: str) -> None:
        functools.update_wrapper(self, front)
        self._front = speaks(front)
        self._two_ways = two_ways
        self.rules: dict[type, Callable[..., Any]] = {}
        self.ways: dict[type, str] = {}  # out, for classes that have better ones than the others
        self.square: set[type] = set()  # classes whose rule is for square matrices, though the function is not

    def register(self, rule: Rule) -> Rule:
        cls = next(iter(inspect.signature(rule, eval_str=True).parameters.values())).annotation
        self.rules[cls] = rule
        return rule

    def __call__(self, A: StructuredMatrix, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(A, StructuredMatrix):
            raise DTypeError(
                self.__name__,
                "A",
                f"a {type(A).__name__}",
                "a structured matrix",
                "Use sm.Dense(A), or the function of the array library",
            )
        with _array.quiet():
            return self._front(A, *args, **kwargs)

    def find(self, cls: type) -> Callable[..., Any] | None:
        """The rule of a class: its own, or that of the family it belongs to."""
        own = self.rules.get(cls)
        return own or next((self.rules[base] for base in cls.__mro__ if base in self.rules), None)

    def rule(self, A: StructuredMatrix, *args: Any) -> Any:
        """The rule for the class of A, applied to checked arguments."""
        found = self.find(type(A))
        if found is None:
            raise self.unsupported(A)
        return found(A, *args)

    def unsupported(self, A: StructuredMatrix, why: str = "no rule that keeps the structure") -> UnsupportedError:
        others = ", ".join(sorted(c.__name__ for c in self.rules if c is not type(A)))
        can = f"one of {others}" if others else "a class with a rule: none yet"
        ways = self.ways.get(type(A), self._two_ways)
        return UnsupportedError(self.__name__, "A", f"{why} for {A._name()}", can, ways)


def open_function(two_ways: str, *numpys: str) -> Callable[[Callable[..., Any]], OpenFunction]:
    """Decorator. two_ways: the advice where no rule is; numpys: what NumPy calls it, where that is another name."""
    return lambda front: instead_of(front.__name__, *numpys)(OpenFunction(front, two_ways))


DENSE = "sm.Dense(A.to_dense())"


@open_function(f"Use sm.solve({DENSE}, b), or an iterative solver: sm.interop.gmres(A, b)")
def solve(A: StructuredMatrix, b: Any) -> Array:
    """The solution x of A x = b, by the structure of A; b of shape (n,) or (n, k).

    Direct and backward stable for every class that has a rule. Raises ShapeError unless A is square and b fits,
    NonFiniteError for NaN or infinity, SingularMatrixError when rcond(A) < n u, UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> sm.solve(sm.Diagonal([2.0, 4.0]), np.array([2.0, 2.0]))
    array([1. , 0.5])
    """
    _square(A, "solve")
    b, dtype = _right_hand(_checked(A, "solve"), b, "solve")
    x = solve.rule(_in_dtype(A, dtype), _array.astype(b if b.ndim == 2 else b[:, None], dtype))
    return x if b.ndim == 2 else x[:, 0]


@open_function(f"Use sm.inverse({DENSE}), or sm.solve(A, b) for the products you need", "inv")
def inverse(A: StructuredMatrix) -> StructuredMatrix:
    """A⁻¹ as a structured matrix: of the same class where that is closed, else of the class that holds it.

    Toeplitz, Hankel and W(G, H) give a `LowDisplacementRank`, each further solve two products; a Kronecker product the
    product of the inverses. Costs what `factorize` costs; raises as `solve` does.

    >>> import numpy as np, sepmat as sm
    >>> sm.inverse(sm.Toeplitz([4.0, 1.0, 0.5], [4.0, 2.0, 0.0])), sm.inverse(sm.Kronecker(np.eye(2), np.eye(3)))
    (LowDisplacementRank(r=2, shape=(3, 3), float64), Kronecker(2×2 ⊗ 3×3, shape=(6, 6), float64))
    """
    _square(A, "inverse")
    return inverse.rule(_checked(A, "inverse"))


@open_function(f"Use sm.lstsq({DENSE}, b), or sm.interop.lsmr(A, b)")
def lstsq(A: StructuredMatrix, b: Any, rcond: Any = None) -> Array:
    """The least-squares solution of A x ≈ b: of all x that minimise ‖b − A x‖₂ the one with the smallest ‖x‖₂.

    A: (m, n) of any rank; b: (m,) or (m, k); returns x alone, (n,) or (n, k). Singular values up to rcond times the
    largest count as zero, as in numpy.linalg.lstsq; None is 2 max(m, n) u. Of a Kronecker product this holds factor by
    factor, since the pseudo-inverse of V ⊗ W is that of V times that of W. Through QR factorizations and SVDs of what
    the structure of A stores; Toeplitz, Hankel and W(G, H) must have full rank. Raises ShapeError, ArgumentError,
    NonFiniteError, SingularMatrixError, and UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> sm.lstsq(sm.LowRank(np.ones((3, 1)), np.ones((2, 1))), np.array([1.0, 2.0, 3.0]))
    array([1., 1.])
    """
    if rcond is not None:
        rcond = _check.as_positive(rcond, "lstsq", "rcond", zero=True)
        if rcond >= 1:
            expected, advice = "a number from 0 to 1", "It is relative to the largest singular value"
            raise ArgumentError("lstsq", "rcond", repr(rcond), expected, advice)
    b, dtype = _right_hand(_checked(A, "lstsq"), b, "lstsq")
    x = lstsq.rule(_in_dtype(A, dtype), _array.astype(b if b.ndim == 2 else b[:, None], dtype), rcond)
    return x if b.ndim == 2 else x[:, 0]


def cut_off(A: StructuredMatrix, rcond: float | None) -> float:
    """What singular values are compared with, relative to the largest."""
    return 2 * max(A.shape) * _array.unit_roundoff(A.xp, A.dtype) if rcond is None else rcond


@open_function(f"Use sm.slogdet({DENSE}), or sm.slogdet of the factors", "det")
def slogdet(A: StructuredMatrix) -> SlogdetResult:
    """(sign, log|det A|) of a square matrix; (0, -inf) for a singular one. Raises as `eigvals` does.

    >>> import sepmat as sm
    >>> sign, logabsdet = sm.slogdet(sm.Diagonal([-1.0, 1.0]))
    >>> float(sign), float(logabsdet)
    (-1.0, 0.0)
    """
    _square(A, "slogdet")
    return SlogdetResult(*slogdet.rule(_checked(A, "slogdet")))


@open_function("Use sm.diagonal(A) and sum it, or A.to_dense()")
def trace(A: StructuredMatrix) -> Array:
    """Σ_i A[i, i] as a 0-d array; rectangular matrices have min(m, n) diagonal entries, as numpy.trace.

    Raises UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> float(sm.trace(sm.Kronecker(np.eye(2), 3 * np.eye(4))))
    24.0
    """
    return trace.rule(A)


@open_function("Read entries with A[i, i], or use A.to_dense()", "diag")
def diagonal(A: StructuredMatrix) -> Array:
    """The main diagonal, min(m, n) entries. Raises UnsupportedError without a rule.

    >>> import sepmat as sm
    >>> sm.diagonal(sm.Toeplitz([2.0, 1.0, 0.0]))
    array([2., 2., 2.])
    """
    return diagonal.rule(A)


@open_function(f"Use sm.norm({DENSE}, ord), or ord='fro' where a rule exists", "matrix_norm")
def norm(A: StructuredMatrix, ord: Any = "fro") -> Array:
    """A norm of A as a 0-d array: "fro" (Frobenius), 1 and inf (largest column, row sum), 2 (spectral), "nuc" (nuclear).

    Which of them a class offers is in the capability table; no Frobenius norm is computed from Gram matrices where
    that would cost digits. Raises ArgumentError for another ord, UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([2.0, -1.0, 0.0])
    >>> float(sm.norm(T, 1)), bool(np.isclose(sm.norm(T), 4.0))
    (4.0, True)
    """
    if not isinstance(ord, (str, int, float)) or isinstance(ord, bool) or ord not in ("fro", "nuc", 1, 2, float("inf")):
        advice = "Use float('inf')" if isinstance(ord, str) and ord == "inf" else "Use ord='fro' for the Frobenius norm"
        raise ArgumentError("norm", "ord", repr(ord), "'fro', 'nuc', 1, 2 or inf", advice)
    if ord in (2, "nuc") and svdvals.find(type(A)):
        s = svdvals(A)
        if ord == "nuc":
            return A.xp.sum(s)
        return A.xp.max(s) if s.shape[0] else A.xp.zeros((), dtype=s.dtype, device=A.device)
    return norm.rule(A, ord)


@open_function(f"Use sm.eigvals({DENSE}), or scipy.sparse.linalg.eigs(A)", "eig", "eigh", "eigvalsh")
def eigvals(A: StructuredMatrix) -> Array:
    """The eigenvalues of a square matrix, complex, with multiplicity, in no particular order.

    Raises ShapeError, NonFiniteError, and UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> np.sort(sm.eigvals(sm.Circulant([2.0, -1.0, 0.0, -1.0])).real)
    array([0., 2., 2., 4.])
    """
    _square(A, "eigvals")
    return eigvals.rule(_checked(A, "eigvals"))


@open_function(f"Use sm.svdvals({DENSE}), or scipy.sparse.linalg.svds(A)", "svd", "cond", "matrix_rank")
def svdvals(A: StructuredMatrix) -> Array:
    """The min(m, n) singular values, largest first. Raises NonFiniteError, and UnsupportedError without a rule.

    >>> import numpy as np, sepmat as sm
    >>> sm.svdvals(sm.Kronecker(np.diag([3.0, 1.0]), np.diag([2.0, 1.0])))
    array([6., 3., 2., 1.])
    """
    return svdvals.rule(_checked(A, "svdvals"))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Factorization:
    """What `factorize` returns: solve(b) with one matrix for many right-hand sides.

    matrix: A. inverse: A⁻¹ as a structured matrix where that is how it solves, else None. rcond: an estimate of the
    reciprocal condition number where one was made, else None.

    >>> import numpy as np, sepmat as sm
    >>> F = sm.factorize(sm.Toeplitz([3.0, 1.0, 0.5], [3.0, 2.0, 1.0])); F.inverse
    LowDisplacementRank(r=2, shape=(3, 3), float64)
    >>> bool(np.allclose(F.matrix @ F.solve(np.arange(3.0)), np.arange(3.0)))
    True
    """

    matrix: StructuredMatrix
    solver: Callable[[Any, Array], Array]  # (A, columns) -> columns, A in the dtype of the columns
    inverse: StructuredMatrix | None = None
    rcond: float | None = None

    def solve(self, b: Any) -> Array:
        """x with A x = b, b of shape (n,) or (n, k). Raises ShapeError, NonFiniteError."""
        A, (b, dtype) = self.matrix, _right_hand(self.matrix, b, "Factorization.solve")
        with _array.quiet():
            x = self.solver(_in_dtype(A, dtype), _array.astype(b if b.ndim == 2 else b[:, None], dtype))
        return x if b.ndim == 2 else x[:, 0]

    def __repr__(self) -> str:
        return f"Factorization({self.matrix._name()}{'' if self.rcond is None else f', rcond={self.rcond:.1e}'})"


@open_function("Use sm.solve(A, b) with all right-hand sides at once, or scipy.linalg.lu_factor(A.to_dense())")
def factorize(A: StructuredMatrix) -> Factorization:
    """A factorization of a square matrix, to solve with many times: `factorize(A).solve(b)`.

    Toeplitz, Hankel, LowDisplacementRank: the generators of the inverse; Dense: LU; circulants: the spectrum; a
    Kronecker product and a product: those of its factors. Raises as `solve` does.

    >>> import numpy as np, sepmat as sm
    >>> F = sm.factorize(sm.Kronecker(2 * np.eye(2), np.diag([1.0, 4.0])))
    >>> F.solve(np.ones(4)), F.solve(np.ones((4, 2))).shape
    (array([0.5  , 0.125, 0.5  , 0.125]), (4, 2))
    """
    _square(A, "factorize")
    found: Factorization = factorize.rule(_checked(A, "factorize"))
    return found


def _right_hand(A: StructuredMatrix, b: Any, where: str) -> tuple[Array, Any]:
    """b as a finite array of one or two axes that fits A, and the dtype of the solution."""
    b = _check.as_array(b, where, "b", like=A.arrays()[0])
    n = A.shape[0]
    if b.ndim not in (1, 2) or b.shape[0] != n:
        advice = (
            "Use b.reshape(-1) for the values on a grid as one vector" if _array.size(b) == n else "Check the sizes"
        )
        raise ShapeError(where, "b", f"shape {tuple(b.shape)}", f"({n},) or ({n}, k)", advice)
    _check.check_full_precision(_check.check_finite(b, where, "b"), where, "b")
    return b, A.dtype if b.dtype == A.dtype else A.xp.result_type(A.dtype, b.dtype)


def _square(A: StructuredMatrix, where: str) -> None:
    if A.shape[0] != A.shape[1]:
        _check.check_square(A.shape, where, least_squares=way_to_least_squares(A))


def _in_dtype(A: StructuredMatrix, dtype: Any) -> StructuredMatrix:
    return A if dtype == A.dtype else A.astype(dtype)


def _checked(A: StructuredMatrix, where: str) -> StructuredMatrix:
    """A with finite entries in a precision that can be factored; looked at once."""

    def look() -> bool:
        for a in A.arrays():
            _check.check_full_precision(_check.check_finite(a, where, "A"), where, "A")
        return True

    A._remember("finite", look)
    return A


def singular(A: StructuredMatrix, where: str, why: str, least_squares: str = "") -> SingularMatrixError:
    """The error for a matrix with rcond 0. least_squares: the way out where the rule of lstsq is none."""
    return SingularMatrixError(
        where,
        "A",
        f"{A._name()} is singular ({why}, rcond {0.0:.1e})",
        "a nonsingular matrix",
        f"Use {least_squares or way_to_least_squares(A)}, or add s * Identity(n)",
    )


def way_to_least_squares(A: StructuredMatrix) -> str:
    """The call that solves A x ≈ b for a singular or rectangular A."""
    fits = lstsq.find(type(A)) and (A.shape[0] == A.shape[1] or type(A) not in lstsq.square)
    return _check.LEAST_SQUARES if fits else _check.DENSE_LEAST_SQUARES


# conversions ------------------------------------------------------------------------------------------------------------

_conversions: dict[type, dict[type, Callable[[Any], StructuredMatrix]]] = {}


def conversion(rule: Rule) -> Rule:
    """Register an exact conversion; the classes are read off the annotations: def _(A: Circulant | Y) -> Toeplitz."""
    signature = inspect.signature(rule, eval_str=True)
    (parameter,) = signature.parameters.values()
    for source in typing.get_args(parameter.annotation) or (parameter.annotation,):
        _conversions.setdefault(source, {})[signature.return_annotation] = rule
    return rule


def convert(A: StructuredMatrix, structure: type) -> StructuredMatrix:
    """A as a matrix of another class, exactly (up to rounding); the shortest chain of known conversions is taken.

    >>> import sepmat as sm
    >>> sm.convert(sm.Circulant([1.0, 2.0, 3.0]), sm.Toeplitz)
    Toeplitz(shape=(3, 3), float64)
    """
    if not isinstance(A, StructuredMatrix):
        raise DTypeError(
            "convert", "A", f"a {type(A).__name__}", "a structured matrix", "Use approximate() for dense matrices"
        )
    if isinstance(A, Scaled) and structure is not Scaled:
        return convert(A.matrix, structure)._scale(A.scale)
    for path in _paths(type(A)):
        if path[-1] is structure:
            for source, target in itertools.pairwise(path):
                A = _conversions[source][target](A)
            return A
    reachable = ", ".join(sorted({p[-1].__name__ for p in _paths(type(A))} - {type(A).__name__})) or "no other class"
    name = getattr(structure, "__name__", repr(structure))
    advice = "Use approximate(A.to_dense(), ...), or nearest_* for the closest member of a class"
    if name == "Dense":
        advice = f"Use {DENSE}"
    raise UnsupportedError("convert", "structure", f"{A._name()} to {name}", f"one of: {reachable}", advice)


def _paths(start: type) -> Iterator[tuple[type, ...]]:
    """Chains of conversions from a class, shortest first."""
    queue: deque[tuple[type, ...]] = deque([(start,)])
    seen = {start}
    while queue:
        path = queue.popleft()
        yield path
        for target in _conversions.get(path[-1], {}):
            if target not in seen:
                seen.add(target)
                queue.append((*path, target))


# what rules share -----------------------------------------------------------------------------------------------------------


def factorize_as_solve(A: StructuredMatrix) -> Factorization:
    """For classes whose solve remembers all that a factorization would hold: it fails here where A is singular."""
    solve.rule(A, A.xp.zeros((A.shape[0], 0), dtype=A.dtype, device=A.device))
    return Factorization(A, solve.rule)


def integer_power(unit: Array, k: int) -> Array:
    """unit^k for a number of modulus 0 or 1 and any Python integer k >= 0, exactly for real ones."""
    xp = _array.array_namespace(unit)
    if k == 0:
        return xp.ones_like(unit)
    if not _array.is_complex(unit):
        return unit if k % 2 else unit * unit
    angle = xp.atan2(xp.imag(unit), xp.real(unit)) * float(k)
    return xp.where(
        xp.abs(unit) > 0, _array.astype(xp.cos(angle) + 1j * xp.sin(angle), unit.dtype), xp.zeros_like(unit)
    )


def log_product(values: Array, real: bool = False) -> tuple[Array, Array]:
    """(sign, log|·|) of the product of numbers; real: the product is known to be real though they are complex."""
    xp = _array.array_namespace(values)
    size = xp.abs(values)
    near = values / _array.astype(_array.binade(_array.stop_gradient(size)), values.dtype)
    length = xp.abs(near)
    units = near / _array.astype(xp.where(length > 0, length, xp.ones_like(length)), values.dtype)
    sign = xp.prod(xp.where(size > 0, units, xp.zeros_like(units)))
    if real and _array.is_complex(values):
        sign = xp.sign(xp.round(xp.real(sign)))
    return sign, xp.sum(xp.log(size))
