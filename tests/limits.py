"""The one table of limits: the bounds B1 to B26 of the library and the identities 1 to 40 of the subject.

Every limit has two: `hard`, a theorem (a violation is a bug), and `alarm`, a share of it, some two to three times what any
run had shown (a violation is a regression to look at). Below 8 numbers single roundings count, and there the alarms of FROM_8 are silent. Identities: hard is ten times the largest constant c that many random trials have shown, in units of eps = 2u; the alarm is
half of that. c = 0 stands for equality bit for bit, or of integers.
"""

import math
import re
from dataclasses import dataclass

from sepmat._bounds import BOUNDS, componentwise


@dataclass(frozen=True)
class Identity:
    says: str
    c: float = 0.0
    alarm: float = 0.5

    def __call__(self):
        return 20 * self.c


IDENTITIES = {
    "id 1": Identity("(A⊗B)(C⊗D) = AC⊗BD", 0.47),
    "id 2": Identity("(A⊗B) vr(X) = vr(A X Bᵀ)", 0.41),
    "id 3": Identity("(A⊗B) vc(X) = vc(B X Aᵀ)", 0.36),
    "id 4": Identity("vr(A X B) = (A⊗Bᵀ) vr(X)", 0.35),
    "id 5": Identity("(A⊗B)ᴴ = Aᴴ⊗Bᴴ"),
    "id 6": Identity("(A⊗B)⁻¹ = A⁻¹⊗B⁻¹", 1.4),
    "id 7": Identity("(A⊗B)⁺ = A⁺⊗B⁺", 0.8),
    "id 8": Identity("tr(A⊗B) = tr A tr B", 0.32),
    "id 8 partial trace": Identity("tr₂(A⊗B) = A tr B", 0.48),
    "id 9": Identity("log |det A⊗B| = q log |det A| + p log |det B|", 2.0),
    "id 9 sign": Identity("sign det A⊗B = sign_A^q sign_B^p", 0.9),
    "id 10": Identity("singular values of A⊗B: all products, padded with zeros", 0.91),
    "id 11": Identity("eigenvalues of a Kronecker product: products", 1.3),
    "id 11 sum": Identity("eigenvalues of a Kronecker sum: sums", 1.5),
    "id 12": Identity("expm(A⊕B) = expm A ⊗ expm B", 1.0),
    "id 12 commute": Identity("A⊗I and I⊗B commute", 0.17),
    "id 13": Identity("‖A⊗B‖ = ‖A‖ ‖B‖ in the norms F, 1, ∞, 2, nuclear", 0.91),
    "id 14": Identity("rank A⊗B = rank A rank B"),
    "id 15": Identity("(A⊗B)⊗C = A⊗(B⊗C)", 2.2),
    "id 16": Identity("A⊗(B + C) = A⊗B + A⊗C", 0.52),
    "id 17": Identity("P (A⊗B) Qᵀ = B⊗A for perfect shuffles"),
    "id 18": Identity("orthogonal factors give an orthogonal product", 2.0),
    "id 18 Cholesky": Identity("the Cholesky factor of A⊗B is that of A ⊗ that of B", 0.6),
    "id 19": Identity("diag A⊗B = diag A ⊗ diag B", 1.0),
    "id 20": Identity("(A⊗B)∘(C⊗D) = (A∘C)⊗(B∘D)", 3 * 0.78),
    "id 20 separated": Identity("Hadamard products of separated matrices", 1.0),
    "id 20 Kronecker": Identity("Hadamard products of Kronecker products", 0.78),
    "id 21": Identity("R⁻¹(R(A)) = A"),
    "id 22": Identity("R(A⊗B) = vr(A) vr(B)ᵀ", 0.5),
    "id 23": Identity("‖R(A)‖ = ‖A‖, and R(A) has the entries of A"),
    "id 24": Identity("‖A − A_r‖² = Σ_{k>r} σ_k² of R(A), for the nearest sum of r products", 1.4),
    "id 25": Identity("κ = 1 for the nearest sum of products", 0.63),
    "id 26": Identity("separation ranks of sums, products and transposes"),
    "id 26 Kronecker product": Identity("Separated ⊗ Separated", 0.5),
    "id 27": Identity("separation rank of u vᵀ is rank(mat u) rank(mat v)"),
    "id 28": Identity("1/√r <= κ, and κ is invariant"),
    "id 29": Identity("splitting a term leaves the matrix", 0.3),
    "id 30": Identity("sums and products of separated matrices", 0.14),
    "id 31": Identity("⟨A, B⟩ = Σ s̄_l t_m Π ⟨V_i^l, W_i^m⟩", 0.05),
    "id 32": Identity("separated matrix times x", 0.14),
    "id 32 adjoint": Identity("⟨A x, y⟩ = ⟨x, Aᴴ y⟩", 0.04),
    "id 33": Identity("dense form of a separated matrix", 0.1),
    "id 34": Identity("(A⊙B)ᴴ(A⊙B) = AᴴA ∘ BᴴB; (A⊗B)(C⊙D) = AC⊙BD", 2.1),
    "id 35": Identity("norm by a QR sweep = dense norm", 1.0),
    "id 36": Identity(
        "compressing to as many terms is exact, compressing again changes nothing, κ stays under its cap"
    ),
    "id 37": Identity("I − A X_{k+1} = (I − A X_k)² in Schulz's iteration", 100.0),
    "id 38": Identity(
        "the nearest Kronecker product inherits symmetry, definiteness, nonnegative and Toeplitz entries"
    ),
    "id 39": Identity("sin(x_1 + … + x_d) as a sum of d products", 1.0),
    "id 40": Identity("backends agree in value, dtype and class", 0.5),
}

LIMITS = BOUNDS | IDENTITIES
FROM_8 = {"B1", "B2", "B3", "B4", "B5", "B6", "B9", "B10", "B12", "B13", "B14"}  # n or K, their size


def alarms():
    """{bound or identity: its alarm}, for the record: one entry for each number."""
    return {key: limit.alarm for key, limit in LIMITS.items() if re.fullmatch(r"(B|id )\d+", key)}


def find(name):
    """The limit of a named check: the longest key that the name begins with; None for names of other kinds."""
    key = _key(name)
    return LIMITS[key] if key else None


def alarm(name, limit, dtype):
    """The share of its limit above which a named check is an alarm; infinity where it has none."""
    key = _key(name)
    if key is None:
        return math.inf
    if key in FROM_8:
        sizes = (8, dtype) if BOUNDS[key].hard is componentwise else (8,)
        if limit < BOUNDS[key](*sizes):
            return math.inf
    return LIMITS[key].alarm


def _key(name):
    return max((key for key in LIMITS if re.match(re.escape(key) + r"\b", name)), key=len, default=None)
