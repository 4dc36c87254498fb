"""Random numbers that the device and the host make alike, and the truth in float64, one factor after the other.

The number at an index is a function of the index, so the host makes the few rows that it checks and never fetches x. They
have 24 bits, so that float32 and float64 hold the same ones.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CHUNK = 2**24  # entries that are made at once
STREAM = 2**40  # indices of one seed
HOST = 2**16  # entries of x that one check compares


def draw(xp: Any, seed: int, shape: Sequence[int], dtype: str) -> Any:
    """An array of xp of numbers in [−1, 1), complex ones of two streams."""
    if dtype.startswith("complex"):
        part = {"complex64": "float32", "complex128": "float64"}[dtype]
        return draw(xp, 2 * seed, shape, part) + 1j * draw(xp, 2 * seed + 1, shape, part)
    size = math.prod(shape)
    out = xp.empty(size, dtype=dtype)
    for start in range(0, size, CHUNK):
        stop = min(size, start + CHUNK)
        out[start:stop] = numbers(xp, seed, xp.arange(start, stop, dtype="uint64"), dtype)
    return out.reshape(tuple(shape))


def numbers(xp: Any, seed: int, index: Any, dtype: str) -> Any:
    """The numbers at these indices (splitmix64): k · 2⁻²³ − 1 with k < 2²⁴."""
    z = (index + np.uint64(seed * STREAM)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    k = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return (k.astype("float64") * 2.0**-23 - 1).astype(dtype)


def drawn_rows(seed: int, rows: Sequence[int], columns: int, dtype: str) -> Any:
    """Rows of what `draw` made for a shape (·, columns), in NumPy and in double precision."""
    index = np.asarray(rows, np.uint64)[:, None] * np.uint64(columns) + np.arange(columns, dtype=np.uint64)
    if dtype.startswith("complex"):
        return numbers(np, 2 * seed, index, "float64") + 1j * numbers(np, 2 * seed + 1, index, "float64")
    return numbers(np, seed, index, "float64")


def some(rows: int, columns: int) -> list[int]:
    """Rows to compare: the first, the last and others between, HOST entries of them at most, but two at least."""
    count = max(1, min(rows, max(2, HOST // max(columns, 1))))
    return sorted({round(i * (rows - 1) / max(count - 1, 1)) for i in range(count)}) if rows else []


def product(factors: Sequence[Any], x: Any) -> Any:
    """x (F_1 ⊗ … ⊗ F_d)ᵀ for rows x in the precision of the arguments: each mode in turn meets its factor and goes to the end."""
    rows = x.shape[0]
    for F in factors:
        n = F.shape[1]
        rest = math.prod(x.shape[1:]) // n if n else 0
        x = np.swapaxes(x.reshape(rows, n, rest), 1, 2).reshape(rows * rest, n) @ F.T
        x = x.reshape(rows, rest * F.shape[0])
    return x


def total(stacks: Sequence[Any], x: Any) -> Any:
    """x (Σ_l F_1[l] ⊗ … ⊗ F_d[l])ᵀ for rows x and stacks (terms, m_i, n_i)."""
    return sum(product(terms, x) for terms in zip(*stacks, strict=True))


def distance(found: Any, truth: Any) -> float:
    """‖found − truth‖ / ‖truth‖; not finite → inf."""
    error, norm = np.linalg.norm(found - truth), np.linalg.norm(truth)
    ratio = float(error / norm) if norm else float(error > 0)
    return ratio if math.isfinite(ratio) else math.inf
