"""The error bounds that the library promises: one table, read by `sepmat.selftest` and by the tests.

Each bound is an inequality error <= hard(sizes) · scale · u with u = 2⁻⁵³ (float64, complex128), 2⁻²⁴ (float32, complex64),
2⁻¹¹ (float16), 2⁻⁸ (bfloat16). A violation of `hard` is a bug. `alarm` is the largest share of it that any run has
reached, times two to three: what lies above it is a regression to look at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDOFF = {
    "float64": 2.0**-53,
    "complex128": 2.0**-53,
    "float32": 2.0**-24,
    "complex64": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}


@dataclass(frozen=True)
class Bound:
    """says: the inequality. hard: its constant in units of u, of the sizes. alarm: a share of the constant."""

    says: str
    hard: Callable[..., float]
    alarm: float

    def __call__(self, *sizes: Any) -> float:
        return self.hard(*sizes)


def log2(n: float) -> float:
    """log₂ n, and 1 below n = 2: the length of a transform is never less than that of two numbers."""
    return math.log2(max(n, 2))


def gamma(k: float, u: float = 2.0**-53) -> float:
    """γ_k = k u / (1 − k u) in units of u: what k roundings do."""
    return k / (1 - k * u)


def componentwise(k: float, dtype: str = "float64") -> float:
    """γ_k; for complex numbers √2 γ_2k, since a complex sum of k products is a real one of 2k."""
    u = ROUNDOFF[dtype]
    return math.sqrt(2) * gamma(2 * k, u) if dtype.startswith("complex") else gamma(k, u)


BOUNDS = {
    "B1": Bound("transform, n = 2^t: ‖ŷ − y‖₂ <= 6.7 log₂ n · u ‖y‖₂", lambda n: 6.7 * log2(n), 0.15),
    "B2": Bound("transform, any n: ‖ŷ − y‖₂ <= 21 log₂ 4n · u ‖y‖₂", lambda n: 21 * log2(4 * n), 0.06),
    "B3": Bound("Kronecker product, real: |ŷ − y| <= γ_K (⊗ |A_i|) |x|, K = Σ n_i", componentwise, 0.95),
    "B4": Bound("Kronecker product, complex: |ŷ − y| <= √2 γ_2K (⊗ |A_i|) |x|", componentwise, 0.95),
    "B5": Bound("Σ s_l ⊗ V_l: |ŷ − y| <= γ_{K+L} Σ |s_l| (⊗ |V_l|) |x|", componentwise, 0.5),
    "B6": Bound("the same against ‖A‖: ‖ŷ − y‖ <= γ_{K+L} √L κ ‖A‖_F ‖x‖", componentwise, 0.05),
    "B7": Bound("dense form: |Â − A| <= γ_{d+L} Σ |s_l| ⊗ |V_l|", componentwise, 0.95),
    "B8": Bound(
        "norm by QR: |n̂ − ‖A‖_F| <= 30 (max n_i² + L) √L · u κ ‖A‖_F", lambda n, L: 30 * (n**2 + L) * math.sqrt(L), 0.01
    ),
    "B9": Bound("circulant product: ‖ŷ − y‖₂ <= (20 log₂ n + 3) u ‖C‖_F ‖x‖₂", lambda n: 20 * log2(n) + 3, 0.1),
    "B10": Bound(
        "Toeplitz, Hankel product, embedded in N: ‖ŷ − y‖₂ <= (20 log₂ N + 3) u √N ‖t‖₂ ‖x‖₂",
        lambda N: 20 * log2(N) + 3,
        0.06,
    ),
    "B11": Bound(
        "W(G, H) x: ‖ŷ − y‖₂ <= (40 log₂ n + 12 + r) u Σ ‖C_k‖_F ‖S_k‖_F ‖x‖", lambda n, r: 40 * log2(n) + 12 + r, 0.05
    ),
    "B12": Bound("circulant solve: ‖b − C x̂‖₂ <= (20 log₂ n + 6) u ‖C‖_F ‖x̂‖₂", lambda n: 20 * log2(n) + 6, 0.2),
    "B13": Bound(
        "circulant solve, forward: ‖x̂ − x‖ <= κ₂(C) (‖C‖_F / ‖C‖₂) (20 log₂ n + 6) u ‖x‖",
        lambda n: 20 * log2(n) + 6,
        0.05,
    ),
    "B14": Bound("Toeplitz, Hankel, W(G, H) solve: ‖b − T x̂‖₂ <= 30 n u ‖T‖₂ ‖x̂‖₂", lambda n: 30 * n, 0.2),
    "B15": Bound("Kronecker solve: ‖b − K x̂‖₂ <= 30 (Σ n_i) u Π ‖A_i‖₂ ‖x̂‖₂", lambda K: 30 * K, 0.06),
    "B16": Bound("Kronecker sum solve: ‖b − S x̂‖₂ <= 30 (Σ n_i) u Σ ‖A_i‖_F ‖x̂‖₂", lambda K: 30 * K, 0.2),
    "B17": Bound("Kronecker sum: |ŷ − y| <= γ_{max n_i + d} Σ (I ⊗ |A_i| ⊗ I) |x|", componentwise, 0.6),
    "B18": Bound("Schulz inverse at stagnation: ‖I − A X‖_F <= 10 n u κ₂(A)", lambda n: 10 * n, 0.1),
    "B19": Bound("one ALS step by QR: error <= 100 u κ(Khatri–Rao)", lambda: 100.0, 0.5),
    "B20": Bound("nearest Kronecker sum: |‖A − A_r‖² − Σ_{i>r} σ_i²| <= 100 u ‖A‖²", lambda: 100.0, 0.4),
    "B21": Bound("log |det ⊗ A_i|: error <= 30 u Σ (N / n_i) n_i² κ(A_i)", lambda: 30.0, 0.6),
    "B22": Bound("singular values: |σ̂ − σ| <= 30 (Σ n_i) u Π ‖A_i‖₂", lambda K: 30 * K, 0.03),
    "B23": Bound("adjoint: |⟨A x, y⟩ − ⟨x, Aᴴ y⟩| <= (both products and both sums) |y|ᵀ G |x|", lambda: 1.01, 0.4),
    "B24": Bound("float16, bfloat16: |ŷ − y| <= ((d + 1) u₁₆ + γ_K u₃₂) (⊗ |A_i|) |x|", lambda: 1.01, 0.95),
    "B25": Bound("two backends: |ŷ₁ − ŷ₂| <= twice the bound of the product", lambda: 2.02, 0.5),
    "B26": Bound("truncation to ε: ‖A − T(A)‖_F <= ε ‖A‖_F + 30 u √L κ ‖A‖_F", lambda L: 30 * math.sqrt(L), 0.5),
}
