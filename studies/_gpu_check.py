"""Correctness on the device: every check of the grid against float64 NumPy, the outputs poisoned with NaN beforehand."""

import concurrent.futures
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from sepmat._bounds import BOUNDS, ROUNDOFF, componentwise
from studies import _gpu_cases, _gpu_data, _gpu_routes
from studies._gpu_device import Device, brief

KEPT = 10  # failures of a group that are written down


def specialisations(checks: Iterable[_gpu_cases.Check]) -> list[Any]:
    """The compiled kernels that these checks launch."""
    found = {}
    for check in checks:
        if check.library == "cupy" and check.dtype in ("float32", "float64") and check.kernel != _gpu_routes.MERGED:
            sides = (1, check.rows) if check.layout in ("columns", "transposed") else (check.rows, 1)
            which = _gpu_routes.KERNEL if check.kernel else ""
            p = _gpu_routes.route(which, check.shapes, sides[0], check.dtype, check.terms or 1, sides[1])
            found |= {step.specialisation: None for step in p.passes if step.specialisation}
    return list(found)


def compiled(specs: Sequence[Any], until: float) -> dict[str, Any]:
    """Compile so many kernels on all processors, as far as there is time: CuPy keeps them for those who launch them."""
    from sepmat.kernels.cuda.launch import module

    def one(spec: Any) -> str:
        if time.monotonic() >= until:
            return "no time"
        try:
            module(spec).compile()
        except Exception as error:  # noqa: BLE001  the check that launches it says so too
            return f"{spec.entry}: {brief(error)}"
        return ""

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(one, specs))
    failures = [text for text in said if text not in ("", "no time")]
    return {"compiled": said.count(""), "failures": failures[:KEPT], "seconds": time.perf_counter() - start}


def group(device: Device, checks: Sequence[_gpu_cases.Check], seed: int) -> dict[str, Any]:
    """All checks of a group: how many, the worst share of the limit and of bound B25, and what failed.

    parity: |ŷ − y| entry by entry over the hard bound of the product on the CPU; B25 allows twice of it.
    """
    found: dict[str, Any] = {"checks": 0, "worst": 0.0, "parity": 0.0, "failed": 0, "failures": []}
    start = time.perf_counter()
    for k, check in enumerate(checks):
        found["checks"] += 1
        try:
            error, parity = one(device, check, seed + k)
        except Exception as problem:  # noqa: BLE001  what a kernel raises is a result of the study
            error = parity = math.inf
            text = brief(problem)
        else:
            text = f"error {error:.1e}, {parity:.1f} × the bound"
        share = error / check.limit
        if share <= 1 and parity <= BOUNDS["B25"]():
            found["worst"], found["parity"] = max(found["worst"], share), max(found["parity"], parity)
        else:
            found["failed"] += 1
            found["failures"] += [f"{check}: {text}"] * (len(found["failures"]) < KEPT)
    device.release()
    return found | {"seconds": time.perf_counter() - start}


def one(device: Device, check: _gpu_cases.Check, seed: int) -> tuple[float, float]:
    """(the relative error, the largest entry of |ŷ − y| over the bound of the CPU) of one product on fresh numbers."""
    xp = device.cupy
    shapes = [(check.terms, *s) if check.terms else s for s in check.shapes]
    stacks = [_gpu_data.draw(xp, 32 * seed + i, s, check.dtype) for i, s in enumerate(shapes)]
    x = _gpu_data.draw(xp, 32 * seed + 31, (check.rows, check.columns), check.dtype)
    axis, x = laid_out(xp, x, check.layout)
    poison(xp, check.rows * check.results, check.dtype)
    y = run(device, check, stacks, x, axis)
    y = y if axis == -1 else y.T
    if tuple(y.shape) != (check.rows, check.results) or str(y.dtype) != check.dtype:
        raise ValueError(f"shape {tuple(y.shape)}, dtype {y.dtype}")
    if not bool(xp.isfinite(y).all()):
        raise ValueError("NaN or infinity: an output that was not written")
    chosen = _gpu_data.some(check.rows, max(check.columns, check.results))
    rows = np.asarray(xp.asnumpy(y[xp.asarray(chosen)]), complex if check.dtype.startswith("complex") else float)
    factors = [np.asarray(xp.asnumpy(F), rows.dtype) for F in stacks]
    given = _gpu_data.drawn_rows(32 * seed + 31, chosen, check.columns, check.dtype)
    multiply = _gpu_data.total if check.terms else _gpu_data.product
    truth, bound = multiply(factors, given), multiply([abs(F) for F in factors], abs(given))
    k = sum(n for _, n in check.shapes) + check.terms
    allowed = componentwise(k, check.dtype) * ROUNDOFF[check.dtype] * bound
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(allowed > 0, abs(rows - truth) / allowed, np.where(rows == truth, 0, np.inf))
    return _gpu_data.distance(rows, truth), float(np.max(ratio, initial=0.0))


def run(device: Device, check: _gpu_cases.Check, stacks: Sequence[Any], x: Any, axis: int) -> Any:
    """The product by the route that the check asks for, as an array of CuPy."""
    import sepmat as sm

    if check.kernel:
        return _gpu_routes.forced(check.kernel, stacks, x, axis, bool(check.terms))
    to: Callable[[Any], Any] = device.torch.from_dlpack if check.library == "torch" else lambda a: a
    A = sm.Separated([to(F) for F in stacks]) if check.terms else sm.Kronecker(*(to(F) for F in stacks))
    y = A @ to(x) if axis == -2 else to(x) @ A.T
    return device.cupy.from_dlpack(y) if check.library == "torch" else y


def laid_out(xp: Any, x: Any, layout: str) -> tuple[int, Any]:
    """(the axis of the product, the same numbers in another layout): columns, a transposed view, every other entry, unaligned."""
    rows, columns = x.shape
    if layout == "columns":
        return -2, xp.ascontiguousarray(x.T)
    if layout == "transposed":
        return -2, x.T
    if layout == "strided":
        wide = xp.full((rows, 2 * columns), math.nan, dtype=x.dtype)
        wide[:, ::2] = x
        return -1, wide[:, ::2]
    if layout == "offset":
        flat = xp.full(rows * columns + 1, math.nan, dtype=x.dtype)
        flat[1:] = x.reshape(-1)
        return -1, flat[1:].reshape(rows, columns)
    return -1, x


def poison(xp: Any, size: int, dtype: str) -> None:
    """Leave NaN in the block that the allocator's pool hands out next for so many numbers."""
    xp.full(size, math.nan, dtype=dtype)
