"""Separated representations: sums of Kronecker products with their scales, and the condition number κ of the sum."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Dense, Identity, is_identity
from .errors import DTypeError, ShapeError, SizeLimitError
from .frozen import once
from .kernels import plan
from .kernels.kron import groups_on_gpu, planned_sum, separated_matmul, stacks_laid_out
from .kernels.limits import kind_of
from .kernels.reference import merged
from .kernels.terms import inner, parallel, sweep
from .kernels.terms import khatri_rao as khatri_rao
from .kronecker import Kronecker, digits, main_entries, rearrange_back
from .kronecker_sum import KroneckerSum
from .linalg import conversion, convert, diagonal, norm, trace
from .matrix import Scaled, StructuredMatrix, closed_product, closed_sum, structure

__all__ = ["Separated"]

MAX_TERMS = 2**20


@final
@structure
class Separated(StructuredMatrix):
    """Σ_l s_l V_1^l ⊗ V_2^l ⊗ … ⊗ V_d^l, a separated representation (Beylkin & Mohlenkamp 2005, eq. 2.1).

    factors: d arrays, the terms stacked: factors[i] is (terms, m_i, n_i); scales: (terms,), or None for all ones.
    The matrix is Π m_i × Π n_i. A product costs `terms` times that of one Kronecker product; a sum concatenates the
    terms, a product of two multiplies their numbers (at most 2^20 terms, else SizeLimitError).

    >>> import numpy as np, sepmat as sm
    >>> S = sm.Separated([np.ones((2, 3, 3)), np.ones((2, 4, 4))], scales=[1.0, 0.5])
    >>> S
    Separated((3×3 ⊗ 4×4) × 2 terms, shape=(12, 12), float64)
    >>> S[0, 0], S.terms, S.num_parameters
    (np.float64(1.5), 2, 52)
    """

    factors: tuple[Array, ...]
    scales: Array | None

    def __init__(self, factors: Any, scales: Any = None) -> None:
        if not isinstance(factors, (list, tuple)) or not factors:
            got = "empty" if isinstance(factors, (list, tuple)) else f"a {type(factors).__name__}"
            raise ShapeError(
                "Separated", "factors", got, "a list of arrays (terms, m_i, n_i)", "Use one stack for each factor"
            )
        named: list[tuple[str, Any]] = [(f"factors[{i}]", F) for i, F in enumerate(factors)]
        checked = list(_check.as_arrays(named, "Separated", 3))
        terms = checked[0].shape[0]
        for i, F in enumerate(checked):
            if F.shape[0] != terms:
                expected = f"{terms} terms as factors[0]"
                raise ShapeError(
                    "Separated", f"factors[{i}]", f"{F.shape[0]} terms", expected, "Stack one matrix a term"
                )
        if scales is not None:
            scales = _check.as_array(scales, "Separated", "scales", 1, like=checked[0])
            if scales.shape[0] != terms:
                raise ShapeError(
                    "Separated", "scales", f"{scales.shape[0]} entries", f"{terms} terms", "Give one scale a term"
                )
            *checked, scales = _check.as_arrays(
                [*zip((n for n, _ in named), checked, strict=True), ("scales", scales)], "Separated", None
            )
        object.__setattr__(self, "factors", tuple(checked))
        object.__setattr__(self, "scales", scales)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = ([int(F.shape[k]) for F in self.factors] for k in (1, 2))
        return (math.prod(rows), math.prod(columns))

    @once
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The factor shapes ((m_1, n_1), …, (m_d, n_d))."""
        return tuple((int(F.shape[1]), int(F.shape[2])) for F in self.factors)

    @property
    def terms(self) -> int:
        """The number of stored terms; the separation rank is at most this."""
        return int(self.factors[0].shape[0])

    @property
    def _weights(self) -> Array:
        return self.xp.ones((self.terms,), dtype=self.dtype, device=self.device) if self.scales is None else self.scales

    def normalized(self) -> "Separated":
        """The same matrix with factors of Frobenius norm 1 and scales s_l >= 0, largest first.

        Signs and phases move into the first factor; a zero term keeps its factors and gets the scale 0.
        """
        with _array.quiet():
            return self._normalized()

    def _normalized(self) -> "Separated":
        xp, s = self.xp, self._weights
        size = xp.abs(s)
        phase = xp.where(
            size > 0, s / _array.astype(xp.where(size > 0, size, xp.ones_like(size)), s.dtype), xp.ones_like(s)
        )
        factors, sizes = [], [size]
        for F in self.factors:
            flat = xp.reshape(F, (self.terms, F.shape[1] * F.shape[2]))
            lift = _array.power_of_two(flat, axis=1)  # first, exactly: norms of subnormals would be rounded
            flat = flat / _array.astype(lift, F.dtype)
            norms = _array.frobenius(flat, axis=1)
            safe = xp.where(norms > 0, norms, xp.ones_like(norms))
            factors.append(xp.reshape(flat / _array.astype(safe, F.dtype)[:, None], F.shape))
            sizes.extend((norms, lift[:, 0]))
        size = _array.scaled_product(sizes)
        factors[0] = factors[0] * phase[:, None, None]
        order = xp.argsort(size, descending=True)
        return Separated._of(
            factors=tuple(xp.take(F, order, axis=0) for F in factors),
            scales=_array.astype(xp.take(size, order, axis=0), self.dtype),
        )

    def merged(self) -> "Separated":
        """The same matrix with one term for each set of parallel ones, and without terms that are zero or cancel.

        Terms are parallel where all their factors agree to 16 u up to signs, phases and scales; the largest of them keeps
        its factors and takes all their scales, in the old order. The matrix moves by at most 16 d u Σ s_l, and not at all
        where equal terms meet: (A + A).merged() has the factors of A, (A - A).merged() no terms. Cost O(terms Σ m_i n_i); no gradient.

        >>> import numpy as np, sepmat as sm
        >>> A = sm.convert(sm.KroneckerSum(np.diag([1.0, 2.0]), np.diag([3.0, 5.0])), sm.Separated)
        >>> (A @ A).terms, (A @ A).merged().terms, (A - A).merged().terms
        (4, 3, 0)
        """
        for a in self.arrays():
            _check.check_full_precision(_check.check_finite(a, "merged", "A"), "merged", "A")
        xp, u = self.xp, _array.unit_roundoff(self.xp, self.dtype)
        with _array.quiet():
            kept = parallel(self.factors, self._weights, 16 * u)
        if [l for l, _ in kept] == list(range(self.terms)):  # what merges or cancels leaves fewer terms
            return self
        at = xp.asarray([l for l, _ in kept], dtype=xp.int64, device=self.device)
        ratios = [ratio if self._is_complex else ratio.real for _, ratio in kept]
        part = self.map(lambda a: xp.take(_array.stop_gradient(a), at, axis=0))
        with _array.quiet():
            scales = part._weights * xp.asarray(ratios, dtype=self.dtype, device=self.device)
        return part if all(ratio == 1 for ratio in ratios) else Separated._of(factors=part.factors, scales=scales)

    @property
    def condition_number(self) -> float:
        """κ = (Σ_l s_l²)^½ / ‖A‖_F for unit-norm factors (Beylkin & Mohlenkamp): the digits lost to cancellation between terms.

        κ >= 1/√terms; 1 for orthogonal terms; 1 by definition for the zero matrix without terms, inf when the terms
        cancel completely. Evaluating A x errs by at most about κ √terms u ‖A‖ ‖x‖. Both norms come from the QR sweep in
        double precision, so κ is right to u κ.
        """
        bottom, top, _ = self._sweep("condition_number")
        return top / bottom if bottom and top else math.inf if top else 1.0

    def attainable_error(self, dtype: Any = None) -> float:
        """κ u, the relative error to which this representation can be evaluated in a precision (its own by default).

        A tolerance ε is within reach where κ u <= ε (Beylkin & Mohlenkamp 2005): ask it
        before choosing a dtype. u is the unit roundoff: 2⁻⁵³ in float64, 2⁻²⁴ in float32.

        >>> import numpy as np, sepmat as sm
        >>> A = sm.Separated([np.stack([np.eye(2), np.eye(2) + 1e-3 * np.ones((2, 2))])] * 2, [-1e3, 1e3])
        >>> f"{A.condition_number:.0f} {A.attainable_error():.0e} {A.attainable_error('float32'):.0e}"
        '578 6e-14 3e-05'
        """
        found = self.dtype if dtype is None else _array.as_dtype(self.xp, dtype)
        if found is None:
            expected = "a floating point dtype of the library"
            raise DTypeError("attainable_error", "dtype", str(dtype), expected, "Use float32 or float64")
        return self.condition_number * _array.unit_roundoff(self.xp, found)

    def _sweep(self, where: str) -> tuple[float, float, int]:
        """(‖A‖_F, (Σ s_l²)^½, e), both still to be multiplied with 2^e."""
        _check.check_full_precision(self.factors[0], where, "A")
        if self.terms == 0 or 0 in self.shape:
            return 0.0, 0.0, 0
        needed = (self.terms, self.terms)
        advice = "Reduce the number of terms first, with A.merged() or compress(A, tol=...)"
        _check.check_bytes(needed, 8, _check.DENSE_LIMIT, where, advice)

        def compute() -> tuple[float, float, int]:
            with _array.quiet():
                bottom, top, e = sweep(self.factors, self._weights)
            return _array.to_float(bottom), _array.to_float(top), e

        return self._remember("sweep", compute)

    def _apply(self, x: Array, axis: int) -> Array:
        groups, p = self._plan(x.shape, axis) if _array.is_numpy(x) else (self._groups(x.shape, axis), None)
        forward = p is None or p.forward
        factors, e = self._remember((groups, forward), lambda: self._ready(groups, forward))
        y = separated_matmul(factors, None, x, axis) if p is None else planned_sum(p, factors, x, axis)
        return _array.ldexp(y, e)

    def _suits_numpy(self, shape: tuple[int, ...], axis: int) -> bool:
        return True

    def _groups(self, shape: tuple[int, ...], axis: int) -> tuple[tuple[int, int], ...]:
        """Which neighbouring factors are multiplied out first, in every term."""
        if _array.compiling() or not self._remembers:
            return tuple([(i, i + 1) for i in range(len(self.factors))])
        if _array.on_gpu(self.factors[0]):
            return groups_on_gpu(self.shapes, self.terms, shape, axis, self.dtype)
        left, right = plan.sides(shape, axis)
        return plan.chain(self.shapes, left, right, self._kind, True, False).groups

    def _plan(self, shape: tuple[int, ...], axis: int) -> tuple[tuple[tuple[int, int], ...], plan.Terms | None]:
        """What is merged of NumPy arrays, and the steps; None for one term, one merged factor, or nothing to multiply."""
        left, right = plan.sides(shape, axis)
        return plan.merged_terms(self.shapes, self.terms, left, right, self._kind, self._remembers)

    @once
    def _kind(self) -> str:
        return kind_of(self.dtype)

    def _ready(self, groups: tuple[tuple[int, int], ...], forward: bool) -> tuple[tuple[Array, ...], int]:
        """Balanced and merged stacks with the scales in the smallest one, in the layout of their steps, and the exponent that is left."""
        balanced, e = self._balance()
        factors = list(merged(balanced.factors, groups))
        if balanced.scales is not None:
            sizes = [_array.size(F) for F in factors]
            smallest = sizes.index(min(sizes))
            factors[smallest] = factors[smallest] * balanced.scales[:, None, None]
        return stacks_laid_out(factors, forward), e

    def _balance(self) -> tuple["Separated", int]:
        """The same terms with even exponents of factors and scales, and the exponent that is left."""
        stacks = (*self.factors, self._weights)
        balanced, e = _array.balanced(stacks)
        if all(new is old for new, old in zip(balanced, stacks, strict=True)):
            return self, e
        return Separated._of(factors=balanced[:-1], scales=balanced[-1]), e

    def _transpose(self) -> StructuredMatrix:
        return Separated._of(factors=tuple(self.xp.matrix_transpose(F) for F in self.factors), scales=self.scales)

    def _plus(self, other: StructuredMatrix) -> Any:
        B = _as_terms(other, self.shapes)
        return NotImplemented if B is None else _concatenate(self, B)

    def _times(self, other: StructuredMatrix) -> Any:
        B = convert(other, Separated) if _only_arrays(other) else other
        if not isinstance(B, Separated) or [n for _, n in self.shapes] != [m for m, _ in B.shapes]:
            return NotImplemented
        return pairwise(self, B, lambda F, G: F @ G)

    def _rtimes(self, other: StructuredMatrix) -> Any:
        return convert(other, Separated)._times(self) if _only_arrays(other) else NotImplemented

    def _kron(self, other: StructuredMatrix) -> Any:
        B = _as_factors(other)
        return NotImplemented if B is None else _side_by_side(self, B)

    def _rkron(self, other: StructuredMatrix) -> Any:
        A = _as_factors(other)
        return NotImplemented if A is None else _side_by_side(A, self)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, scales, *factors = _array.promote(s, self._weights, *self.factors)
        return Separated._of(factors=tuple(factors), scales=s * scales)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        balanced, e = self._balance()
        xp = self.xp
        total = balanced._weights[:, None, None]
        for F, (i, j) in zip(balanced.factors, digits(self.shapes, rows, cols), strict=True):
            i, j = (xp.asarray(k, dtype=xp.int64, device=self.device) for k in (i, j))
            total = total * xp.take(xp.take(F, i, axis=1), j, axis=2)
        return _array.ldexp(xp.sum(total, axis=0), e)

    def _to_dense(self) -> Array:
        """One contraction over the terms: Khatri–Rao products of the first and of the last factors, one GEMM."""
        balanced, e = self._balance()
        left, right = balanced._columns(), [balanced._weights[None, :]]
        while len(left) > 1 and _rows(left[:-1]) >= _rows(right):
            right.insert(0, left.pop())
        xp = self.xp
        flat = functools.reduce(khatri_rao, left) @ xp.matrix_transpose(functools.reduce(khatri_rao, right))
        return _array.ldexp(rearrange_back(xp.reshape(flat, tuple(m * n for m, n in self.shapes)), self.shapes), e)

    def _columns(self) -> list[Array]:
        """The factors as matrices (m_i n_i, terms), one column a term."""
        xp = self.xp
        return [xp.matrix_transpose(xp.reshape(F, (F.shape[0], F.shape[1] * F.shape[2]))) for F in self.factors]

    def _detail(self) -> str:
        return "(" + " ⊗ ".join(f"{m}×{n}" for m, n in self.shapes) + f") × {self.terms} terms"


def _rows(columns: Sequence[Array]) -> int:
    """Of the Khatri–Rao product of these matrices."""
    return math.prod([U.shape[0] for U in columns])


# terms ------------------------------------------------------------------------------------------------------------------


def _only_arrays(A: StructuredMatrix) -> bool:
    """Whether A is a Kronecker product or sum whose factors can be stacked as they are."""
    return isinstance(A, (Kronecker, KroneckerSum)) and not any(isinstance(F, StructuredMatrix) for F in A.factors)


def _as_terms(A: StructuredMatrix, shapes: tuple[tuple[int, int], ...]) -> Separated | None:
    """A as a Separated with the given factor shapes where that is exact and stacks what is stored, else None."""
    if is_identity(A) and all(m == n for m, n in shapes):
        xp = A.xp
        weights = xp.reshape(A.scale, (1,)) if isinstance(A, Scaled) else None
        units = tuple(xp.eye(n, dtype=A.dtype, device=A.device)[None, :, :] for n, _ in shapes)
        A = Separated._of(factors=units, scales=weights)
    elif _only_arrays(A):
        A = convert(A, Separated)
    return A if isinstance(A, Separated) and A.shapes == shapes else None


def _as_factors(A: StructuredMatrix) -> Separated | None:
    """A as the further factors of a Separated where that stacks what is stored, else None."""
    if isinstance(A, Dense):
        return Separated._of(factors=(A.array[None, :, :],), scales=None)
    if _only_arrays(A):
        return convert(A, Separated)  # type: ignore[return-value]
    return _as_terms(A, A.shapes if isinstance(A, Separated) else (A.shape,))


def _concatenate(A: Separated, B: Separated) -> Separated:
    _check_terms(A.terms + B.terms)
    xp, given = A.xp, A.scales is not None or B.scales is not None
    merged = [xp.concat(_array.promote(F, G), axis=0) for F, G in zip(A.factors, B.factors, strict=True)]
    scales = [xp.concat(_array.promote(A._weights, B._weights))] if given else []
    promoted = _array.promote(*merged, *scales)
    return Separated._of(factors=promoted[: len(merged)], scales=promoted[-1] if given else None)


def pairwise(A: Separated, B: Separated, combine: Callable[[Array, Array], Array]) -> Separated:
    """All pairs of a term of A and a term of B, their factors combined: (a, 1, m, n) and (1, b, p, q) give (a, b, …)."""
    count = A.terms * B.terms
    _check_terms(count)
    xp = A.xp
    pairs = [
        combine(*_array.promote(F[:, None, :, :], G[None, :, :, :])) for F, G in zip(A.factors, B.factors, strict=True)
    ]
    pairs = [xp.reshape(P, (count, P.shape[2], P.shape[3])) for P in pairs]
    return Separated._of(factors=tuple(pairs), scales=_products_of_scales(A, B, pairs[0].dtype))


def _products_of_scales(A: Separated, B: Separated, dtype: Any) -> Array | None:
    if A.scales is None and B.scales is None:
        return None
    a, b = _array.promote(A._weights, B._weights)
    return _array.astype(A.xp.reshape(a[:, None] * b[None, :], (A.terms * B.terms,)), dtype)


def _side_by_side(A: Separated, B: Separated) -> Separated:
    """A ⊗ B: all pairs of a term of A and a term of B, the factors of A before those of B."""
    count = A.terms * B.terms
    _check_terms(count)
    xp, factors = A.xp, list[Array]()
    for F in (*A.factors, *B.factors):
        F = F[:, None, :, :] if len(factors) < len(A.factors) else F[None, :, :, :]
        shape = (A.terms, B.terms, F.shape[2], F.shape[3])
        factors.append(xp.reshape(xp.broadcast_to(F, shape), (count, F.shape[2], F.shape[3])))
    factors = list(_array.promote(*factors))
    return Separated._of(factors=tuple(factors), scales=_products_of_scales(A, B, factors[0].dtype))


def _check_terms(terms: int) -> None:
    if terms > MAX_TERMS:
        raise SizeLimitError(
            "Separated",
            "terms",
            f"would be {terms}",
            f"at most {MAX_TERMS}",
            "Reduce the number of terms first, with A.merged() or compress(A, tol=...)",
        )


@conversion
def _(A: Kronecker) -> Separated:
    """Factors that are sums of Kronecker products themselves become several factors, and their terms multiply."""
    parts: list[Any] = []
    for B in A.operators:
        nested = isinstance(B, (Separated, Kronecker, KroneckerSum))
        parts.append(convert(B, Separated) if nested else _as_factors(Dense._of(array=B.to_dense())))
    return functools.reduce(_side_by_side, parts)


@conversion
def _(A: KroneckerSum) -> Separated:
    xp, d = A.xp, len(A.factors)
    units = [xp.eye(n, dtype=A.dtype, device=A.device) for n in A.sizes]
    stacks = [xp.stack([B.to_dense() if i == l else units[i] for l in range(d)]) for i, B in enumerate(A.operators)]
    return Separated._of(factors=tuple(stacks), scales=None)


@closed_sum
def _(A: Kronecker, B: Kronecker | KroneckerSum | Identity | Scaled) -> Any:
    return convert(A, Separated)._plus(B) if _only_arrays(A) else NotImplemented


@closed_product
def _(A: KroneckerSum, B: Kronecker | KroneckerSum) -> Any:
    return convert(A, Separated)._times(B) if _only_arrays(A) else NotImplemented


@closed_product
def _(A: Kronecker, B: KroneckerSum) -> Any:
    return convert(A, Separated)._times(B) if _only_arrays(A) else NotImplemented


# rules ------------------------------------------------------------------------------------------------------------------


@norm.register
def _(A: Separated, ord: Any) -> Array:
    """‖A‖_F by the QR sweep in double precision (kernels/terms.py): right to a few u Σ s_l, where a Gram formula keeps half the digits.

    Its gradient is that of the Gram formula, which needs no digits of the small difference and no full rank.
    """
    if ord != "fro":
        raise norm.unsupported(A, f"no closed form of ord={ord!r}")
    xp, (value, _, e) = A.xp, A._sweep("norm")
    found = xp.asarray(value, dtype=xp.float64, device=A.device)
    if _array.attached(*A.arrays()):
        gram, k = inner(A.factors, A._weights, A.factors, A._weights)
        gram = _array.ldexp(xp.real(gram) if A._is_complex else gram, k - 2 * e)
        found = xp.sqrt(gram + _array.stop_gradient(found**2 - gram)) if value else 0.0 * gram
    return _array.astype(_array.ldexp(found, e), _array.real_dtype(xp, A.dtype))


@trace.register
def _(A: Separated) -> Array:
    if any(m != n for m, n in A.shapes):
        return A.xp.sum(diagonal.rule(A))
    xp = A.xp
    traces = [xp.sum(xp.linalg.diagonal(F), axis=-1) for F in A.factors]
    return xp.sum(_array.scaled_product([A._weights, *traces]))


@diagonal.register
def _(A: Separated) -> Array:
    xp = A.xp
    k = min(A.shape)
    _check.check_bytes(
        (k, A.terms), _array.itemsize(A.dtype), _check.DENSE_LIMIT, "diagonal", "Read entries with A[i, i]"
    )
    A, e = A._balance()
    if any(m != n for m, n in A.shapes):
        columns = [xp.matrix_transpose(E) for E in main_entries(A.factors, k)]
        total = functools.reduce(lambda x, y: x * y, columns)
        return _array.ldexp(xp.sum(total * A._weights[None, :], axis=1), e)
    columns = [xp.matrix_transpose(xp.linalg.diagonal(F)) for F in A.factors]
    return _array.ldexp(xp.sum(functools.reduce(khatri_rao, columns) * A._weights[None, :], axis=1), e)
