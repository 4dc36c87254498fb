"""The catalogue of bad input, cases 1 to 63: shapes and arguments, types and values, memory and size.

(number, call with a maker of arrays, class of the error, regular expressions for argument, value, advice); None: an error of
Python. Files (66-86) are in `files`, threads, processes and devices (87-100) in `state`.
"""

import re
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse
from conftest import host

import sepmat as sm

from .engine import TRUE, Case, Refusal, Value

# fmt: off
# one case a line

R = np.random.default_rng(0)
F32, F43, F34 = R.standard_normal((3, 2)), R.standard_normal((4, 3)), R.standard_normal((3, 4))
S3, S4 = R.standard_normal((3, 3)), R.standard_normal((4, 4))
BAD3 = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]


def K(a):
    """3·4 × 3·4"""
    return sm.Kronecker(a(S3), a(S4))


def L2(a):
    """The Laplacian of two variables, 3·3 × 3·3."""
    return sm.KroneckerSum(*[a([[2.0, -1, 0], [-1, 2, -1], [0, -1, 2]])] * 2)


def huge(a):
    return sm.Kronecker(*[a(np.ones((10, 10)) / 10)] * 20)


def many_terms(a):
    S = sm.Separated([a(np.ones((2**20, 1, 1)))])
    return S + S


REFUSALS: list[tuple[Any, ...]] = [
    # --- shapes and arguments
    (1, lambda a: sm.kron(), ValueError, "factors", "empty", "Identity"),
    (1, lambda a: sm.kron([]), ValueError, "factors", "empty", "Identity"),
    (1, lambda a: sm.Separated([]), ValueError, "factors", "empty", "stack"),
    (2, lambda a: sm.Kronecker(a(S3), a([1.0, 2, 3])), sm.ShapeError, r"factors\[1\]", r"\(3,\)", r"a\[:, None\]"),
    (3, lambda a: sm.Kronecker(a(S3), a(2.0)), sm.ShapeError, r"factors\[1\]", r"\(\)", "Multiply by the scalar"),
    (4, lambda a: sm.Kronecker(a(R.standard_normal((2, 3, 3)))), sm.ShapeError, "factors", r"\(2, 3, 3\)", "Separated"),
    (5, lambda a: sm.Dense([[1.0, 2], [3.0, 4, 5]]), sm.ShapeError, "A", "lengths 2, 3", "Pad or cut"),
    (5, lambda a: sm.Circulant([1.0, [2.0]]), sm.ShapeError, "c", "ragged", "."),
    (6, lambda a: sm.Separated([[[[1.0]], [[1.0, 2.0]]]]), sm.ShapeError, r"factors\[0\]", "ragged", "rows"),
    (7, lambda a: sm.Separated([a(np.ones((2, 3, 3))), a(np.ones((3, 4, 4)))]), sm.ShapeError, r"factors\[1\]", "3 terms", "."),
    (7, lambda a: sm.Separated([a(np.ones((3, 3)))]), sm.ShapeError, r"factors\[0\]", r"\(3, 3\)", "."),
    (8, lambda a: sm.Separated([a(np.ones((4, 3, 3)))], scales=a(np.ones(5))), sm.ShapeError, "scales", "5 entries", "."),
    (9, lambda a: K(a) @ a(np.ones(11)), sm.ShapeError, "x", r"\(11,\).*length 12.*3×3 ⊗ 4×4", "sizes"),
    (10, lambda a: K(a) @ a(np.ones(24)), sm.ShapeError, "x", r"\(24,\)", "."),
    (10, lambda a: sm.Circulant(a(np.ones(3))).apply(a(np.ones((2, 4)))), sm.ShapeError, "x", r"\(2, 4\)", "."),
    (11, lambda a: K(a) @ 2.0, sm.ShapeError, "x", r"scalar|shape \(\)", r"2 \* A"),
    (11, lambda a: K(a) @ a(2.0), sm.ShapeError, "x", r"scalar|shape \(\)", r"2 \* A"),
    (12, lambda a: K(a) @ a(np.ones((1, 12))), sm.ShapeError, "x", r"\(1, 12\)", r"x\.ravel\(\) or x @ A"),
    (12, lambda a: K(a) @ a(np.ones((5, 12))), sm.ShapeError, "x", r"\(5, 12\)", r"A @ x\.T or x @ A\.T"),
    (13, lambda a: sm.Dense(a(F32)) + sm.Dense(a(F43)), sm.ShapeError, "B", "4×3; expected 3×2", "."),
    (13, lambda a: sm.Dense(a(F32)) - sm.Diagonal(a([1.0])), sm.ShapeError, "B", "1×1", "."),
    (15, lambda a: sm.Dense(a(F32)) @ sm.Dense(a(F43)), sm.ShapeError, "B", "4×3; expected 2 rows", "."),
    (15, lambda a: sm.Circulant(a([1.0, 2])) @ sm.Circulant(a([1.0, 2, 3])), sm.ShapeError, "B", "3×3", "."),
    (16, lambda a: sm.Circulant(a(np.ones((3, 1)))), sm.ShapeError, "c", r"\(3, 1\).*1-D", "reshape"),
    (17, lambda a: sm.Circulant([], shape=(3, 3)), sm.ShapeError, "shape", r"\(3, 3\).*0 entries", "."),
    (17, lambda a: sm.SkewCirculant(a([1.0, 2.0]), shape=(3, 1)), sm.ShapeError, "shape", "2 entries", "Toeplitz"),
    (17, lambda a: sm.Circulant(a([1.0, 2.0]), shape=4), sm.ShapeError, "shape", "4", "."),
    (18, lambda a: sm.Toeplitz(a([1.0, 5]), a([2.0, 3])), ValueError, "r", r"r\[0\] = 2.0 and c\[0\] = 1.0", "Set one"),
    (18, lambda a: sm.Hankel(a([1.0, 5]), a([2.0, 3])), ValueError, "r", r"r\[0\] = 2.0 and c\[-1\] = 5.0", "Set one"),
    (19, lambda a: sm.Toeplitz(a(np.zeros(0)), a([1.0, 2.0])), sm.ShapeError, "c", "empty.*corner", "."),
    (19, lambda a: sm.Hankel(a([1.0]), a(np.zeros(0))), sm.ShapeError, "r", "empty.*corner", "."),
    (20, lambda a: sm.LowDisplacementRank(a(np.ones((4, 2))), a(np.ones((4, 3)))), sm.ShapeError, "H", r"\(4, 3\).*\(4, 2\)", "."),
    (20, lambda a: sm.LowRank(a(np.ones((4, 2))), a(np.ones((5, 3)))), sm.ShapeError, "V", r"\(5, 3\).*2 columns", "."),
    (21, lambda a: sm.displacement(a(S3), 1, 1), ValueError, "g", "1.*= f", "singular"),
    (22, lambda a: sm.solve(sm.Dense(a(F32)), a(np.ones(3))), sm.ShapeError, "A", "3×2", r"lstsq\("),
    (22, lambda a: sm.solve(sm.Kronecker(a(F32), a(S3)), a(np.ones(9))), sm.ShapeError, "A", "9×6", r"lstsq\("),
    (22, lambda a: sm.inverse(sm.LowRank(a(F32), a(F43[:, :2]))), sm.ShapeError, "A", "3×4", "lstsq"),
    (22, lambda a: sm.KroneckerSum(a(F32), a(S3)), sm.ShapeError, r"factors\[0\]", "3×2", "square"),
    (22, lambda a: sm.solve(K(a), a(np.ones(11))), sm.ShapeError, "b", r"\(11,\)", "."),
    (22, lambda a: sm.solve(K(a), a(np.ones((12, 1, 1)))), sm.ShapeError, "b", r"\(12, 1, 1\)", "."),
    (23, lambda a: sm.solve(sm.Kronecker(a(F32), a(F32.T)), a(np.ones(6))), sm.SingularMatrixError, "A", "rank <= 4 < 6", "lstsq"),
    (24, lambda a: sm.nearest_kronecker(a(np.ones((40, 6))), ((6, 2), (7, 3))), sm.ShapeError, "shapes", "6·7 ≠ 40", "Divisors of 40: 1, 2, 4, 5"),
    (24, lambda a: sm.rearrange(a(np.ones((6, 6))), 3), sm.ShapeError, "shapes", "3", "."),
    (25, lambda a: K(a).apply(a(np.ones(12)), axis=1), ValueError, "axis", "1; expected an integer from -1 to 0", "."),
    (25, lambda a: K(a).apply(a(np.ones(12)), axis=-2), ValueError, "axis", "-2", "."),
    (25, lambda a: K(a).apply(a(np.ones(12)), axis=0.5), ValueError, "axis", "0.5", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), 0), ValueError, "rank", "0; expected an integer >= 1", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), -1), ValueError, "rank", "-1", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), 2.5), TypeError, "rank", "2.5", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), "2"), TypeError, "rank", "'2'", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), True), TypeError, "rank", "True", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3)), ValueError, "rank", "0 given; expected exactly one", "."),
    (26, lambda a: sm.nearest_low_rank(a(S3), rank=1, tol=0.1), ValueError, "rank", "2 given", "."),
    (26, lambda a: sm.Identity(2.5), TypeError, "n", "2.5", "."),
    (26, lambda a: sm.Identity(True), TypeError, "n", "True", "."),
    (26, lambda a: sm.Identity(-1), ValueError, "n", "-1", "."),
    (27, lambda a: sm.nearest_low_rank(a(S3), 4), ValueError, "rank", "4 > 3 possible", "."),
    (27, lambda a: sm.nearest_kronecker(a(np.ones((6, 6))), ((2, 2), (3, 3)), rank=5), ValueError, "rank", "5 > 4 possible", "."),
    *(
        (28, lambda a, t=t: sm.nearest_low_rank(a(S3), tol=t), (ValueError, TypeError), "tol", str(t), ".")
        for t in (-1.0, float("nan"), float("inf"), "1e-8", 0.0, 1.0)
    ),
    (28, lambda a: sm.displacement_rank(a(S3), tol=-1), ValueError, "tol", "-1", "."),
    *(
        (
            29,
            lambda a, k=k: sm.interop.cg(sm.Circulant([2.0, 1, 0, 1]), np.ones(4), maxiter=k),
            (ValueError, TypeError),
            "maxiter",
            re.escape(str(k)),
            ".",
        )
        for k in (-1, 0, 1e30, 2.5, True)
    ),
    (30, lambda a: sm.approximate(a(S3), 4, structures=["toplitz"]), ValueError, "structures", "'toplitz'; expected one of toeplitz", "Did you mean 'toeplitz'"),
    (30, lambda a: sm.nearest_separated(a(S3), "best", rank=1), ValueError, "shapes", "'best'; expected one of auto", "."),
    (30, lambda a: K(a).to_device("moon"), RuntimeError, "device", "'moon'", "."),
    (30, lambda a: sm.norm(K(a), "frob"), ValueError, "ord", "'frob'; expected 'fro'", "'fro'"),
    (30, lambda a: sm.norm(K(a), 3), ValueError, "ord", "3", "fro"),
    (30, lambda a: sm.norm(K(a), -2), ValueError, "ord", "-2", "fro"),
    (31, lambda a: sm.Toeplitz(a([1.0]), row=a([1.0])), TypeError, None, None, None),
    (31, lambda a: sm.solve(K(a), a(np.ones(12)), assume="pos"), TypeError, None, None, None),
    (32, lambda a: sm.solve(a(np.ones(12)), K(a)), TypeError, "A", "a (ndarray|Array|Tensor)", r"Dense\(A\)"),
    (32, lambda a: sm.norm(a(S3)), TypeError, "A", "structured matrix", r"Dense\(A\)"),
    (32, lambda a: K(a)[0], TypeError, "index", "0", r"A\[i, :\]"),
    (32, lambda a: K(a)[0, "1"], TypeError, "index", "'1'", r"A\[i, :\]"),
    (32, lambda a: K(a)[0, 1.0], TypeError, "index", "1.0", r"A\[i, :\]"),
    (32, lambda a: K(a)[12, 0], IndexError, "i", "12; expected integers from -12 to 11", "."),
    (32, lambda a: K(a).block([0], [-13]), IndexError, "cols", "-13", "."),
    # --- types and values
    *(
        (33, lambda a, v=v: sm.Dense(v), TypeError, "A", "dtype|str|bytes", ".")
        for v in (
            np.array([[object()]]),
            np.array([["a"]]),
            np.array([["2020-01-01"]], "M8[D]"),
            "abc",
            b"abc",
            np.zeros((1, 1), [("x", float)]),
            [["a", "b"]],
        )
    ),
    (33, lambda a: K(np.asarray) @ np.array(["1"] * 12), TypeError, "x", "dtype <U1", "."),
    (34, lambda a: sm.Toeplitz(["1", "2"]), TypeError, "c", "dtype <U1", "Convert"),
    (34, lambda a: sm.Toeplitz([b"1", b"2"]), TypeError, "c", "dtype", "Convert"),
    *(
        (35, lambda a, v=v: sm.Kronecker(S3, v), TypeError, r"factors\[1\]", "None|set|dict|generator", ".")
        for v in (None, {1, 2}, {"a": 1}, (x for x in [1]))
    ),
    *(
        (35, lambda a, v=v: sm.Circulant(v), TypeError, "c", "None|set|dict|generator|Fraction|dtype|object", ".")
        for v in (None, {1, 2}, {"a": 1}, (x for x in [1]), [Fraction(1, 2)], object())
    ),
    (36, lambda a: sm.Dense(np.ma.masked_array(S3, np.eye(3) > 0)), TypeError, "A", "3 entries are masked", "filled"),
    (36, lambda a: sm.Circulant(np.ma.masked_array([1.0, 2.0])), TypeError, "c", "0 entries are masked", "filled"),
    (36, lambda a: sm.Circulant([1.0, 2.0]) @ np.ma.masked_array([1.0, 2.0]), TypeError, "x", "masked", "filled"),
    *((37, lambda a, f=f: f(scipy.sparse.csr_array(np.eye(3))), TypeError, "factors|A|x|M", "sparse", r"\.toarray\(\)") for f in (
        sm.Dense, lambda s: sm.Kronecker(S3, s), lambda s: sm.Dense(S3) @ s, lambda s: sm.nearest_low_rank(s, 1))),
    (38, lambda a: sm.Dense(np.array([[2**53 + 1]])), ValueError, r"A\[0, 0\]", "9007199254740993 is not exact", "yourself"),
    (38, lambda a: sm.Circulant([1.0, 2.0]) @ np.array([0, 2**62 + 1]), ValueError, r"x\[1\]", "4611686018427387905", "."),
    (39, lambda a: sm.Dense(S3.astype(np.float16)), TypeError, "A", "float16", r"astype\('float32'\)"),
    (39, lambda a: sm.Dense(S3.astype(np.longdouble)), TypeError, "A", "float128|longdouble", "."),
    (39, lambda a: sm.Dense(S3.astype(np.clongdouble)), TypeError, "A", "complex256|clongdouble", "."),
    (39, lambda a: K(np.asarray) @ np.ones(12, np.float16), TypeError, "x", "float16", "float32"),
    (40, lambda a: sm.Dense(a(S3 + 0j)).astype("float64"), TypeError, "dtype", "complex matrix", "imaginary"),
    (40, lambda a: K(a).astype("int32"), TypeError, "dtype", "int32", "float32, float64"),
    (41, lambda a: sm.solve(K(a), a([np.nan] * 2 + [1.0] * 10)), sm.NonFiniteError, "b", r"2 non-finite entries, first at \[0\]", "."),
    (41, lambda a: sm.solve(sm.Dense(a([[1, np.inf], [0, 1]])), a([1.0, 1])), sm.NonFiniteError, "A", r"1 non-finite.*\[0, 1\]", "."),
    (41, lambda a: sm.nearest_low_rank(a([[1, np.nan], [0, 1]]), 1), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (41, lambda a: sm.nearest_toeplitz(a([[1, np.nan], [0, 1]])), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (41, lambda a: sm.svdvals(sm.Circulant(a([1, np.nan]))), sm.NonFiniteError, "A", r"\[1\]", "."),
    (41, lambda a: sm.displacement_rank(a([[1, np.nan], [0, 1]])), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (42, lambda a: sm.slogdet(sm.Separated([a(S3[None])], scales=a([np.nan]))), sm.NonFiniteError, "A", r"1 non-finite entries, first at \[0\]", "."),
    (44, lambda a: sm.solve(sm.Kronecker(a(np.zeros((2, 2))), a(S3)), a(np.ones(6))), np.linalg.LinAlgError, r"A\.factors\[0\]", "singular", "lstsq"),
    (44, lambda a: sm.solve(sm.Separated([a(np.zeros((0, 3, 3)))]), a(np.ones(3))), np.linalg.LinAlgError, "A", "singular", "lstsq"),
    (44, lambda a: sm.solve(sm.Separated([a(np.ones((2, 3, 3)))], scales=a([0.0, 0.0])), a(np.ones(3))), np.linalg.LinAlgError, "A", "singular", "lstsq"),
    (45, lambda a: sm.solve(sm.Kronecker(a(np.ones((2, 2))), a(S3)), a(np.ones(6))), np.linalg.LinAlgError, r"A\.factors\[0\]", "rcond 0", "lstsq"),
    (46, lambda a: sm.solve(sm.Kronecker(a(BAD3), a(S3)), a(np.ones(9))), np.linalg.LinAlgError, r"A\.factors\[0\]", r"rcond \d\.\de.* < n u", "lstsq"),
    (47, lambda a: sm.solve(sm.Circulant(a(np.array([1, -1 + 1e-9, 0, 0]), "float32")), a(np.ones(4), "float32")), np.linalg.LinAlgError, "A", "rcond.*< n u = 2.4e-07", "lstsq"),
    (44, lambda a: sm.inverse(0.0 * sm.Identity(3, like=a(1.0))), np.linalg.LinAlgError, "A", "scale is 0", "lstsq"),
    (44, lambda a: sm.schulz_inverse(0 * sm.convert(K(a), sm.Separated), 1e-3), np.linalg.LinAlgError, "A", "zero", "Identity"),
    (51, lambda a: sm.solve(K(a), a(np.ones(12)), spd=True), TypeError, None, "spd", None),
    (52, lambda a: sm.interop.minres(sm.Diagonal([1.0, 2.0]), np.ones(2), M=sm.Diagonal([-1.0, -1.0])), (ValueError, np.linalg.LinAlgError), "A", "definite", "gmres"),
    (53, lambda a: sm.sign(L2(a), 1e-6, shift=1j), TypeError, "shift", "1j; expected a finite number", "float"),
    (54, lambda a: sm.schulz_inverse(L2(a), 1e-6, start=10.0), ValueError, "start", r"‖I − A X_0‖.*\d.*expected.*< 1", "default start works"),
    # --- memory and size
    (57, lambda a: sm.Circulant(a(np.ones(10**6))).to_dense(), MemoryError, "size", r"8.0 TB \(1000000×1000000\).*1.1 GB", r"A @ x, A\[i, j\], A.block.*max_bytes"),
    (57, lambda a: K(a).to_dense(max_bytes=100), MemoryError, "size", "1.2 kB", "."),
    (57, lambda a: K(a).block(slice(None), slice(None), max_bytes=100), MemoryError, "size", "1.2 kB", "."),
    (58, lambda a: np.asarray(sm.Circulant(np.ones(10**6))), MemoryError, "size", "8.0 TB", "."),
    (58, lambda a: K(a) + a(np.ones((12, 12))), TypeError, "B", "a (ndarray|Array|Tensor)", r"Dense\(B\)"),
    (58, lambda a: K(a) * K(a), TypeError, "s", "Kronecker", "A @ B"),
    (58, lambda a: 2 / K(a), TypeError, "A", "Kronecker", "inverse"),
    (58, lambda a: K(a) ** 2, TypeError, "A", "Kronecker", "A @ A"),
    (58, lambda a: K(a) * "2", TypeError, "s", "str", "."),
    (58, lambda a: K(a) * a([1.0, 2.0]), TypeError, "s", r"\(2,\)", "Diagonal"),
    (61, lambda a: huge(a) @ a(np.ones(10)), MemoryError, "x", "N=100000000000000000000", "norm or trace"),
    (61, lambda a: huge(a).to_dense(), MemoryError, "size", "bytes", "."),
    (62, lambda a: sm.norm(sm.Separated([a(np.ones((10**5, 1, 1)))] * 3)), MemoryError, "size", r"80.0 GB \(100000×100000\)", "terms"),
    (63, lambda a: many_terms(a), MemoryError, "terms", "2097152", "."),
]


# cases with a value ---------------------------------------------------------------------------------------------------------


def splits_differ(b):
    """14: the lazy sum is right, and a function that needs one splitting says both."""
    A, B = sm.Kronecker(b(S3), b(S4)), sm.Kronecker(b(S4), b(S3))
    try:
        sm.solve(A + B, b(np.ones(12)))
    except sm.UnsupportedError as e:
        return type(A + B) is sm.Sum and "3×3 ⊗ 4×4" in str(e) and "4×4 ⊗ 3×3" in str(e)
    return False


def infinity_times_zero(b, A, bad):
    """43: what depends on NaN or infinity through a stored nonzero is not finite."""
    y = host(A @ b([0.0] * 5 + [bad] + [0.0] * 6))
    return not np.isfinite(y[host(A.to_dense())[:, 5] != 0]).any()


def chain_60():
    """The order that grows first would need 10^12 numbers, the one chosen needs 10^6."""
    tall, wide = TALL[0], TALL[1]
    return np.outer(tall[:, 0], tall[:, 0]).reshape(-1).astype(np.longdouble) * np.sum(wide.astype(np.longdouble)) ** 2


TALL = (np.random.default_rng(1).standard_normal((1000, 1)), np.random.default_rng(2).standard_normal((1, 1000)))
SHIFT = np.array([1.0, -0.5, 0.25, 0.125])
COLUMN = np.array([0.25, 0.5, -0.25, 0.125])


def circulant(c):
    return np.array([[c[(i - j) % len(c)] for j in range(len(c))] for i in range(len(c))], np.longdouble)


def toeplitz(c, r=None):
    r = np.conj(c) if r is None else r
    return np.array([[c[i - j] if i >= j else r[j - i] for j in range(len(r))] for i in range(len(c))])


def shared_entry(b):
    """43 for the entries that stand in every class: c[0] is NaN."""
    return not np.isfinite(host(sm.Circulant(b([np.nan, 1, 1])) @ b([1.0, 0, 0]))[0])


def solved(b, c, x, u=2.0**-53):
    """50: the residual of a Toeplitz solve is at the round-off, by the limit of the comparison (30)."""
    T = toeplitz(np.array(c))
    y = host(sm.solve(sm.Toeplitz(b(c)), b(T @ np.array(x))))
    residual = np.linalg.norm(T @ y - T @ np.array(x))
    return bool(residual <= 30 * u * np.linalg.norm(T, 2) * np.linalg.norm(y))


def temporary_memory(b):
    """59: at most three times the largest intermediate beside the result."""
    import tracemalloc

    A, x = sm.Kronecker(*[b(np.eye(8))] * 6), b(np.ones(8**6))
    A @ x
    tracemalloc.start()
    y = A @ x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return bool(peak <= 4 * 8**7) and y.shape == (8**6,)


VALUES = [
    ("7.14", "3·4 + 4·3", splits_differ, TRUE, "other", "shape"),
    ("7.17", "circulant of nothing", lambda b: sm.Circulant(b(np.zeros(0))).to_dense(), Value(np.zeros((0, 0))), "build", "empty"),
    ("7.14", "3·4 + 4·3 as a matrix", lambda b: (sm.Kronecker(b(S3), b(S4)) + sm.Kronecker(b(S4), b(S3))).to_dense(), Value(np.kron(S3.astype("longdouble"), S4) + np.kron(S4.astype("longdouble"), S3)), "other", "shape"),
    *(
        (
            "7.43",
            f"{bad} in {name}",
            lambda b, A=A, bad=bad: infinity_times_zero(b, A(b), bad),
            TRUE,
            "product",
            "nonfinite",
        )
        for bad in (np.nan, np.inf, -np.inf)
        for name, A in (
            ("Kronecker", K),
            ("Circulant", lambda b: sm.Circulant(b(np.ones(12)))),
            ("Diagonal", lambda b: sm.Diagonal(b(np.ones(12)))),
            ("Dense", lambda b: sm.Dense(b(np.ones((12, 12))))),
            ("LowRank", lambda b: sm.LowRank(b(np.ones((12, 2))), b(np.ones((12, 2))))),
        )
    ),
    ("7.43", "NaN in c", shared_entry, TRUE, "product", "nonfinite"),
    ("7.48", "c near 1e308", lambda b: sm.Circulant(b(SHIFT * 1e308)) @ b(COLUMN), Value(circulant(SHIFT * 1e308) @ COLUMN), "circulant product", "scale"),
    ("7.48", "solve, c near 1e308", lambda b: sm.solve(sm.Circulant(b(SHIFT * 1e308)), b(circulant(SHIFT * 1e308).astype(float) @ COLUMN)), Value(COLUMN), "circulant solve", "scale"),
    ("7.49", "subnormal c", lambda b: sm.Circulant(b(SHIFT * 2.0**-1050)) @ b(COLUMN), Value(circulant(SHIFT * 2.0**-1050) @ COLUMN, scale=2.0**-1020), "circulant product", "scale"),
    ("7.49", "solve, subnormal c", lambda b: sm.solve(sm.Circulant(b(SHIFT * 2.0**-1050)), b(circulant(SHIFT).astype(float) @ COLUMN * 2.0**-1050)), Value(COLUMN), "circulant solve", "scale"),
    ("7.49", "log|det|, subnormal c", lambda b: sm.slogdet(sm.Circulant(b(SHIFT * 2.0**-1050))).logabsdet, Value(np.linalg.slogdet(circulant(SHIFT).astype(float))[1] - 4 * 1050 * np.log(2.0)), "other", "scale"),
    *(
        ("7.50", f"t = {c}", lambda b, c=c, x=x: solved(b, c, x), TRUE, "Toeplitz solve", "singular")
        for c, x in (
            ([0.0, 1, 2], [1.0, 1, 1]),
            ([1e-13, 1, 1, -1], [1.0, -1, 2, 0]),
            ([1.0, 1.0, 0.5], [1.0, 2, 3]),
            ([0.0, 1], [1.0, 2]),
        )
    ),
    ("7.59", "temporary memory", temporary_memory, TRUE, "product", "size", ("numpy",)),
    ("7.60", "tall ⊗ tall ⊗ wide ⊗ wide", lambda b: sm.Kronecker(b(TALL[0]), b(TALL[0]), b(TALL[1]), b(TALL[1])) @ b(np.ones(10**6)), Value(chain_60, scale=3e6), "product", "size"),
    ("7.61", "20 factors, an entry", lambda b: sm.Kronecker(*[b(np.diag(np.arange(1.0, 11)))] * 20)[10**20 - 1, -1], Value(1e20), "entries", "size"),
    ("7.61", "20 factors, the trace", lambda b: sm.trace(sm.Kronecker(*[b(np.diag(np.arange(1.0, 11)))] * 20)), Value(55.0**20), "other", "size"),
    ("7.61", "20 factors, the norm", lambda b: sm.norm(sm.Kronecker(*[b(np.diag(np.arange(1.0, 11)))] * 20)), Value(385.0**10), "other", "size"),
    ("7.61", "20 factors, log|det|", lambda b: sm.slogdet(sm.Kronecker(*[b(np.diag(np.arange(1.0, 11)))] * 20)).logabsdet, Value(2e20 * np.log(3628800.0)), "other", "size"),
    ("7.61", "20 factors, the shape", lambda b: sm.Kronecker(*[b(np.ones((10, 1)))] * 20).shape == (10**20, 1), TRUE, "build", "size"),
    ("7.61", "sum of 20 factors", lambda b: sm.KroneckerSum(*[b(np.diag(np.arange(1.0, 11)))] * 20)[10**20 - 1, 10**20 - 1], Value(200.0), "entries", "size"),
]

MORE = [
    *(
        (
            "7.61",
            f"{f.__name__} of {name}",
            lambda b, f=f, A=A: f(A(b)),
            Refusal(MemoryError, "size", "needs .*bytes|EB|PB"),
            "other",
            "size",
        )
        for name, A, rules in (
            ("20 factors", lambda b: sm.Kronecker(*[b(np.eye(10))] * 20), (sm.diagonal, sm.eigvals, sm.svdvals)),
            ("a sum of 20", lambda b: sm.KroneckerSum(*[b(np.eye(10))] * 20), (sm.diagonal, sm.eigvals)),
            ("the identity", lambda b: sm.Identity(10**20, like=b(1.0)), (sm.diagonal, sm.eigvals, sm.svdvals)),
        )
        for f in rules
    ),
    ("7.60", "a result that is too large", lambda b: sm.Kronecker(b(np.ones((2**20, 1))), b(np.ones((2**20, 1)))) @ b(np.ones(1)), Refusal(MemoryError, "size", "TB.*GB", "fewer columns"), "product", "size"),
    ("7.55", "tol below u", lambda b: sm.nearest_low_rank(b(S3), tol=1e-17).relative_error < 1e-14, TRUE, "fit", "tolerance", sm.PrecisionWarning),
    ("7.55", "tol below u in float32", lambda b: sm.nearest_low_rank(b(S3, "float32"), tol=1e-9).relative_error < 1e-6, TRUE, "fit", "tolerance", sm.PrecisionWarning),
    ("7.56", "κ above 1/u", lambda b: cancelling(b, 4e-15).condition_number > 1e14, TRUE, "other", "tolerance"),
    ("7.56", "compress below u κ", lambda b: sm.compress(cancelling(b), tol=1e-12).relative_error < 1, TRUE, "fit", "tolerance", (sm.PrecisionWarning, sm.ConvergenceWarning)),
]


def cancelling(b, part=1e-12):
    """Two terms whose difference is a small part of them: κ is its inverse."""
    A = np.stack([S3, S3 + part * np.eye(3)])
    B = np.stack([S4, S4 + part * np.eye(4)])
    return sm.Separated([b(A), b(B)], b([1.0, -1.0]) * 1.0)


def _operation(number):
    return "shapes and arguments" if number < 33 else "types and values" if number < 57 else "memory and size"


def cases():
    seen = {}
    for number, call, kind, argument, got, advice in REFUSALS:
        seen[number] = letter = chr(ord(seen.get(number, "`")) + 1)
        kinds = (
            "shape"
            if number < 33
            else "dtype"
            if number < 41
            else "nonfinite"
            if number < 44
            else "singular"
            if number < 57
            else "size"
        )
        promise = Refusal(kind, argument, got or ".", advice or ".")
        yield Case(f"7.{number}", f"bad input {letter}", call, promise, _operation(number), kinds)
    for row, what, call, promise, operation, kind, *on in VALUES:
        yield Case(row, what, call, promise, operation, kind, *on)
    for row, what, call, promise, operation, kind, *warns in MORE:
        yield Case(row, what, call, promise, operation, kind, warns=warns[0] if warns else None)
