"""Powers of two: exact changes of scale, by which products and norms stay in the range of their dtype."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .libraries import (
    Array,
    array_namespace,
    astype,
    device,
    dtype_name,
    is_complex,
    is_numpy,
    is_torch,
    real_dtype,
    size,
)
from .values import readable, stop_gradient, to_float, to_numpy


def power_of_two(x: Array, axis: int | None = None) -> Array:
    """2^k with max|x| / 2^k in [1, 2); 1 where x is empty, zero or not finite. No gradient.

    A 0-d array of the real dtype; with an axis one number for each slice along it, the axis kept with size 1.
    """
    xp, x = array_namespace(x), stop_gradient(x)
    if axis is None and size(x) and xp.isdtype(x.dtype, "real floating"):
        return binade(xp.maximum(xp.max(x), -xp.min(x)))  # without an array of moduli
    x = xp.abs(x)
    if size(x):
        top = xp.max(x) if axis is None else xp.max(x, axis=axis, keepdims=True)
    else:
        top = xp.sum(x) if axis is None else xp.sum(x, axis=axis, keepdims=True)
    return binade(top)


def sum_of_squares(x: Array) -> float | None:
    """Σ |x|² in the precision of x, or None where the host would have to wait for it. No gradient."""
    if is_torch(x):
        if x.device.type != "cpu" or not readable(x):
            return None
        flat = x.detach().reshape(-1)
        return float(flat.vdot(flat).real if flat.is_complex() else flat.dot(flat))
    if not is_numpy(x):
        return None
    flat = x if x.ndim == 1 else x.ravel(order="K")
    if flat.size <= _DOT:
        return float(np.vdot(flat, flat).real)
    rows = flat[: flat.size // _DOT * _DOT].reshape(-1, _DOT)
    rest = flat[rows.size :]
    return float(np.vdot(rest, rest).real + np.vecdot(rows, rows).real.sum())


_DOT = (
    2**13
)  # numbers of one dot product: from 10,001 OpenBLAS wakes its threads, which takes 4 ms where those of torch spin


def binade(size: Array) -> Array:
    """The largest power of two <= size, elementwise; 1 where size is zero or not finite."""
    xp = array_namespace(size)
    usable = xp.logical_and(size > 0, xp.isfinite(size))
    limit = math.floor(math.log2(float(xp.finfo(size.dtype).max))) - 1
    exponent = xp.floor(xp.log2(xp.where(usable, size, xp.ones_like(size))))
    exponent = xp.clip(exponent, -float(limit), float(limit))
    return xp.pow(xp.asarray(2.0, dtype=size.dtype, device=device(size)), exponent)


@functools.cache
def _largest(dtype: Any) -> int:
    """The k of the largest power of two that `binade` gives for a dtype of NumPy."""
    return math.floor(math.log2(float(np.finfo(dtype).max))) - 1


def _range(dtype: Any) -> int:
    """Powers of two that numbers of a dtype hold with room to spare."""
    return {"float64": 900, "complex128": 900, "float16": 12}.get(dtype_name(dtype), 100)


def ldexp(x: Array, exponent: int) -> Array:
    """x 2^exponent, exactly, in steps that stay inside the range of the dtype."""
    if not exponent:
        return x
    step = _range(x.dtype)
    while exponent:
        part = max(-step, min(step, exponent))
        x, exponent = x * 2.0**part, exponent - part
    return x


def exponent(x: Array) -> int:
    """k with 2^k = power_of_two(x); 0 where the host may not look at x."""
    if is_numpy(x):  # without arrays of powers, which take ten times as long for a small x
        if not x.size:
            return 0
        top = float(np.abs(x).max() if x.dtype.kind == "c" else max(x.max(), -x.min()))
        limit = _largest(x.dtype)
        return max(-limit, min(math.frexp(top)[1] - 1, limit)) if 0 < top < math.inf else 0
    return round(math.log2(to_float(power_of_two(x)))) if readable(x) else 0


def balanced(stacks: Sequence[Array], beyond: int | None = None) -> tuple[tuple[Array, ...], int]:
    """Stacks of arrays, of which slice l of each is multiplied with slice l of the others, with even exponents.

    A factor of 1e200 beside one of 1e-200 makes products leave the range on the way to a result that is in it. Every
    slice is multiplied by a power of two so that all its partners share their common exponent; what that share
    cannot hold is returned, and the product still needs it. Nothing changes where partial products stay within
    2^±beyond (64 in float64, 7 in float32: room for the vectors they meet), nor where a gradient is required or the host
    may not look.
    """
    stacks = tuple(stacks)
    if any(is_torch(a) and (a.requires_grad or not readable(a)) for a in stacks) or not all(a.shape[0] for a in stacks):
        return stacks, 0
    limit = _range(stacks[0].dtype)
    beyond = limit // 14 if beyond is None else beyond
    if all(a.shape[0] == 1 for a in stacks):  # plain numbers: arrays of them cost more than small factors
        single = [exponent(a) for a in stacks]
        if sum(map(abs, single)) + abs(sum(single)) <= 2 * beyond:
            return stacks, 0
    exponents = np.stack([np.log2(to_numpy(_slice_sizes(a))) for a in stacks])
    if np.all(np.sum(np.abs(exponents), axis=0) + np.abs(np.sum(exponents, axis=0)) <= 2 * beyond):
        return stacks, 0
    total = np.sum(exponents, axis=0)
    share = np.clip(total, -limit, limit)
    targets = np.floor(share / len(stacks)) * np.ones_like(exponents)
    left = int(np.max(total - share))
    targets[0] += share - np.sum(targets, axis=0) + (total - share - left)
    return tuple(_shifted(a, t - k) for a, t, k in zip(stacks, targets, exponents, strict=True)), left


def _slice_sizes(stack: Array) -> Array:
    """power_of_two of every slice along the first axis."""
    xp = array_namespace(stack)
    count = stack.shape[0]
    return power_of_two(xp.reshape(stack, (count, math.prod(stack.shape[1:]))), axis=1)[:, 0]


def _shifted(stack: Array, exponents: Any) -> Array:
    """Slice l times 2^exponents[l], in steps that stay in the range of the dtype."""
    xp = array_namespace(stack)
    step = _range(stack.dtype)
    while np.any(exponents):
        part = np.clip(exponents, -step, step)
        two = xp.asarray(2.0**part, dtype=real_dtype(xp, stack.dtype), device=device(stack))
        stack = stack * astype(xp.reshape(two, (-1, *[1] * (stack.ndim - 1))), stack.dtype)
        exponents = exponents - part
    return stack


def scaled_product(values: Iterable[Array]) -> Array:
    """The elementwise product of arrays, without overflow or underflow on the way to a result that is in range."""
    first, *rest = values
    xp = array_namespace(first)
    p = binade(xp.abs(stop_gradient(first)))
    total, exponent = first / astype(p, first.dtype), xp.log2(p)
    for v in rest:
        p = binade(xp.abs(stop_gradient(v)))
        total, exponent = total * (v / astype(p, v.dtype)), exponent + xp.log2(p)
    half = xp.floor(exponent / 2)
    two = xp.asarray(2.0, dtype=exponent.dtype, device=device(exponent))
    return total * astype(xp.pow(two, half), total.dtype) * astype(xp.pow(two, exponent - half), total.dtype)


def frobenius(x: Array, axis: int | None = None) -> Array:
    """‖x‖_F as a 0-d array, without avoidable overflow or underflow: entries of 1e200 and 1e-200 are fine.

    With an axis the norms of the slices along it. The gradient at 0 is 0.
    """
    xp = array_namespace(x)
    s = power_of_two(x, axis)
    x = x / astype(s, x.dtype)
    squares = xp.real(x) ** 2 + xp.imag(x) ** 2 if is_complex(x) else x**2
    if axis is None:
        total = xp.sum(squares)
    else:
        total, s = xp.sum(squares, axis=axis), xp.squeeze(s, axis=axis)
    zero = total == 0  # the root of 0 has no gradient
    return xp.where(zero, total, xp.sqrt(xp.where(zero, xp.ones_like(total), total))) * s
