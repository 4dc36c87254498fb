"""What a product will do, before it is done: route, order, merges, operations, bytes, and the share of the machine's limit.

The plans are those that the kernels run (kernels/plan.py, plan_fft.py); here they are only put into words. A new structure adds a rule
right below its class, as for the functions of linalg.py; without one it is said that nothing is known.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _array, _check
from .basic import Dense, Diagonal, Identity
from .displacement import LowDisplacementRank
from .errors import ArgumentError, DTypeError, ShapeError
from .kernels import plan, plan_fft
from .kernels.limits import CACHE, REAL, SIZE, Limits, fft_flops, kind_of
from .kronecker import Kronecker, as_operator
from .kronecker_sum import KroneckerSum
from .linalg import open_function
from .low_rank import LowRank
from .matrix import Product, Scaled, StructuredMatrix, Sum
from .multilevel import MultilevelCirculant, MultilevelToeplitz
from .separated import Separated
from .toeplitz import Circulant, Hankel, SkewCirculant, Toeplitz

if TYPE_CHECKING:  # the plans of a GPU are imported where a matrix is on one
    from .kernels.cuda import plan as gpu

__all__ = ["Explanation", "Limits", "explain"]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The plan of one product. str() is a short text; the numbers are those of all of x.

    flops: real additions and multiplications, those of transforms by the usual count; bytes: what moves between memory and
    cache. seconds is predicted for `limits`, `share` is the part of it that the slower of arithmetic and memory
    would take alone.
    """

    product: str
    route: str
    steps: tuple[str, ...]
    gemm_flops: int
    fft_flops: int
    bytes: int
    limits: "Limits | gpu.Limits"
    _seconds: float
    _kind: str

    @property
    def flops(self) -> int:
        return self.gemm_flops + self.fft_flops

    def _least(self, limits: "Limits | gpu.Limits") -> float:
        arithmetic = self.gemm_flops / limits.gemm(self._kind) + self.fft_flops / limits.fft
        return max(arithmetic, self._memory(limits))

    def _memory(self, limits: "Limits | gpu.Limits") -> float:
        return self.bytes / (limits.copy if self.bytes > CACHE else limits.cache)

    @property
    def share(self) -> float:
        """The expected share of the limit of one core, or of the GPU that holds A, at most 1."""
        return min(1.0, self._least(type(self.limits)()) / self._seconds) if self._seconds else 0.0

    @property
    def seconds(self) -> float:
        """The expected time on one core, or on the GPU, with these limits."""
        return self._least(self.limits) / self.share if self.share else self._seconds

    def __str__(self) -> str:
        bound = "arithmetic" if self._memory(self.limits) < self._least(self.limits) else "memory"
        machine = "one core" if isinstance(self.limits, Limits) else "one GPU"
        lines = [self.product, f"  route  {self.route}", *(f"         {step}" for step in self.steps)]
        lines.append(f"  work   {_count(self.flops)} flop, {_check.readable(self.bytes)}")
        lines.append(f"  time   {_time(self.seconds)} expected on {machine}, {self.share:.0%} of its limit ({bound})")
        return "\n".join(lines)

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class Work:
    """What a rule says of a product of x with a shape: the same as an Explanation, without the machine."""

    route: str
    steps: tuple[str, ...] = ()
    gemm_flops: int = 0
    fft_flops: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.route,
            (*self.steps, *other.steps),
            self.gemm_flops + other.gemm_flops,
            self.fft_flops + other.fft_flops,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
        )


@open_function("Ask for a structured matrix")
def explain(A: StructuredMatrix, x: Any, axis: int | None = None, limits: Any = None) -> Explanation:
    """What A @ x does: route, order of the factors, merges, flops, bytes, expected time and share of the machine's limit.

    x: an array, or only its shape. axis: the one of x that A acts along, -1 or -2; by default that of A @ x, and
    axis=-1 is A.apply(x) for rows. limits: what one core can do, `Limits()` by default, `Limits.measured()` for this machine.
    For a matrix of arrays on a GPU both are those of one GPU, derived and not measured. Nothing is computed or allocated.
    Raises ShapeError where x does not fit.

    >>> import numpy as np, sepmat as sm
    >>> print(sm.explain(sm.Kronecker(*[np.eye(8)] * 4), (4096, 16)))
    Kronecker(8×8 ⊗ 8×8 ⊗ 8×8 ⊗ 8×8) @ x (4096, 16), float64
      route  4 factors one after the other
             factor 3: 8×8 on 512 × (8, 16), a GEMM for each of 512
             factor 2: 8×8 on 64 × (8, 128), a GEMM for each of 64
             factor 1: 8×8 on 8 × (8, 1024), a GEMM for each of 8
             factor 0: 8×8 on 1 × (8, 8192), one GEMM F y
      work   4.2 M flop, 1.1 MB
      time   87.1 µs expected on one core, 56% of its limit (arithmetic)
    """
    shape, dtype = _what_of(x, A)
    kind: Any = Limits
    if _on_gpu(A):
        from .kernels.cuda.plan import Limits as kind
    if limits is not None and not isinstance(limits, kind):
        got, expected = f"a {type(limits).__name__}", f"{kind.__module__}.Limits(...) or None"
        advice = (
            "Use Limits() or Limits.measured()" if kind is Limits else "Use H100, H200 or Limits(...) of that module"
        )
        raise DTypeError("explain", "limits", got, expected, advice)
    if not shape:
        raise ShapeError("explain", "x", "a scalar", "an array or its shape", "Use 2 * A to scale")
    if axis is None:
        axis = -1 if len(shape) == 1 else -2
    if isinstance(axis, bool) or not isinstance(axis, numbers.Integral) or axis not in (-1, -2) or -axis > len(shape):
        raise ArgumentError("explain", "axis", repr(axis), "-1, or -2 for two axes or more", "Reshape x first")
    if shape[axis] != A.shape[1]:
        expected = f"length {A.shape[1]} along axis {axis}: A is {A._name()}"
        raise ShapeError("explain", "x", f"shape {shape}", expected, "Check the sizes")
    found = A.xp.result_type(A.dtype, dtype)
    halves = not A._is_complex and A.xp.isdtype(found, "complex floating")  # real and imaginary part apart
    A, times = A._in_precision(found), 2 if halves else 1
    host = A._twin() if A._tensors and A._suits_numpy(shape, axis) else None
    work = explain.rule(A if host is None else host, shape, axis)
    what = "@ x" if axis == -2 or len(shape) == 1 else "applied to the rows of x"
    said = f"{A._name()} {what} {shape}, {_array.dtype_name(A.dtype)}"
    return Explanation(
        said + (", real and imaginary part apart" if times == 2 else ""),
        work.route,
        work.steps,
        times * work.gemm_flops,
        times * work.fft_flops,
        times * work.bytes,
        kind() if limits is None else limits,
        times * work.seconds,
        kind_of(A.dtype),
    )


def _on_gpu(A: StructuredMatrix) -> bool:
    arrays = A.arrays()
    return bool(arrays) and _array.on_gpu(arrays[0])


def _what_of(x: Any, A: StructuredMatrix) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of x as A @ x takes it; a shape alone is meant in the dtype of A."""
    if isinstance(x, (tuple, list)) and all(isinstance(n, numbers.Integral) for n in x):
        return tuple(_check.as_integer(n, "explain", f"x[{i}]", 0) for i, n in enumerate(x)), A.dtype
    x = _check.as_array(x, "explain", "x", like=A.arrays()[0])
    return tuple(int(n) for n in x.shape), x.dtype


def _count(n: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} "[:-1]


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


# rules ----------------------------------------------------------------------------------------------------------------------


def _say(step: plan.Step, name: str = "factor") -> str:
    """One step in words."""
    how = {
        "from the right": "one GEMM y Fᵀ",
        "rows": f"y Fᵀ in panels of {step.width} rows",
        "from the left": "one GEMM F y",
        "batched": f"a GEMM for each of {step.left}",
        "panels": f"in panels of {step.width} columns",
        "row panels": f"F in panels of {step.width} rows",
    }[step.form]
    return f"{name} {step.factor}: {step.m}×{step.n} on {step.left} × ({step.n}, {step.right}), {how}"


def _vectors(A: StructuredMatrix, shape: tuple[int, ...]) -> int:
    return math.prod(shape) // max(1, A.shape[1])


def _streamed(A: StructuredMatrix, shape: tuple[int, ...], route: str, passes: int, flops: int, stored: int) -> Work:
    """Work that only moves numbers."""
    kind = kind_of(A.dtype)
    moved = SIZE[kind] * (passes * math.prod(shape) + stored)
    return Work(route, (), REAL[kind] * flops, 0, moved, plan.STEP + moved * plan.COPY_CACHED)


@explain.register
def _(A: StructuredMatrix, shape: tuple[int, ...], axis: int) -> Work:
    work = _streamed(A, shape, "by the routine of its class: operations are not counted", 1, 0, A.num_parameters)
    return dataclasses.replace(work, bytes=work.bytes + SIZE[kind_of(A.dtype)] * A.shape[0] * _vectors(A, shape))


@explain.register
def _(A: Dense, shape: tuple[int, ...], axis: int) -> Work:
    (m, n), kind = A.shape, kind_of(A.dtype)
    left, right = plan.sides(shape, axis)
    form = "from the right" if right == 1 else "from the left" if left == 1 else "batched"
    step = plan.Step(0, m, n, left, right, form, 0)
    flops = REAL[kind] * step.flops
    moved = SIZE[kind] * (m * n + step.numbers)
    return Work(
        "one GEMM" if right == 1 or left == 1 else f"{left} GEMMs", (), flops, 0, moved, plan.seconds(step, kind)
    )


@explain.register
def _(A: Diagonal, shape: tuple[int, ...], axis: int) -> Work:
    return _streamed(A, shape, "every entry times one of the diagonal", 2, math.prod(shape), A.shape[0])


@explain.register
def _(A: Identity, shape: tuple[int, ...], axis: int) -> Work:
    return _streamed(A, shape, "a copy", 2, 0, 0)


@explain.register
def _(A: LowRank, shape: tuple[int, ...], axis: int) -> Work:
    V, U = Dense._of(array=A.xp.matrix_transpose(A.V)), Dense._of(array=A.U)
    return _chained("first V, then U", [V, U], shape, axis)


def _chained(route: str, matrices: Sequence[StructuredMatrix], shape: tuple[int, ...], axis: int) -> Work:
    """One matrix after the other."""
    total = Work(route)
    for B in matrices:
        work = explain.rule(B, shape, axis)
        said = (f"{B._name()}: {work.route}", *(f"  {step}" for step in work.steps))
        total = total + dataclasses.replace(work, steps=said)
        shape = (*shape[:-1], B.shape[0]) if axis == -1 else (*shape[:-2], B.shape[0], shape[-1])
    return total


@explain.register
def _(A: Product, shape: tuple[int, ...], axis: int) -> Work:
    return _chained(f"{len(A.factors)} factors, from the right", A.factors[::-1], shape, axis)


@explain.register
def _(A: Scaled, shape: tuple[int, ...], axis: int) -> Work:
    work = _chained("the matrix, then the scale", [A.matrix], shape, axis)
    return work + _streamed(A, (A.shape[0], _vectors(A, shape)), "", 2, A.shape[0] * _vectors(A, shape), 0)


@explain.register
def _(A: Sum, shape: tuple[int, ...], axis: int) -> Work:
    return _summed(f"{len(A.terms)} terms, added up", A.terms, A, shape, axis)


def _summed(
    route: str, terms: Sequence[StructuredMatrix], A: StructuredMatrix, shape: tuple[int, ...], axis: int
) -> Work:
    total = Work(route)
    for B in terms:
        total = total + _chained("", [B], shape, axis)
    out = A.shape[0] * _vectors(A, shape)
    for _ in terms[1:]:
        total = total + _streamed(A, (out,), "", 3, out, 0)
    return total


@explain.register
def _(A: Kronecker, shape: tuple[int, ...], axis: int) -> Work:
    p = A._plan(shape, axis)
    if p is not None:
        return _of_passes(A, A._sizes[0], 1, shape, axis) if _on_gpu(A) else _of_chain(p)
    left, right = plan.sides(shape, axis)
    total, shapes = Work(f"{len(A.factors)} factors one after the other"), tuple(B.shape for B in A.operators)
    for step in plan.steps(shapes, left, right):
        B = A.operators[step.factor]
        inner = (step.left, step.n) if step.right == 1 else (step.left, step.n, step.right)
        work = explain.rule(B, inner, -1 if step.right == 1 else -2)
        said = f"factor {step.factor}: {B._name()} on {step.left} × ({step.n}, {step.right}): {work.route}"
        total = total + dataclasses.replace(work, steps=(said,))
    return total


def _of_passes(
    A: StructuredMatrix, shapes: tuple[tuple[int, int], ...], terms: int, shape: tuple[int, ...], axis: int
) -> Work:
    """The plan of a GPU."""
    from .kernels.cuda import plan as gpu

    left, right = plan.sides(shape, axis)
    p = gpu.plan(shapes, left, _array.dtype_name(A.dtype), terms, right)
    lines = []
    for step in p.passes:
        i, j = step.modes
        name = f"factor {i}" if j == i + 1 else f"factors {i} to {j - 1}"
        how = (
            "by the fused kernel" if step.kind == "kernel" else "by GEMMs" if j == i + 1 else "multiplied out, by GEMMs"
        )
        lines.append(f"{name}: {step.m}×{step.n} on {step.left} × ({step.n}, {step.right}), {how}")
    passes = "one pass" if len(lines) == 1 else f"{len(lines)} passes"
    of = f"{terms} terms in " if terms > 1 else ""
    return Work(f"{of}{passes} over x", tuple(lines), p.flops, 0, p.bytes, p.seconds)


def _of_chain(p: plan.Chain) -> Work:
    lines = [
        f"factors {i} to {j - 1} multiplied out: {m}×{n}"
        for (i, j), (m, n) in zip(p.groups, p.shapes, strict=True)
        if j > i + 1
    ]
    name = "factor" if not lines else "merged factor"
    if p.in_slabs:
        two = p.rows and p.columns
        route = f"{len(p.shapes)} factors " + (
            "in two passes over x, on slabs that stay in L2" if two else "one after the other, on slabs of x"
        )
        first = plan.steps(p.shapes[p.split :], p.rows, p.right)
        second = plan.steps(p.shapes[: p.split], 1, p.columns)
        if first:
            lines += [f"{p.rows} rows at a time:"]
            lines += [f"  {_say(s._replace(factor=s.factor + p.split), name)}" for s in first]
        if second:
            lines += [f"{p.columns} columns at a time:", *(f"  {_say(s, name)}" for s in second)]
    else:
        one = "the dense matrix" if len(p.groups) == 1 < p.groups[0][1] else "1 factor"
        route = one if len(p.shapes) == 1 else f"{len(p.shapes)} factors one after the other"
        lines += [_say(s, name) for s in p.steps]
    return Work(route, tuple(lines), p.flops, 0, p.bytes, p.seconds)


@explain.register
def _(A: KroneckerSum, shape: tuple[int, ...], axis: int) -> Work:
    left, right = plan.sides(shape, axis)
    sizes, total, kind = A.sizes, Work(f"{len(A.factors)} factors, each on its own, added up"), kind_of(A.dtype)
    for i, F in enumerate(A.factors):
        before, after = left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right
        B, inner = as_operator(F), (before, sizes[i]) if after == 1 else (before, sizes[i], after)
        work = explain.rule(B, inner, -1 if after == 1 else -2)
        said = f"factor {i}: {sizes[i]}×{sizes[i]} on {before} × ({sizes[i]}, {after}): {work.route}"
        total = total + dataclasses.replace(work, steps=(said,))
    out = A.shape[0] * _vectors(A, shape)
    moved = 3 * out * SIZE[kind] * (len(A.factors) - 1)
    flops = (len(A.factors) - 1) * out * (2 if REAL[kind] == 4 else 1)
    return total + Work("", (), flops, 0, moved, moved * plan.COPY_CACHED)


@explain.register
def _(A: Separated, shape: tuple[int, ...], axis: int) -> Work:
    if A.terms and _on_gpu(A):
        return _of_passes(A, A.shapes, A.terms, shape, axis)
    groups, q = A._plan(shape, axis)
    if q is None:
        left, right = plan.sides(shape, axis)
        work = _of_chain(plan.chain(plan.merged_shapes(A.shapes, groups), left, right, A._kind))
        return dataclasses.replace(work, route=f"{A.terms} terms as one: {work.route}") if A.terms else Work("zeros")
    merges = [f"factors {i} to {j - 1} multiplied out" for i, j in groups if j > i + 1]
    slabs = "" if len(q.slabs) == 1 else f", {q.slab} {'rows of x' if q.left > 1 else 'rows of factor 0'} at a time"
    route = f"{q.terms} terms at once: one step for each factor{slabs}"
    return Work(route, (*merges, *(_say(s) for s in q.part(q.slab))), q.flops, 0, q.bytes, q.seconds)


def _of_transform(p: plan_fft.Transform) -> Work:
    if p.route == "dense":
        steps = (f"made by the first product, {_check.readable(p.m * p.n * SIZE[p.kind])}",)
        return Work("the dense matrix, remembered", steps, p.flops, 0, p.bytes, p.seconds)
    real = "real" if REAL[p.kind] == 1 else "complex"
    return Work(f"{p.transforms} {real} FFTs of length {p.length} a vector", (), 0, p.flops, p.bytes, p.seconds)


def _by_plan(A: Any, shape: tuple[int, ...], axis: int) -> Work:
    return _of_transform(A._plan(shape, axis))


for _cls in (Toeplitz, Hankel, Circulant, SkewCirculant, LowDisplacementRank):
    explain.rules[_cls] = _by_plan


def _levels(A: Any, shape: tuple[int, ...], axis: int) -> Work:
    sizes = A.sizes if isinstance(A, MultilevelCirculant) else tuple(int(n) for n in A.t.shape)
    kind, vectors, N = kind_of(A.dtype), _vectors(A, shape), math.prod(sizes)
    flops = sum(2 * N // max(1, n) * fft_flops(n, kind) for n in sizes)
    seconds = vectors * sum(2 * N // max(1, n) * plan_fft.fft_cost(max(1, n), kind) for n in sizes) / plan_fft.FFT_ONE
    moved = SIZE[kind] * (sum(A.shape) * vectors + N)
    route = f"2 FFTs along each of {len(sizes)} modes, " + "×".join(map(str, sizes))
    return Work(route, (), 0, round(vectors * flops), moved, len(sizes) * plan_fft.TRANSFORM + seconds)


explain.rules[MultilevelCirculant] = explain.rules[MultilevelToeplitz] = _levels
