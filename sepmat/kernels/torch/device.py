"""Sums of Kronecker products on tensors of a GPU: one operator; there it is the compiled kernel or merged GEMMs, by the plan.

    y[o, :, i] = Σ_l (F_1[l] ⊗ … ⊗ F_d[l]) x[o, :, i]        x (outer, Π n_k, inner), F_k (terms, m_k, n_k)

The passes are those of kernels/cuda/plan.py, by sizes alone. The kernel is launched with pointers on torch's current stream, and
all memory is torch's: side streams, graphs and the caching allocator stay in order. Where there is no kernel (the CPU, a machine
without CuPy) the plan is one of GEMMs.

Derivatives are made of the operator itself and of GEMMs, so every order of them is right: in x with the transposed factors,
in the factors by halves (`factor_gradients`).
"""

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cuda import chain, launch, plan
from ..cuda.specialise import Specialisation
from . import derivative, one_by_one, operator
from .kron import outer_sum, product

Launch = Callable[..., None]  # launch.launch without the module
Shapes = Sequence[tuple[int, int]]

DTYPES = (torch.float32, torch.float64)  # what the kernel is compiled for
LIMITS = plan.H100  # of the device, for the plans


def launches(device: torch.device) -> Launch | None:
    """How the kernel is launched on torch's current stream of a device; None where there is no kernel."""
    return _on_stream(device.index) if device.type == "cuda" and _has_cupy() else None


@functools.cache
def _has_cupy() -> bool:
    return importlib.util.find_spec("cupy") is not None


@functools.cache
def _on_stream(device: int) -> Launch:
    cupy = launch.import_cupy("torch")

    def run(spec: Specialisation, *arguments: int, **options: int) -> None:
        with cupy.cuda.Device(device), _stream(torch.cuda.current_stream(device).cuda_stream, device):
            launch.launch(launch.module(spec), spec, *arguments, **options)

    return run


@functools.lru_cache(maxsize=256)
def _stream(pointer: int, device: int) -> Any:
    """CuPy's name for a stream of torch; it is entered where its device is the current one."""
    return launch.import_cupy("torch").cuda.Stream.from_external(_Foreign(pointer))


class _Foreign:
    """A stream by its address: CuPy 14 wants the CUDA stream protocol, and ExternalStream warns that it goes."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


class _Products(chain.Products):
    """The passes of a plan on tensors; the kernel reads the packed factors where they are."""

    def __init__(self, run: Launch | None, factors: Tensor, shapes: Shapes, transposed: bool) -> None:
        self.run, self.factors, self.transposed = run, factors, transposed
        self.starts = (0, *itertools.accumulate(m * n for m, n in shapes))

    def one(self, F: Tensor, y: Tensor, left: int, right: int) -> Tensor:
        return product(F, y, left, right)

    def each(self, F: Tensor, y: Tensor, left: int, right: int) -> Tensor:
        y = y.reshape(left, F.shape[2], F.shape[0], right)
        return torch.stack([product(F[l], y[:, :, l], left, right) for l in range(F.shape[0])], dim=1)

    def kernel(self, step: plan.Pass, factors: Sequence[Tensor], y: Tensor) -> Tensor:
        """One launch, or in the middle of a sum one for each term."""
        spec, (i, j), terms = step.specialisation, step.modes, self.factors.shape[0]
        if spec is None or self.run is None:
            return super().kernel(step, factors, y)
        packed = self.factors[:, self.starts[i] : self.starts[j]].contiguous()
        x, out = y.contiguous(), y.new_empty(spec.results(terms), step.left, step.m, step.right)
        addresses = [t.data_ptr() for t in (x, packed, out)]
        self.run(spec, *addresses, step.left, step.right, terms, transposed=int(self.transposed))
        return out


# the operator -----------------------------------------------------------------------------------------------------------


def separated(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """y[o, :, i] = Σ_l (F_1[l] ⊗ … ⊗ F_d[l]) x[o, :, i] for factors (terms, m_k, n_k) and x (outer, Π n_k, inner), any strides."""
    packed = torch.cat([F.flatten(1) for F in factors], dim=1)
    return kronecker(packed, x, [side for F in factors for side in F.shape[1:]], False)


def _shapes(sides: Sequence[int], transposed: bool = False) -> tuple[tuple[int, int], ...]:
    """The shapes of the factors that x meets."""
    rows, columns = (sides[1::2], sides[::2]) if transposed else (sides[::2], sides[1::2])
    return tuple(zip(rows, columns, strict=True))


def _unpacked(factors: Tensor, sides: Sequence[int], transposed: bool) -> list[Tensor]:
    """The factors that x meets, (terms, m_k, n_k)."""
    pairs = _shapes(sides)
    parts = factors.split([m * n for m, n in pairs], dim=1)
    found = [part.unflatten(1, pair) for part, pair in zip(parts, pairs, strict=True)]
    return [F.mT for F in found] if transposed else found


def _folded(op: Any) -> Callable[..., Any]:
    """vmap: a batch of x is more of `outer`; where factors have one, the slices are taken one after the other."""
    each = one_by_one(op)

    def run(info: Any, in_dims: tuple[Any, ...], factors: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        if in_dims[0] is not None or in_dims[1] is None:
            return each(info, in_dims, factors, x, *rest)
        x = x.movedim(in_dims[1], 0)
        return op(factors, x.flatten(0, 1), *rest).unflatten(0, x.shape[:2]), 0

    return run


def _like_result(factors: Tensor, x: Tensor, sides: Sequence[int], transposed: bool) -> Tensor:
    return x.new_empty(x.shape[0], _full(_shapes(sides, transposed))[0], x.shape[2])


@operator(_like_result, _folded)
def kronecker(factors: Tensor, x: Tensor, sides: Sequence[int], transposed: bool) -> Tensor:
    """`separated` on factors as the kernel reads them: (terms, Σ m_k n_k), row by row; sides: m_1, n_1, m_2, n_2, …

    transposed: by the transposes of the factors, x (outer, Π m_k, inner).
    """
    shapes, terms, (outer, _, inner) = _shapes(sides, transposed), factors.shape[0], x.shape
    if not (terms and x.numel() and all(m for m, _ in shapes)):
        return _like_result(factors, x, sides, transposed).zero_()
    run = launches(x.device)
    p = plan.plan(shapes, outer, str(x.dtype).removeprefix("torch."), terms, inner, LIMITS, run is not None)
    products, y = _Products(run, factors, shapes, transposed), x
    if all(step.kind == "kernel" for step in p.passes):
        for step in p.passes:
            y = products.kernel(step, (), y)
    else:
        found = _unpacked(factors, sides, transposed)
        if terms == 1:
            y = chain.kron(p, [F[0] for F in found], x, -2, products)
        else:
            y = chain.separated(p, found, None, x, -2, products)
    return y.reshape(outer, -1, inner).contiguous()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    factors, x, ctx.sides, ctx.transposed = inputs
    ctx.save_for_backward(factors, x if ctx.needs_input_grad[0] else None)


@derivative(kronecker, _keep)
def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (factors, x), sides, transposed = ctx.saved_tensors, ctx.sides, ctx.transposed
    total = dx = None
    if ctx.needs_input_grad[1]:
        dx = kronecker(factors, g, sides, not transposed)
    if ctx.needs_input_grad[0]:
        x, g = (g, x) if transposed else (x, g)  # gᵀ Fᵀ x = xᵀ F g
        shapes = _shapes(sides)
        if len(shapes) == 2 and factors.shape[0]:
            total = _gradients_of_pairs(factors, x, g, shapes)
        else:
            terms = [torch.cat(factor_gradients(F[None], x, g, shapes)) for F in factors]
            total = torch.stack(terms) if terms else factors
    return total, dx, None, None


def factor_gradients(factors: Tensor, x: Tensor, g: Tensor, shapes: Shapes) -> list[Tensor]:
    """The gradients of the factors (1, Σ m_k n_k) of one product, each flat, from that of its result, g (outer, Π m_k, inner).

    By halves: the first factors meet g and the last ones applied to x, the last ones meet x and the transposed first ones
    applied to g. For d factors 2 ⌈log2 d⌉ products of the size of x, and a GEMM for each factor.
    """
    if len(shapes) == 1:
        return [outer_sum(g, x).reshape(-1)]
    halves = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    head, tail = factors.split([sum(a * b for a, b in half) for half in halves], dim=1)
    first, last = map(_flat, halves)
    (m, n), (p, q), (outer, _, inner) = _full(halves[0]), _full(halves[1]), x.shape
    x, g = x.reshape(outer * n, q, inner), g.reshape(outer, m, p * inner)
    y, z = kronecker(tail, x, last, False), kronecker(head, g, first, True)
    found = factor_gradients(head, y.reshape(outer, n, p * inner), g, halves[0])
    return found + factor_gradients(tail, x, z.reshape(outer * n, p, inner), halves[1])


def _gradients_of_pairs(factors: Tensor, x: Tensor, g: Tensor, shapes: Shapes) -> Tensor:
    """The gradient of packed factors, two a term: all last ones in one tall matrix, all first ones in one wide one, four GEMMs."""
    (first, last), terms, (outer, _, inner) = _unpacked(factors, _flat(shapes), False), factors.shape[0], x.shape
    (m, n), (p, q) = shapes
    x, g = x.reshape(outer * n, q, inner), g.reshape(outer, m, p * inner)
    y = product(last.reshape(terms * p, q), x, outer * n, inner).reshape(outer, n * terms, p * inner)
    z = product(first.permute(2, 0, 1).reshape(n * terms, m), g, outer, p * inner).reshape(outer * n, terms * p, inner)
    d_first = outer_sum(g, y).reshape(m, n, terms).permute(2, 0, 1)
    return torch.cat([d_first.reshape(terms, m * n), outer_sum(z, x).reshape(terms, p * q)], dim=1)


def _flat(shapes: Shapes) -> list[int]:
    return [side for pair in shapes for side in pair]


def _full(shapes: Shapes) -> tuple[int, int]:
    """The shape of the Kronecker product of matrices of these shapes."""
    return math.prod(m for m, _ in shapes), math.prod(n for _, n in shapes)
