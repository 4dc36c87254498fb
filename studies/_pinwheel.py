"""The pinwheel of SURM's figure 4, bit for bit, fresh points of its distribution, and the best that any classifier can do.

Five arms of 200 points (Johnson et al. 2016), of which 100 points are then moved anywhere: radial deviation 0.3, tangential
0.05, rate 0.25, coordinates times 10. The legacy generators of NumPy are part of the recipe.
"""

import math
from typing import Any

import numpy as np

CLASSES, POINTS, NOISY = 5, 1000, 100
RADIAL, TANGENTIAL, RATE, SIZE = 0.3, 0.05, 0.25, 10.0


def pinwheel(points: Any = None, moved: Any = None, noisy: int = NOISY) -> tuple[Any, Any, Any]:
    """x (N, 2), labels (N,), and which points were moved (noisy,), from two legacy generators; None: the published ones."""
    points = np.random.RandomState(1) if points is None else points
    moved = np.random.RandomState(0) if moved is None else moved
    n = noisy * POINTS // NOISY
    f = points.randn(n, 2) * np.array([RADIAL, TANGENTIAL])
    f[:, 0] += 1
    label = np.arange(n) // (n // CLASSES)
    theta = 2 * np.pi * label / CLASSES + RATE * np.exp(f[:, 0])
    c, s = np.cos(theta), np.sin(theta)
    x = SIZE * np.column_stack([f[:, 0] * c + f[:, 1] * s, -f[:, 0] * s + f[:, 1] * c])
    rows = points.permutation(np.column_stack([x, label]))
    x, y = rows[:, :2].copy(), rows[:, 2].astype(int)
    where = moved.permutation(np.arange(n))[:noisy]
    x[where] = moved.normal(0, SIZE, (noisy, 2))
    return x, y, where


def fresh(n: int, seed: int) -> tuple[Any, Any]:
    """n other points of the same distribution, a tenth of them moved."""
    x, y, _ = pinwheel(np.random.RandomState(seed), np.random.RandomState(seed + 1), n * NOISY // POINTS)
    return x, y


def log_posterior(x: Any, grid: int = 2048) -> Any:
    """log p(class | x), (N, 5): what a classifier that knows the distribution says.

    An arm turns the Gaussian point f by the angle -θ_k(f_0), which keeps |f| = |x| / 10. So p(x | k) is the sum, over the
    angles φ of f with φ - θ_k(|f| cos φ) = angle of x, of p(f) / (100 |1 + 0.25 exp(|f| cos φ) |f| sin φ|); they lie between
    the points of a grid where the left side passes the right one. Priors are equal, and moved points are N(0, 10² I).
    """
    phi = np.linspace(-np.pi, np.pi, grid + 1)
    out = np.empty((len(x), CLASSES))
    for at in range(0, len(x), 512):
        part = x[at : at + 512]
        radius = np.hypot(part[:, 0], part[:, 1])[:, None] / SIZE
        f0, f1 = radius * np.cos(phi), radius * np.sin(phi)
        density = np.exp(-0.5 * ((f0 - 1) / RADIAL) ** 2 - 0.5 * (f1 / TANGENTIAL) ** 2) / (
            2 * np.pi * RADIAL * TANGENTIAL * SIZE**2
        )
        turned = phi - RATE * np.exp(f0) - np.arctan2(part[:, 1], part[:, 0])[:, None]
        slope = np.maximum(np.abs(between(np.diff(turned, axis=1))) / (phi[1] - phi[0]), 1e-3)
        for k in range(CLASSES):
            gap = between(turned - 2 * np.pi * k / CLASSES)
            before, after = gap[:, :-1], gap[:, 1:]
            passed = (before * after <= 0) & (np.abs(before) < 1)
            share = np.divide(before, before - after, out=np.zeros_like(before), where=passed & (before != after))
            there = (1 - share) * density[:, :-1] + share * density[:, 1:]
            out[at : at + 512, k] = np.sum(np.where(passed, there / slope, 0), axis=1)
    noise = np.exp(-0.5 * np.sum(x**2, axis=1) / SIZE**2) / (2 * np.pi * SIZE**2)
    joint = (1 - NOISY / POINTS) * out + NOISY / POINTS * noise[:, None]
    return np.log(joint / joint.sum(axis=1, keepdims=True))


def between(angle: Any) -> Any:
    """An angle in [-π, π)."""
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


def loss(log_p: Any, y: Any) -> float:
    """The mean log-loss of log-probabilities (N, 5) at the labels y."""
    return -math.fsum(log_p[np.arange(len(y)), y]) / len(y)
