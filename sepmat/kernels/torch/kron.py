"""Kronecker products, and sums of those of two factors, on rows of real tensors, with a backward of their own.

Rows are taken a few at a time, so that what stands between two factors stays in the cache. The backward keeps x and the
factors and forms the rest anew, chunk by chunk: a GEMM or a batch of them for each factor, and two more back.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference import mode_product
from . import derivative, operator

# Bytes of the longest rows that are taken together.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


def _steps(factors: Sequence[Tensor], length: int, afters: Sequence[int]) -> list[tuple[Tensor, int, int]]:
    """(F, before, after) for each factor: it meets a row viewed as (before, columns of F, after)."""
    found = []
    for F, after in zip(factors, afters, strict=True):
        before = length // (F.shape[1] * after)
        found.append((F, before, after))
        length = before * F.shape[0] * after
    return found


def _result_length(factors: Sequence[Tensor], length: int) -> int:
    for F in factors:
        length = length // F.shape[1] * F.shape[0]
    return length


def _chunks(steps: Sequence[tuple[Tensor, int, int]], x: Tensor) -> Iterator[slice]:
    longest = max(before * after * max(F.shape) for F, before, after in steps)
    step = max(8, CHUNK.get(x.device.type, CHUNK["cuda"]) // (x.element_size() * longest))
    for i in range(0, x.shape[0], step):
        yield slice(i, i + step)


@operator(lambda factors, x, afters: x.new_empty(x.shape[0], _result_length(factors, x.shape[1])))
def chain(factors: Sequence[Tensor], x: Tensor, afters: Sequence[int]) -> Tensor:
    """The factors one after the other on the rows of x: each along the middle axis of rows viewed as (·, n, after)."""
    steps = _steps(factors, x.shape[1], afters)
    y = x.new_empty(x.shape[0], _result_length(factors, x.shape[1]))
    for rows in _chunks(steps, x):
        part = x[rows]
        count = part.shape[0]
        for k, (F, before, after) in enumerate(steps):
            part = product(F, part, count * before, after, y[rows] if k == len(steps) - 1 else None)
    return y


def _like_gradients(
    factors: Sequence[Tensor], x: Tensor, g: Tensor, afters: Sequence[int], needs_x: bool
) -> list[Tensor]:
    return [*(torch.empty_like(F) for F in factors), x.new_empty(x.shape if needs_x else 0)]


@operator(_like_gradients)
def chain_backward(
    factors: Sequence[Tensor], x: Tensor, g: Tensor, afters: Sequence[int], needs_x: bool
) -> list[Tensor]:
    """(∂F for each factor, ∂x) of `chain`; ∂x is empty where nobody needs it."""
    steps = _steps(factors, x.shape[1], afters)
    half = x.dtype in (torch.float16, torch.bfloat16)
    totals = [torch.zeros_like(F, dtype=torch.float32 if half else F.dtype) for F in factors]
    dx = x.new_empty(x.shape if needs_x else 0)
    for rows in _chunks(steps, x):
        met, grad = [x[rows]], g[rows]
        count = grad.shape[0]
        for F, before, after in steps[:-1]:
            met.append(product(F, met[-1], count * before, after))
        for k, (F, before, after) in reversed(list(enumerate(steps))):
            left = count * before
            totals[k] += _outer(grad, met[k], left, after)
            if k or needs_x:
                grad = product(F.mT, grad, left, after, None if k else dx[rows])
    return [*(t.to(x.dtype) if half else t for t in totals), dx]


def product(F: Tensor, y: Tensor, left: int, right: int, out: Tensor | None = None) -> Tensor:
    """F along the middle axis of y viewed as (left, n, right), into out where it is given."""
    m, n = F.shape
    if right == 1:
        return torch.mm(y.reshape(left, n), F.mT, out=None if out is None else out.view(left, m))
    return torch.bmm(
        F.expand(left, m, n), y.reshape(left, n, right), out=None if out is None else out.view(left, m, right)
    )


def _outer(g: Tensor, y: Tensor, left: int, right: int) -> Tensor:
    """Σ_l g_l y_lᵀ for g and y viewed as (left, ·, right)."""
    if right == 1:
        return g.reshape(left, -1).mT @ y.reshape(left, -1)
    g, y = g.reshape(left, -1, right), y.reshape(left, -1, right)
    return outer_sum(g, y) if g.is_cuda else torch.bmm(g, y.mT).sum(dim=0)


def outer_sum(g: Tensor, y: Tensor) -> Tensor:
    """The same for g (left, m, right) and y (left, n, right), by what moves less: products that are added up, or both turned for one GEMM.

    On the CPU the products of a chunk stay in the cache.
    """
    (_, m, right), n = g.shape, y.shape[1]
    if not y.numel() or m * n <= (m + n) * right:
        return torch.bmm(g, y.mT).sum(dim=0)
    return g.mT.reshape(-1, m).mT @ y.mT.reshape(-1, n)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    factors, x, ctx.afters = inputs
    ctx.needs = [F.requires_grad for F in factors], x.requires_grad  # torch flattens its own list here
    ctx.length = x.shape[1]
    ctx.save_for_backward(x if any(ctx.needs[0]) else None, *factors)


@derivative(chain, _keep)
def _gradients(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (x, *factors), (needs_factors, needs_x) = ctx.saved_tensors, ctx.needs
    if torch.is_grad_enabled() or _batched(g):
        totals, dx = _plain_gradients(_steps(factors, ctx.length, ctx.afters), x, g, needs_x)
        return totals or [None] * len(factors), dx, None
    if not any(needs_factors):  # the transposes, in reverse
        backward = [F.mT for F in reversed(factors)]
        return [None] * len(factors), chain(backward, g, list(reversed(ctx.afters))), None
    *totals, dx = chain_backward(factors, x, g, ctx.afters, needs_x)
    return totals, dx if needs_x else None, None


def _plain_gradients(
    steps: Sequence[tuple[Tensor, int, int]], x: Tensor | None, g: Tensor, needs_x: bool
) -> tuple[list[Tensor], Tensor | None]:
    """(∂F for each factor, ∂x) in steps that are differentiable again and that vmap knows; no ∂F without x."""
    rows, met, totals, grad = g.shape[0], [x], [], g
    for F, before, after in steps[:-1] if x is not None else ():
        met.append(mode_product(F, met[-1], rows * before, after))
    for k, (F, before, after) in reversed(list(enumerate(steps))):
        if x is not None:
            totals.append(_outer(grad, met[k], rows * before, after))
        if k or needs_x:
            grad = mode_product(F.mT, grad, rows * before, after)
    return totals[::-1], grad.reshape(rows, -1) if needs_x else None


def _batched(g: Tensor) -> bool:
    """Whether g stands for a batch of gradients (is_grads_batched): lists of tensors have no rule there."""
    return bool(getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)(g))
