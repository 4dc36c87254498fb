"""The same product by a route that is forced: the kernel wherever there is one, or GEMMs alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sepmat import _array
from sepmat.kernels.cuda import chain as passes
from sepmat.kernels.cuda import plan as planning
from sepmat.kernels.plan import sides
from studies._gpu_cases import Shapes

KERNEL, MERGED = "kernel", "merged plan"
GEMMS = {"float32": 1e6, "float64": 1e6, "plain64": 1e6}
SLOW_GEMMS = dataclasses.replace(planning.H100, **GEMMS, issued=1e9)  # only the kernel pays


def route(which: str, shapes: Shapes, rows: int, dtype: str, terms: int = 1, columns: int = 1) -> planning.Plan:
    """The plan that has GEMMs alone, that has the kernel wherever there is one, or that the library makes for itself."""
    limits = SLOW_GEMMS if which == KERNEL else planning.H100
    return planning.plan(shapes, rows, dtype, terms, columns, limits, kernels=which != MERGED)


def forced(which: str, factors: Sequence[Any], x: Any, axis: int, summed: bool) -> Any:
    """A product of CuPy arrays by this route, whatever the library would choose."""
    shapes, (left, right) = tuple(tuple(F.shape[-2:]) for F in factors), sides(x.shape, axis)
    terms = factors[0].shape[0] if summed else 1
    p = route(which, shapes, left, _array.dtype_name(x.dtype), terms, right)
    if which == KERNEL and "kernel" not in p.route:
        raise ValueError("there is no kernel for these sides")
    if summed:
        return passes.separated(p, factors, None, x, axis, products())
    return passes.kron(p, factors, x, axis, products())


def products() -> Any:
    """What the passes of a plan are made of, on CuPy arrays."""
    from sepmat.kernels.cuda import rows

    return rows.CuPyProducts()
