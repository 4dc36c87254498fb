"""Every structure once more, entry by entry from its definition, in extended precision: what the tests compare with.

Nothing here is fast and nothing is shared with the library. `Oracle` carries, beside the matrix itself, what a product
with it may be wrong by: |computed A x - A x| <= u E |x| entry by entry, with the constants of the published bounds.
"""

import math
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np

WIDE = {"f": np.longdouble, "c": np.clongdouble}


def wide(x):
    """The same numbers in extended precision."""
    return np.asarray(x).astype(WIDE[np.asarray(x).dtype.kind])


def zeros(shape, *arrays):
    return np.zeros(shape, np.result_type(*arrays, np.longdouble))


# the matrices -----------------------------------------------------------------------------------------------------------


def dense(A):
    return A


def diagonal(d):
    A = zeros((len(d), len(d)), d)
    for i in range(len(d)):
        A[i, i] = d[i]
    return A


def low_rank(U, V):
    """A[i, j] = Σ_k U[i, k] V[j, k]"""
    A = zeros((len(U), len(V)), U, V)
    for i, j, k in product(range(len(U)), range(len(V)), range(U.shape[1])):
        A[i, j] += U[i, k] * V[j, k]
    return A


def digits(shape):
    """(index, its digits in the mixed radix `shape`), the first digit slowest."""
    return enumerate(product(*(range(n) for n in shape)))


def kronecker(*factors):
    """A[(i_1 … i_d), (j_1 … j_d)] = Π_k F_k[i_k, j_k]"""
    rows, cols = zip(*(F.shape for F in factors), strict=True)
    A = zeros((math.prod(rows), math.prod(cols)), *factors)
    for (i, row), (j, col) in product(digits(rows), list(digits(cols))):
        A[i, j] = reduce(lambda a, b: a * b, (F[r, c] for F, r, c in zip(factors, row, col, strict=True)))
    return A


def kronecker_sum(*factors):
    """Σ_k I ⊗ … ⊗ F_k ⊗ … ⊗ I: the term k lives where all other digits agree."""
    sizes = [len(F) for F in factors]
    A = zeros((math.prod(sizes),) * 2, *factors)
    for (i, row), (j, col) in product(digits(sizes), list(digits(sizes))):
        for k, F in enumerate(factors):
            if row[:k] + row[k + 1 :] == col[:k] + col[k + 1 :]:
                A[i, j] += F[row[k], col[k]]
    return A


def separated(*factors, scales=None):
    """Σ_l s_l F_1[l] ⊗ … ⊗ F_d[l]"""
    total = kronecker(*(np.zeros(F.shape[1:], F.dtype) for F in factors))
    for l in range(len(factors[0])):
        total = total + (1 if scales is None else scales[l]) * kronecker(*(F[l] for F in factors))
    return total


def sum_of_terms(factors, scales=None):
    """`separated` by numpy.kron, for sizes where a loop over the entries takes too long."""
    total = zeros((math.prod(F.shape[1] for F in factors), math.prod(F.shape[2] for F in factors)), factors[0])
    for l in range(len(factors[0])):
        total = total + (1 if scales is None else wide(scales)[l]) * reduce(np.kron, (wide(F)[l] for F in factors))
    return total


def weight(factors, scales=None):
    """N = Σ_l |s_l| Π_i ‖F_i[l]‖"""
    norms = [[frobenius(F[l]) for l in range(len(F))] for F in factors]
    sizes = np.prod(norms, axis=0) if len(factors[0]) else np.zeros(0)
    return float(np.sum(sizes if scales is None else np.abs(scales) * sizes))


def scaled_separated(scales, *factors):
    return separated(*factors, scales=scales)


def f_circulant(v, f, shape=None):
    """Z_f(v): A[i, j] = v[i - j] for i >= j, f v[N + i - j] above the diagonal; the top left corner of N×N."""
    m, n = shape or (len(v), len(v))
    A = zeros((m, n), v)
    for i, j in product(range(m), range(n)):
        A[i, j] = v[i - j] if i >= j else f * v[len(v) + i - j]
    return A


def circulant(c, shape=None):
    return f_circulant(c, 1, shape)


def skew_circulant(c, shape=None):
    return f_circulant(c, -1, shape)


def toeplitz(c, r=None):
    """A[i, j] = t_{i-j}, c the first column, r the first row (default: conj(c))"""
    r = np.conj(c) if r is None else r
    A = zeros((len(c), len(r)), c, r)
    for i, j in product(range(len(c)), range(len(r))):
        A[i, j] = c[i - j] if i >= j else r[j - i]
    return A


def hankel(c, r=None):
    """A[i, j] = h_{i+j}, c the first column, r the last row (default: zeros)"""
    r = np.zeros_like(c) if r is None else r
    A = zeros((len(c), len(r)), c, r)
    for i, j in product(range(len(c)), range(len(r))):
        A[i, j] = c[i + j] if i + j < len(c) else r[i + j - len(c) + 1]
    return A


def low_displacement_rank(G, H, shape=None):
    """Σ_i Z_1(G[:, i]) Z_{-1}(H[:, i]), the top left corner"""
    m, n = shape or (len(G), len(G))
    A = zeros((len(G), len(G)), G, H)
    for i in range(G.shape[1]):
        A = A + f_circulant(G[:, i], 1) @ f_circulant(H[:, i], -1)
    return A[:m, :n]


def multilevel_circulant(c):
    """A[i, j] = c[(i_1 - j_1) mod n_1, …, (i_d - j_d) mod n_d]"""
    A = zeros((c.size, c.size), c)
    for (i, row), (j, col) in product(digits(c.shape), list(digits(c.shape))):
        A[i, j] = c[tuple((a - b) % n for a, b, n in zip(row, col, c.shape, strict=True))]
    return A


def multilevel_toeplitz(t, shapes):
    """A[i, j] = t[n_1 - 1 + i_1 - j_1, …, n_d - 1 + i_d - j_d] for levels of the given shapes"""
    rows, cols = zip(*shapes, strict=True)
    A = zeros((math.prod(rows), math.prod(cols)), t)
    for (i, row), (j, col) in product(digits(rows), list(digits(cols))):
        A[i, j] = t[tuple(n - 1 + a - b for a, b, n in zip(row, col, cols, strict=True))]
    return A


def shift(n, f):
    """Z_f: ones below the diagonal, f in the top right corner."""
    return f_circulant(np.asarray([0, 1] + [0] * (n - 2) if n > 1 else [f], np.longdouble)[:n], f)


def permutation_shuffle(p, q):
    """P with P (x ⊗ y) = y ⊗ x for x of length p and y of length q."""
    P = np.zeros((p * q, p * q))
    for i, j in product(range(p), range(q)):
        P[j * p + i, i * q + j] = 1
    return P


# what is asked about them -----------------------------------------------------------------------------------------------


def slogdet(A):
    """Sign and log of the determinant by elimination with partial pivoting, in extended precision."""
    A, sign, total = wide(A).copy(), 1.0, np.longdouble(0)
    for k in range(len(A)):
        p = k + int(np.argmax(np.abs(A[k:, k])))
        if A[p, k] == 0:
            return 0.0, -np.inf
        if p != k:
            A[[k, p]], sign = A[[p, k]], -sign
        sign, total = sign * A[k, k] / abs(A[k, k]), total + np.log(abs(A[k, k]))
        A[k + 1 :, k:] -= np.outer(A[k + 1 :, k] / A[k, k], A[k, k:])
    return sign, total


def frobenius(A):
    """‖A‖_F in extended precision, whose range is wide enough for every float64."""
    return np.sqrt(np.sum(np.abs(wide(A)) ** 2))


def _integers(x):
    """(real part, imaginary part, k): x = (real + i imaginary) / 2^k in Python's integers, which float64 numbers always are."""
    parts = [np.asarray(part(x), float) for part in (np.real, np.imag)]
    ratios = [[v.as_integer_ratio() for v in part.ravel().tolist()] for part in parts]
    k = max((d.bit_length() - 1 for part in ratios for _, d in part), default=0)
    real, imag = (np.array([p * (2**k // d) for p, d in part], object).reshape(x.shape) for part in ratios)
    return real, imag, k


def _times_f_circulant(v, f, x):
    """Z_f(v) x of pairs (real, imaginary) of integers."""
    rows = range(len(v[0]))
    A, B = (np.array([[p[i - j] * (1 if i >= j else f) for j in rows] for i in rows], object) for p in v)
    return A @ x[0] - B @ x[1], A @ x[1] + B @ x[0]


def residual_of_displacement(b, G, H, x):
    """b − Σ_i Z_1(G[:, i]) Z_{-1}(H[:, i]) x without a rounding but the last one, however far the terms cancel."""
    if not b.size:
        return np.asarray(b, complex)
    (*g, p), (*h, q), (*y, s), (*total, t) = map(_integers, (G, H, x, b))
    shift = p + q + s
    total = [part << shift for part in total]
    for i in range(G.shape[1]):
        inner = _times_f_circulant([part[:, i] for part in h], -1, y)
        outer = _times_f_circulant([part[:, i] for part in g], 1, inner)
        total = [part - (term << t) for part, term in zip(total, outer, strict=True)]
    real, imag = (np.array([v / 2 ** (shift + t) for v in part.ravel()], float).reshape(b.shape) for part in total)
    return real + 1j * imag


def spectral(A):
    return np.linalg.norm(np.asarray(A, complex), 2) if A.size else 0.0


def match(found, expected):
    """The largest distance of two multisets of numbers, paired greedily from the largest on."""
    left, gap = list(expected), 0.0
    for value in sorted(found, key=abs, reverse=True):
        k = min(range(len(left)), key=lambda i: abs(left[i] - value))
        gap = max(gap, abs(left.pop(k) - value))
    return gap if not left else math.inf


# the matrix together with its error bound -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """D: the matrix. G: a majorant, |D| <= G. E: |computed A x - D x| <= u E |x|. All are (m, n)."""

    D: np.ndarray
    G: np.ndarray
    E: np.ndarray

    def __add__(self, other):
        return Oracle(self.D + other.D, self.G + other.G, self.E + other.E + self.G + other.G)

    def __sub__(self, other):
        return self + other.scaled(-1)

    def __matmul__(self, other):
        return Oracle(self.D @ other.D, self.G @ other.G, self.E @ other.G + self.G @ other.E)

    def scaled(self, s, roundings=3):
        """One product: 1 rounding if real, √2 γ_2 < 3 if complex (a complex quotient: below 14)."""
        a = abs(s)
        return Oracle(s * self.D, a * self.G, a * (self.E + roundings * self.G))

    @property
    def T(self):
        return Oracle(self.D.T, self.G.T, self.E.T)

    def conj(self):
        return Oracle(self.D.conj(), self.G, self.E)


def _complex_factor(arrays):
    return 2 * math.sqrt(2) if any(a.dtype.kind == "c" for a in arrays) else 1.0


def componentwise(build, length):
    """An oracle for a matrix that is a polynomial in its data: G is the same polynomial of the absolute values.

    length(*arrays) = k in the bound γ_k G|x| (B3, B5, B17); complex data: √2 γ_2k.
    """

    def make(*arrays):
        D, G = build(*map(wide, arrays)), build(*(np.abs(wide(a)) for a in arrays))
        return Oracle(D, G, _complex_factor(arrays) * (length(*arrays) + 1) * G)

    return make


def normwise(build, size, majorant):
    """An oracle for an FFT product: ‖error‖₂ <= size(*arrays) u g ‖x‖₂ with g = majorant(*arrays) (B9 to B11).

    ‖·‖_∞ <= ‖·‖₂ <= ‖·‖₁ makes it an entrywise bound with constant E.
    """

    def make(*arrays):
        D = build(*map(wide, arrays))
        G = np.full(D.shape, majorant(*map(wide, arrays)), np.longdouble)
        return Oracle(D, G, size(*arrays) * G)

    return make


def log2(n):
    return math.log2(max(n, 2))


def fft_constant(N):
    """B9, B10: 20 log2 N + 3"""
    return 20 * log2(N) + 3


def circulant_norm(c, *_):
    """‖C‖_F of the whole circulant or skew-circulant"""
    return np.sqrt(np.size(c)) * np.sqrt(np.sum(np.abs(c) ** 2))


def embedding(c, r=None):
    """The length N of the circulant that a Toeplitz matrix is embedded in: at most the next power of two."""
    n = len(c) + len(c if r is None else r)
    return 1 << max(n, 1).bit_length()


def embedding_norm(c, r=None):
    """√N ‖(c, r_1, …)‖₂, B10"""
    r = c if r is None else r
    return np.sqrt(embedding(c, r)) * np.sqrt(np.sum(np.abs(c) ** 2) + np.sum(np.abs(r) ** 2))


def multilevel_embedding(shapes):
    """The number of entries of the multilevel circulant that a multilevel Toeplitz matrix is embedded in."""
    return math.prod(1 << max(m + n, 1).bit_length() for m, n in shapes)


def displacement_constant(G, H):
    """B11: 40 log2 n + 12 + r"""
    return 40 * log2(len(G)) + 12 + G.shape[1]


def displacement_norm(G, H):
    """Σ_k ‖C_k‖_F ‖S_k‖_F"""
    return sum((circulant_norm(G[:, k]) * circulant_norm(H[:, k]) for k in range(G.shape[1])), np.longdouble(0))
