"""The steps of a plan on NumPy arrays: GEMMs in panels and slabs that stay in the cache, on arrays made once."""

import collections
import contextvars
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .. import _array
from . import plan


def run_step(F: Any, step: plan.Step, y: Any, out: Any = None) -> Any:
    """F along the middle axis of y, viewed as (left, n, right)."""
    _, m, n, left, right, form, _, gap = step
    if form == "batched" and right <= 8 < left and F.size <= 64 and y.dtype.char == "f":
        F = np.ascontiguousarray(F)  # by columns OpenBLAS takes twice as long for these, in single precision only
    if out is None and not gap:
        if form == "from the right":
            return _gemm(y.reshape(left, n), F.T)
        if form == "from the left":
            return _gemm(F, y.reshape(n, right))
        if form == "batched":
            return _array.gemm(F, y.reshape(left, n, right))
    if out is None:
        out = (_spaced(left, m * right, y.dtype) if gap else np.empty((left, m * right), y.dtype)).reshape(
            left, m, right
        )
    if form == "from the right":
        return _array.gemm(y.reshape(left, n), F.T, out=out.reshape(left, m))
    if form == "from the left":
        return _array.gemm(F, y.reshape(n, right), out=out.reshape(m, right))
    if form == "batched":
        return _array.gemm(F, y.reshape(left, n, right), out=out.reshape(left, m, right))
    return _ROUTES[form](F, y, out, step)


def _gemm(a: Any, b: Any) -> Any:
    """a b of two matrices (_array.gemm)."""
    return _array.gemm(a, b)


def _spaced(rows: int, length: int, dtype: Any) -> Any:
    """Room for rows that the next step reads in panels, one cache line apart.

    Rows of 512 bytes or a multiple would fall into the same few sets of the L1 cache.
    """
    return np.empty((rows, length + 64 // dtype.itemsize), dtype)[:, :length]


def _panels(F: Any, y: Any, out: Any, step: plan.Step) -> Any:
    """F on panels of w columns: GEMMs that OpenBLAS does without packing."""
    _, m, n, left, right, _, w, _ = step
    whole, full = out, right // w * w
    if full < right:
        y, out = y.reshape(left, n, right), out.reshape(left, m, right)
        np.matmul(F, y[..., full:], out=out[..., full:])
        y, out = y[..., :full], out[..., :full]
    y, out = y.reshape(left, n, full // w, w), out.reshape(left, m, full // w, w)
    np.matmul(F, y.transpose(0, 2, 1, 3), out=out.transpose(0, 2, 1, 3))
    return whole


def _rows(F: Any, y: Any, out: Any, step: plan.Step) -> Any:
    """y Fᵀ for many rows y and a small F, in panels of w rows."""
    _, m, n, left, _, _, w, _ = step
    FT, full = np.ascontiguousarray(F.T), left // w * w
    y, rows = y.reshape(left, n), out.reshape(left, m)
    np.matmul(y[:full].reshape(-1, w, n), FT, out=rows[:full].reshape(-1, w, m))
    if full < left:
        np.matmul(y[full:], FT, out=rows[full:])
    return out


def _row_panels(F: Any, y: Any, out: Any, step: plan.Step) -> Any:
    """w rows of F at a time, where y_l has so few columns that OpenBLAS would rather pack F than multiply by it."""
    _, m, n, left, right, _, w, _ = step
    F = np.ascontiguousarray(F) if left >= 16 else F  # panels of rows lie side by side then, which many slices pay for
    y, rows, full = y.reshape(left, n, right), out.reshape(left, m, right), m // w * w
    panels = rows[:, :full].reshape(left, full // w, w, right)
    np.matmul(F[:full].reshape(full // w, w, n), y[:, None], out=panels)
    if full < m:
        np.matmul(F[full:], y, out=rows[:, full:])
    return out


_ROUTES = {"panels": _panels, "rows": _rows, "row panels": _row_panels}


def run_chain(factors: Sequence[Any], p: plan.Chain, x: Any) -> Any:
    """F_1 ⊗ … ⊗ F_d on x viewed as (left, Π n_i, right), `factors` being those of the groups of the plan."""
    if p.in_slabs:
        return _in_slabs(factors, p, x)
    if p.room:
        return _by_turns(factors, p, x)
    for step in p.steps:
        x = run_step(factors[step.factor], step, x)
    return x


def _by_turns(factors: Sequence[Any], p: plan.Chain, x: Any) -> Any:
    """Step after step on all of x, all results but the last in the halves of one array in turn."""
    *first, last = p.steps
    room = np.empty(2 * p.room, np.uint8)
    for k, step in enumerate(first):
        m, left, right, length = step.m, step.left, step.right, plan.length(step, x.itemsize)
        rows = room[k % 2 * p.room :][: left * length * x.itemsize].view(x.dtype).reshape(left, length)
        x = run_step(factors[step.factor], step, x, rows[:, : m * right].reshape(left, m, right))
    return run_step(factors[last.factor], last, x)


def _run(factors: Sequence[Any], steps: Sequence[plan.Step], y: Any, out: Any = None, panel: int = 0) -> Any:
    """One step after the other. panel: y and out are columns cut out of longer rows, and their width."""
    last = len(steps) - 1
    for k, step in enumerate(steps):
        target = out if k == last else None
        if panel and (k == 0 or k == last):
            step = step._replace(form="panels", width=panel)
        y = run_step(factors[step.factor], step, y, target)
    return y


def _in_slabs(factors: Sequence[Any], p: plan.Chain, x: Any) -> Any:
    """The last factors on slabs of whole rows, then the first ones, in place where they are square, on slabs of columns."""
    head, tail = p.shapes[: p.split], p.shapes[p.split :]
    n, m = (math.prod(s[k] for s in head) for k in (1, 0))
    blocks, length = p.left * n, p.right * math.prod(s[0] for s in tail)
    y = x = x.reshape(blocks, -1)
    if tail:
        y = np.empty((blocks, length), x.dtype)

        def on_rows(i: int) -> None:
            j = min(i + p.rows, blocks)
            _run(factors[p.split :], plan.steps(tail, j - i, p.right), x[i:j], y[i:j])

        _in_threads(on_rows, range(0, blocks, p.rows), p.shared)
    if not head:
        return y
    y = y.reshape(p.left, n, length)
    z = y if tail and m == n else np.empty((p.left, m, length), x.dtype)

    def on_columns(at: tuple[int, int]) -> None:
        b, i = at
        j = min(i + p.columns, length)
        _run(factors, plan.steps(head, 1, j - i), y[b, :, i:j], z[b, :, i:j], j - i)

    _in_threads(on_columns, itertools.product(range(p.left), range(0, length, p.columns)), p.shared)
    return z


def _in_threads(run: Callable[[Any], None], slabs: Iterable[Any], shared: bool) -> None:
    """run of every slab: on the memory of tensors by as many threads as torch takes, where the plan lets them share.

    Slabs have their places in the result and are computed alike by every thread, so that bits do not depend on how many there are.
    """
    todo, failed = collections.deque(slabs), []

    def work() -> None:
        while todo:
            try:
                slab = todo.popleft()
            except IndexError:  # another thread was faster
                return
            run(slab)

    def help_out() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again by the thread that was asked
            failed.append(error)

    count = min(_array.threads_of_torch(), len(todo)) if shared else 1
    helpers = [threading.Thread(target=contextvars.copy_context().run, args=(help_out,)) for _ in range(count - 1)]
    try:
        for helper in helpers:
            helper.start()
        work()
    finally:
        todo.clear()
        for helper in helpers:
            helper.join()
    if failed:
        raise failed[0]


def run_terms(factors: Sequence[Any], p: plan.Terms, x: Any) -> Any:
    """Σ_l F_1[l] ⊗ … ⊗ F_d[l] on x viewed as (left, Π n_i, right), `factors` being stacks (terms, m_i, n_i)."""
    shapes, terms, left, right = p.shapes, p.terms, p.left, p.right
    (m, n), (q, r) = shapes[0], shapes[-1]
    first, last = factors[0], factors[-1]
    if p.forward:
        first, last = first.transpose(1, 0, 2).reshape(m * terms, n), last.transpose(1, 0, 2).reshape(q, terms * r)
    else:
        first, last = first.transpose(1, 2, 0).reshape(m, n * terms), last.reshape(terms * q, r)
    ends = (first, *factors[1:-1], last)
    if len(p.slabs) == 1:
        return _run_terms(ends, p.steps, terms, x)
    out = np.empty((p.slabs[-1][1], math.prod(m for m, _ in shapes) * left * right // p.slabs[-1][1]), x.dtype)
    x = x.reshape(left, -1)
    for i, j in p.slabs:
        if left > 1:
            _run_terms(ends, p.part(j - i), terms, x[i:j], out[i:j])
        else:
            _run_terms((first[i * terms : j * terms], *ends[1:]), p.part(j - i), terms, x, out[i:j])
    return out


def _run_terms(ends: Sequence[Any], steps: Sequence[plan.Step], terms: int, y: Any, out: Any = None) -> Any:
    """One step for each factor. The terms stand before the axis that comes next, on the way back behind it: nothing is moved."""
    head, *middle, tail = steps
    y = run_step(ends[head.factor], head, y)
    forward = head.factor == 0
    for i, m, n, left, right, *_ in middle:
        F, before = ends[i], left // terms
        if forward:
            z = np.empty((before, m, terms, right), y.dtype)
            _array.gemm(F, y.reshape(before, terms, n, right), out=z.transpose(0, 2, 1, 3))
            y = z
        else:
            y = _array.gemm(F, y.reshape(before, n, terms, right).transpose(0, 2, 1, 3))
    return run_step(ends[tail.factor], tail, y, out)
