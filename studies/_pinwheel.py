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


# what is known of the losses -------------------------------------------------------------------------------------------

# Digitised from the images in the authors' repository, good to 10 %: medians of the training loss around these epochs.
AT = (100, 500, 1000, 1500, 1950)
PUBLISHED = {
    "frozen": {
        "dense": (0.319, 0.261, 0.236, 0.217, 0.211),
        "lora_1": (0.916, 0.902, 0.902, 0.902, 0.904),
        "circulant": (0.367, 0.309, 0.278, 0.261, 0.29),
        "toeplitz": (0.425, 0.329, 0.287, 0.267, 0.260),
        "symmetric_toeplitz": (0.455, 0.348, 0.307, 0.289, 0.281),
        "kronecker_1": (0.967, 0.956, 0.949, 0.948, 0.946),
    },
    "unfrozen": {
        "dense": (0.280, 0.193, 0.159, 0.144, 0.135),
        "lora_1": (0.977, 0.953, 0.949, 0.947, 0.947),
        "circulant": (0.309, 0.226, 0.167, 0.148, 0.143),
        "toeplitz": (0.298, 0.204, 0.182, 0.180, 0.164),
        "symmetric_toeplitz": (1.612, 0.255, 0.238, 0.198, 0.180),
        "kronecker_1": (0.933, 0.912, 0.905, 0.901, 0.901),
    },
}
# Computed for this project with plain NumPy before sepmat existed: medians of the last 100 epochs, three seeds.
EXPECTED = {
    "wide": {
        "dense": (0.082, 0.088, 0.105),
        "circulant": (0.101, 1.609, 0.127),
        "toeplitz": (0.120, 0.092, 0.069),
        "symmetric_toeplitz": (0.144, 0.110, 0.077),
        "lora_1": (0.355, 0.300, 0.427),
        "lora_2": (0.197, 0.155, 0.169),
        "kronecker_1": (0.365, 0.300, 0.377),
        "kronecker_2": (0.197, 0.109, 0.118),
        "kronecker_square": (0.094, 0.092, 0.089),
    },
    "narrow": {
        "dense": (0.282, 0.250, 0.276),
        "circulant": (0.318, 0.327, 0.317),
        "toeplitz": (0.304, 0.337, 0.314),
        "symmetric_toeplitz": (0.344, 0.362, 0.348),
        "lora_1": (0.661, 0.619, 0.653),
        "lora_2": (0.327, 0.307, 0.341),
        "kronecker_1": (0.661, 0.619, 0.653),
        "kronecker_2": (0.350, 0.366, 0.350),
        "kronecker_square": (0.350, 0.331, 0.330),
    },
    "narrow_one_relu": {
        "dense": (0.379, 0.380, 0.368),
        "circulant": (0.401, 0.399, 0.370),
        "toeplitz": (0.400, 0.404, 0.387),
        "symmetric_toeplitz": (0.409, 0.407, 0.388),
        "lora_1": (0.983, 0.871, 0.826),
        "lora_2": (0.482, 0.500, 0.476),
        "kronecker_1": (0.983, 0.871, 0.826),
        "kronecker_2": (0.445, 0.456, 0.475),
        "kronecker_square": (0.408, 0.416, 0.396),
    },
    "wide_one_relu": {
        "dense": (0.352, 0.316, 0.312),
        "circulant": (0.324, 0.314, 0.318),
        "toeplitz": (0.330, 0.318, 0.326),
        "symmetric_toeplitz": (0.325, 0.312, 0.322),
        "lora_1": (0.755, 0.841, 0.764),
        "lora_2": (0.422, 0.428, 0.491),
        "kronecker_1": (0.755, 0.841, 0.764),
        "kronecker_2": (0.353, 0.339, 0.355),
        "kronecker_square": (0.332, 0.328, 0.318),
    },
}
