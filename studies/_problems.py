"""The targets that the studies of separated representations share."""

import math
from typing import Any

import numpy as np

import sepmat as sm
from studies import _peers


def columns(rng: Any, rows: int, rank: int, cosine: float = 0.0) -> Any:
    """rank unit columns: Gaussian, or with every pairwise cosine the given one."""
    U = rng.standard_normal((rows, rank))
    if not cosine:
        return U / np.linalg.norm(U, axis=0)
    Q, _ = np.linalg.qr(rng.standard_normal((rows, rank)))
    return Q @ np.linalg.cholesky((1 - cosine) * np.eye(rank) + cosine * np.ones((rank, rank))).T


def known_rank(n: int, rank: int, seed: int, cosine: float, noise: float) -> Any:
    """The tensor R(A) of A = Σ_l V_1^l ⊗ V_2^l ⊗ V_3^l with n × n factors, plus noise · ‖A‖ · N / ‖N‖."""
    rng = np.random.default_rng(seed)
    T = _peers.dense((np.ones(rank), [columns(rng, n * n, rank, cosine) for _ in range(3)]))
    if noise:
        N = rng.standard_normal(T.shape)
        T += (noise * np.linalg.norm(T) / np.linalg.norm(N)) * N
    return T


def optimum(n: int, rank: int, noise: float) -> float:
    """The expected error of the best fit: the noise but for the share that the parameters can follow."""
    parameters, entries = rank * (3 * n * n - 2), n**6
    return noise * math.sqrt(1 - parameters / entries)


def border(d: int) -> sm.Separated:
    """W_d, the sum of the d placements of one b among a's, with a = (1, 0) and b = (0, 1)."""
    a, b = np.eye(2)[:, :, None]
    return sm.Separated([np.stack([b if i == j else a for j in range(d)]) for i in range(d)])


def cosine() -> sm.Separated:
    """cos(x + y + z) = ccc − css − scs − ssc on two points, where (c, s) are unit vectors: no best two terms exist."""
    c, s = np.eye(2)[:, :, None]
    terms = [[c, c, c], [c, s, s], [s, c, s], [s, s, c]]
    return sm.Separated([np.stack(V) for V in zip(*terms, strict=True)], np.array([1.0, -1.0, -1.0, -1.0]))


def sine(d: int) -> sm.Separated:
    """sin(x_1 + … + x_d) on the midpoint grid of 8 points: the 2^{d-1} products of sines and cosines."""
    x = 2 * np.pi * (np.arange(8) + 0.5) / 8
    odd = np.array([[k >> j & 1 for j in range(d)] for k in range(2**d) if k.bit_count() % 2])
    signs = (-1.0) ** ((odd.sum(axis=1) - 1) // 2)
    return sm.Separated([np.where(b[:, None], np.sin(x), np.cos(x))[:, :, None] for b in odd.T], signs)


def sine_pair(d: int) -> sm.Separated:
    """The same as Im exp(i x_1) … exp(i x_d): two complex terms, which make an exact residual cheap."""
    wave = np.exp(2j * np.pi * (np.arange(8) + 0.5) / 8)
    return sm.Separated([np.stack([wave, wave.conj()])[:, :, None]] * d, np.array([-0.5j, 0.5j]))


def laplacian(d: int) -> sm.Separated:
    """Σ_i I ⊗ … ⊗ V ⊗ … ⊗ I with V = tridiag(−1, 2, −1), 8 × 8: rank d, border rank 2."""
    V = 2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)
    return sm.convert(sm.KroneckerSum(*[V] * d), sm.Separated)
