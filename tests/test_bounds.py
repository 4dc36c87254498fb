"""Bounds B1, B2, B6, B7 and B17 on their own; the others stand beside what they bound (see the names of `check`).

`python -m studies accuracy` records the largest ratio of every bound that the tests assert.
"""

import math

import numpy as np
import pytest
import reference as ref
import scipy.fft
from cases import normal
from conftest import check

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.kernels import fourier

PI = np.longdouble("3.14159265358979323846264338327950288")  # np.pi is wrong by u
DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 64, 512, 4096, 13, 97, 509, 1009])
def test_b1_b2_transforms(n, dtype):
    """‖ŷ − y‖₂ <= 6.7 log2(n) u ‖y‖₂ for powers of two, 21 log2(4n) u ‖y‖₂ for others; alarms 1 and 1.5 log2 n."""
    rng = np.random.default_rng(n)
    c = normal(rng, (n,), dtype)
    if n > 2000:  # the sum takes ten seconds; pocketfft in extended precision
        exact = scipy.fft.fft(ref.wide(c))
    else:
        angles = 2 * PI * (np.outer(np.arange(n), np.arange(n)) % n) / n
        exact = ref.wide(c) @ (np.cos(angles) - 1j * np.sin(angles))
    found = fourier.eigenvalues(c)
    power = n & (n - 1) == 0
    error, scale = np.linalg.norm((found - exact).astype(complex)), float(np.linalg.norm(exact.astype(complex)))
    name = "B1 transform, 2^t" if power else "B2 transform, any length"
    reached = check(error, scale, BOUNDS[name[:2]](n), dtype, name)
    assert reached <= (1.0 if power else 1.5) * math.log2(n), f"alarm: {reached / math.log2(n):.2f} log2 n"


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e5])
def test_b6_products_relative_to_the_matrix(kappa, dtype):
    """‖ŷ − A x‖ <= γ_{K+L} √L κ ‖A‖_F ‖x‖: what cancels between the terms is lost, and no more. Alarm 0.1 (K + L)."""
    rng = np.random.default_rng(0)
    n, terms = 6, 4
    V = [normal(rng, (terms, n, n), "complex128" if "complex" in dtype else "float64") for _ in range(2)]
    h = 1 / kappa
    for F in V:  # pairs of terms that differ by h
        F[1::2] = F[::2] + h * F[1::2]
        F /= np.linalg.norm(F, axis=(1, 2), keepdims=True)
    scales = np.array([1.0, -1.0, 1.0, -1.0])
    V = [F.astype(dtype) for F in V]
    A, x = sm.Separated(V, scales.astype(dtype)), normal(rng, (n * n, 3), dtype)
    D = ref.separated(*map(ref.wide, V), scales=ref.wide(scales))
    norm = float(ref.frobenius(D))
    sizes = np.abs(scales) * np.prod([np.linalg.norm(F, axis=(1, 2)) for F in V], axis=0)
    condition = np.linalg.norm(sizes) / norm
    assert condition >= kappa / 4
    error = np.linalg.norm((A @ x - D @ ref.wide(x)).astype(complex), axis=0)
    K = 2 * n + terms
    scale = math.sqrt(terms) * condition * norm * np.linalg.norm(x, axis=0)
    reached = check(error, scale, BOUNDS["B6"](K, dtype), dtype, "B6 separated product against ‖A‖")
    assert reached <= 0.1 * BOUNDS["B6"](K, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_b7_dense_forms(d, dtype):
    """|Â − A| <= γ_{d+L−1} Σ_l |s_l| ⊗ |V_l| entry by entry."""
    rng = np.random.default_rng(d)
    shapes, terms = [(3, 2), (2, 4), (5, 1), (2, 3)][:d], 3
    V, s = [normal(rng, (terms, *shape), dtype) for shape in shapes], normal(rng, (terms,), dtype)
    D = ref.separated(*map(ref.wide, V), scales=ref.wide(s))
    G = ref.separated(*(np.abs(ref.wide(F)) for F in V), scales=np.abs(ref.wide(s)))
    k = d + 1 + terms - 1
    check(np.abs(sm.Separated(V, s).to_dense() - D), G, BOUNDS["B7"](k, dtype), dtype, "B7 dense form")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(7,), (5, 3), (2, 4, 3), (3, 2, 2, 3)])
def test_b17_kronecker_sums(sizes, dtype):
    """|ŷ − y| <= γ_{max n + d} Σ_i (I ⊗ |A_i| ⊗ I) |x| entry by entry."""
    rng = np.random.default_rng(sum(sizes))
    factors = [normal(rng, (n, n), dtype) for n in sizes]
    x = normal(rng, (math.prod(sizes), 2), dtype)

    def kronecker_sum(matrices):
        eyes = [np.eye(n, dtype=matrices[0].dtype) for n in sizes]
        return sum(
            ref.kronecker(*(matrices[i] if i == j else eyes[j] for j in range(len(sizes)))) for i in range(len(sizes))
        )

    D, G = (kronecker_sum([f(ref.wide(F)) for F in factors]) for f in (lambda a: a, np.abs))
    k = max(sizes) + len(sizes)
    error = np.abs(sm.KroneckerSum(*factors) @ x - D @ ref.wide(x))
    check(error, G @ np.abs(x), BOUNDS["B17"](k, dtype), dtype, "B17 Kronecker sum product")
