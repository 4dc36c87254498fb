"""Bad input and borderline input: a correct result or a clear error, never a silent wrong answer.

The table follows the catalogue of cases: 1-32 shapes and arguments, 33-56 types and values, 57-63 memory and size.
Every error is one of the library's classes and of a built-in one, and its message has the five parts
`where: argument: what it was; expected what. What to do.`

Not here yet, with what brings them: 29 (max_iter) and 51-54 (Cholesky, logarithms, Schulz) with the iterations, 56 with
compress; 6 cannot occur, because the terms of Separated are stacked.
"""

import concurrent.futures
import os
import re
import subprocess
import sys
import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from conftest import check, host, namespace
from test_contract import Built

import sepmat as sm

R = np.random.default_rng(0)
F32, F43, F34 = R.standard_normal((3, 2)), R.standard_normal((4, 3)), R.standard_normal((3, 4))
S3, S4 = R.standard_normal((3, 3)), R.standard_normal((4, 4))
BAD3 = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]


def K(a):
    """3·4 × 3·4"""
    return sm.Kronecker(a(S3), a(S4))


# (number of the case, call, class of the error, regular expressions for argument, value, advice)
CASES = [
    # --- shapes and arguments
    (1, lambda a: sm.kron(), ValueError, "factors", "empty", "Identity"),
    (1, lambda a: sm.kron([]), ValueError, "factors", "empty", "Identity"),
    (1, lambda a: sm.Separated([]), ValueError, "factors", "empty", "stack"),
    (2, lambda a: sm.Kronecker(a(S3), a([1.0, 2, 3])), sm.ShapeError, r"factors\[1\]", r"\(3,\)", r"a\[:, None\]"),
    (3, lambda a: sm.Kronecker(a(S3), a(2.0)), sm.ShapeError, r"factors\[1\]", r"\(\)", "Multiply by the scalar"),
    (4, lambda a: sm.Kronecker(a(R.standard_normal((2, 3, 3)))), sm.ShapeError, "factors", r"\(2, 3, 3\)", "Separated"),
    (5, lambda a: sm.Dense([[1.0, 2], [3.0, 4, 5]]), sm.ShapeError, "A", "lengths 2, 3", "Pad or cut"),
    (5, lambda a: sm.Circulant([1.0, [2.0]]), sm.ShapeError, "c", "ragged", "."),
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
    *((28, lambda a, t=t: sm.nearest_low_rank(a(S3), tol=t), (ValueError, TypeError), "tol", str(t), ".")
      for t in (-1.0, float("nan"), float("inf"), "1e-8", 0.0, 1.0)),
    (28, lambda a: sm.displacement_rank(a(S3), tol=-1), ValueError, "tol", "-1", "."),
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
    *((33, lambda a, v=v: sm.Dense(v), TypeError, "A", "dtype|str|bytes", ".") for v in (
        np.array([[object()]]), np.array([["a"]]), np.array([["2020-01-01"]], "M8[D]"), "abc", b"abc",
        np.zeros((1, 1), [("x", float)]), [["a", "b"]])),
    (33, lambda a: K(np.asarray) @ np.array(["1"] * 12), TypeError, "x", "dtype <U1", "."),
    (34, lambda a: sm.Toeplitz(["1", "2"]), TypeError, "c", "dtype <U1", "Convert"),
    (34, lambda a: sm.Toeplitz([b"1", b"2"]), TypeError, "c", "dtype", "Convert"),
    *((35, lambda a, v=v: sm.Kronecker(S3, v), TypeError, r"factors\[1\]", "None|set|dict|generator", ".") for v in (
        None, {1, 2}, {"a": 1}, (x for x in [1]))),
    *((35, lambda a, v=v: sm.Circulant(v), TypeError, "c", "None|set|dict|generator|Fraction|dtype|object", ".") for v in (
        None, {1, 2}, {"a": 1}, (x for x in [1]), [Fraction(1, 2)], object())),
    (36, lambda a: sm.Dense(np.ma.masked_array(S3, np.eye(3) > 0)), TypeError, "A", "3 entries are masked", "filled"),
    (36, lambda a: sm.Circulant(np.ma.masked_array([1.0, 2.0])), TypeError, "c", "0 entries are masked", "filled"),
    (36, lambda a: sm.Circulant([1.0, 2.0]) @ np.ma.masked_array([1.0, 2.0]), TypeError, "x", "masked", "filled"),
    (38, lambda a: sm.Dense(np.array([[2**53 + 1]])), ValueError, r"A\[0, 0\]", "9007199254740993 is not exact", "yourself"),
    (38, lambda a: sm.Circulant([1.0, 2.0]) @ np.array([0, 2**62 + 1]), ValueError, r"x\[1\]", "4611686018427387905", "."),
    (39, lambda a: sm.Dense(S3.astype(np.float16)), TypeError, "A", "float16", r"astype\('float32'\)"),
    (39, lambda a: sm.Dense(S3.astype(np.longdouble)), TypeError, "A", "float128|longdouble", "."),
    (39, lambda a: sm.Dense(S3.astype(np.clongdouble)), TypeError, "A", "complex256|clongdouble", "."),
    (39, lambda a: K(np.asarray) @ np.ones(12, np.float16), TypeError, "x", "float16", "float32"),
    (40, lambda a: sm.Dense(a(S3 + 0j)).astype(np.float64 if a is np.asarray else "float64"), TypeError, "dtype", "complex matrix", "imaginary"),
    (40, lambda a: K(a).astype("int32"), TypeError, "dtype", "int32", "float32, float64"),
    (41, lambda a: sm.solve(K(a), a([np.nan] * 2 + [1.0] * 10)), sm.NonFiniteError, "b", r"2 non-finite entries, first at \[0\]", "."),
    (41, lambda a: sm.solve(sm.Dense(a([[1, np.inf], [0, 1]])), a([1.0, 1])), sm.NonFiniteError, "A", r"1 non-finite.*\[0, 1\]", "."),
    (41, lambda a: sm.nearest_low_rank(a([[1, np.nan], [0, 1]]), 1), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (41, lambda a: sm.nearest_toeplitz(a([[1, np.nan], [0, 1]])), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (41, lambda a: sm.svdvals(sm.Circulant(a([1, np.nan]))), sm.NonFiniteError, "A", r"\[1\]", "."),
    (41, lambda a: sm.displacement_rank(a([[1, np.nan], [0, 1]])), sm.NonFiniteError, "M", r"\[0, 1\]", "."),
    (42, lambda a: sm.slogdet(sm.Separated([a(S3[None])], scales=a([np.nan]))), sm.NonFiniteError, "A", r"1 non-finite entries, first at \[0\]", "."),
    (44, lambda a: sm.solve(sm.Kronecker(a(np.zeros((2, 2))), a(S3)), a(np.ones(6))), np.linalg.LinAlgError, r"factors\[0\]", "singular", "lstsq"),
    (44, lambda a: sm.solve(sm.Separated([a(np.zeros((0, 3, 3)))]), a(np.ones(3))), np.linalg.LinAlgError, "A", "singular", "lstsq"),
    (44, lambda a: sm.solve(sm.Separated([a(np.ones((2, 3, 3)))], scales=a([0.0, 0.0])), a(np.ones(3))), np.linalg.LinAlgError, "A", "singular", "lstsq"),
    (45, lambda a: sm.solve(sm.Kronecker(a(np.ones((2, 2))), a(S3)), a(np.ones(6))), np.linalg.LinAlgError, r"factors\[0\]", "rcond 0", "lstsq"),
    (46, lambda a: sm.solve(sm.Kronecker(a(BAD3), a(S3)), a(np.ones(9))), np.linalg.LinAlgError, r"factors\[0\]", r"rcond \d\.\de.* < n u", "lstsq"),
    (47, lambda a: sm.solve(sm.Circulant(a(np.array([1, -1 + 1e-9, 0, 0]), "float32")), a(np.ones(4), "float32")), np.linalg.LinAlgError, "A", "rcond.*< n u = 2.4e-07", "lstsq"),
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
]  # fmt: skip


def huge(a):
    return sm.Kronecker(*[a(np.ones((10, 10)) / 10)] * 20)


def many_terms(a):
    S = sm.Separated([a(np.ones((2**20, 1, 1)))])
    return S + S


def arrays_of(xp):
    return lambda x, dtype=None: xp.asarray(np.asarray(x, dtype or (np.result_type(np.asarray(x), float))), copy=True)


def form(e):
    """The five parts of a message, all there, and put together as promised."""
    assert isinstance(e, sm.SepmatError), f"{type(e).__name__}: {e}"
    assert len(e.args) == 5 and all(isinstance(p, str) and p.strip() for p in e.args), e.args
    where, argument, got, expected, advice = e.args
    assert str(e) == f"{where}: {argument}: {got}; expected {expected}. {advice}."
    assert not advice.endswith(".") and "\n" not in str(e) and len(str(e)) < 600
    assert advice[0].isupper() or advice[0] in "'a`", advice
    assert any(isinstance(e, c) for c in (ValueError, TypeError, MemoryError, np.linalg.LinAlgError, NotImplementedError,
                                         IndexError, RuntimeError))  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    "number, call, kind, argument, got, advice", CASES, ids=lambda v: v if isinstance(v, int) else ""
)
def test_bad_input(number, call, kind, argument, got, advice, backend):
    with pytest.raises(kind) as caught:
        call(arrays_of(namespace(backend)))
    if argument:
        form(caught.value)
        caught.match(f"^[^:]+: {argument}[^:]*: .*")
        caught.match(got)
        assert re.search(advice, caught.value.args[4]), caught.value.args[4]


def test_every_case_is_there():
    """The catalogue from 1 to 63, but for the cases that the head of this file accounts for."""
    elsewhere = {14, 37, 43, 48, 49, 50, 55, 59, 60}  # functions of their own below
    later = {6, 29, 51, 52, 53, 54, 56}
    assert {c[0] for c in CASES} == set(range(1, 64)) - elsewhere - later


# --- cases with a value -----------------------------------------------------------------------------------------------------------


def test_14_sums_of_different_splits_stay_right():
    A, B = sm.Kronecker(S3, S4), sm.Kronecker(S4, S3)
    assert type(A + B) is sm.Sum
    np.testing.assert_allclose((A + B).to_dense(), np.kron(S3, S4) + np.kron(S4, S3), rtol=1e-14, atol=1e-14)
    with pytest.raises(sm.UnsupportedError, match=r"Kronecker.*Use"):
        sm.solve(A + B, np.ones(12))


def test_37_sparse_matrices():
    import scipy.sparse

    for call in (
        lambda s: sm.Dense(s),
        lambda s: sm.Kronecker(S3, s),
        lambda s: sm.Dense(S3) @ s,
        lambda s: sm.nearest_low_rank(s, 1),
    ):
        with pytest.raises(TypeError, match=r"sparse.*toarray\(\)") as e:
            call(scipy.sparse.csr_array(np.eye(3)))
        form(e.value)


def test_43_infinity_times_zero(xp):
    a = arrays_of(xp)
    for A in (K(a), sm.Circulant(a(np.ones(12))), sm.Diagonal(a(np.ones(12))), sm.Dense(a(np.ones((12, 12))))):
        for bad in (np.nan, np.inf):
            y = host(A @ a([0.0] * 5 + [bad] + [0.0] * 6))
            depends = host(A.to_dense())[:, 5] != 0
            assert not np.isfinite(y[depends]).any()


@pytest.mark.parametrize("scale", [1e308, 5e-324 * 2**20])
def test_48_49_circulants_at_the_edges_of_the_range(scale):
    c = np.array([1.0, -0.5, 0.25, 0.125])
    x = np.array([0.25, 0.5, -0.25, 0.125])
    np.testing.assert_allclose(sm.Circulant(c * scale) @ x, (sm.Circulant(c) @ x) * scale, rtol=1e-5)
    np.testing.assert_allclose(sm.solve(sm.Circulant(c * scale), x * scale), sm.solve(sm.Circulant(c), x), rtol=1e-5)
    assert np.isfinite(sm.slogdet(sm.Circulant(c * scale)).logabsdet)


def test_55_tolerance_below_the_precision():
    with pytest.warns(sm.PrecisionWarning, match=r"\d"):
        fit = sm.nearest_low_rank(S3, tol=1e-17)
    assert fit.relative_error < 1e-14
    with pytest.warns(sm.PrecisionWarning):
        sm.nearest_low_rank(S3.astype(np.float32), tol=1e-9)


def test_59_memory_of_a_product():
    """Temporary memory of a Kronecker product: a small multiple of x and of the largest intermediate."""
    factors = [np.eye(8)] * 7
    x = np.ones(8**7)
    A = sm.Kronecker(*factors)
    A @ x[:, None][:, :1]
    tracemalloc.start()
    y = A @ x
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 4 * x.nbytes and y.nbytes == x.nbytes


def test_60_intermediates_are_bounded():
    """An order that grows first would need 10^12 numbers; the one chosen needs 10^6."""
    tall, wide = R.standard_normal((1000, 1)), R.standard_normal((1, 1000))
    A = sm.Kronecker(tall, tall, wide, wide)
    x = R.standard_normal(10**6)
    y = A @ x
    expected = np.outer(tall[:, 0], tall[:, 0]).reshape(-1) * (wide[0] @ x.reshape(1000, 1000) @ wide[0])
    check(np.linalg.norm(y - expected), np.linalg.norm(expected) * np.linalg.norm(x), 2002, "float64")
    column = np.broadcast_to(np.ones((1, 1)), (2**20, 1))
    with pytest.raises(sm.SizeLimitError, match="factor"):
        sm.Kronecker(column, column) @ np.ones(1)


def test_61_numbers_beyond_64_bits():
    A = sm.Kronecker(*[np.diag(np.arange(1.0, 11))] * 20)
    N = 10**20
    assert A.shape == (N, N) and str(N) in repr(A)
    assert A[N - 1, N - 1] == 1e20 and A[0, 0] == 1 and A[0, N - 1] == 0 and A[-1, -1] == 1e20
    np.testing.assert_allclose(sm.trace(A), 55.0**20, rtol=1e-14)
    np.testing.assert_allclose(sm.norm(A), 385.0**10, rtol=1e-13)
    np.testing.assert_allclose(sm.slogdet(A).logabsdet, 2e20 * np.log(3628800.0) * 0.1 * 10, rtol=1e-13)
    with pytest.raises(sm.SizeLimitError):
        A @ np.ones(7766279631452241920 % 1000)
    S = sm.KroneckerSum(*[np.diag(np.arange(1.0, 11))] * 20)
    assert S[N - 1, N - 1] == 200 and S.shape == (N, N)


@pytest.mark.parametrize("function", [sm.diagonal, sm.svdvals, sm.eigvals], ids=lambda f: f.__name__)
def test_61_vectors_too_large(function):
    """Refused from the shapes alone, before anything is allocated."""
    matrices = [sm.Kronecker(*[np.eye(10)] * 20), sm.KroneckerSum(*[np.eye(10)] * 20)]
    matrices += [sm.Separated([np.ones((2, 10, 10))] * 20)] if function is sm.diagonal else []
    for A in matrices:
        if type(A) in function.rules:
            with pytest.raises(sm.SizeLimitError) as e:
                function(A)
            form(e.value)


# --- containers, dtypes, layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_containers_and_dtypes():
    expected = sm.Dense(S3) @ np.arange(3.0)
    for same in (S3.tolist(), tuple(map(tuple, S3)), np.asfortranarray(S3), S3.astype(">f8"), np.matrix(S3),
                 S3[::-1][::-1], readonly(S3), unaligned(S3)):  # fmt: skip
        y = sm.Dense(same) @ np.arange(3)
        np.testing.assert_array_equal(y, expected)
        assert type(y) is np.ndarray and y.dtype == np.float64 and y.dtype.isnative
    for dtype in (bool, np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"):
        A = sm.Kronecker(np.full((1, 1), 1, dtype), np.full((1, 1), 1, dtype))
        assert (A @ np.ones(1, dtype)).dtype == np.float64
    assert sm.Kronecker(np.full((1, 1), 100, np.int8), np.full((1, 1), 100, np.int8))[0, 0] == 10000
    assert (sm.Kronecker(np.full((1, 1), 10**10), np.full((1, 1), 10**10)) @ [1])[0] == 1e20
    assert sm.Dense(np.array([[2**53]])).to_dense()[0, 0] == 2.0**53
    big = sm.Dense(np.array([[2**60]]))
    assert big.to_dense()[0, 0] == 2.0**60


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = x.reshape(-1).view(np.uint8)
    return np.frombuffer(raw.data, dtype=x.dtype, offset=1).reshape(x.shape)


def test_memmap(tmp_path):
    path = tmp_path / "x"
    S3.tofile(path)
    x = np.memmap(path, np.float64, "r", shape=(3, 3))
    y = sm.Dense(x) @ x
    assert type(y) is np.ndarray
    np.testing.assert_allclose(y, S3 @ S3, rtol=1e-14, atol=1e-14)


def test_ranks_may_be_numpy_integers():
    assert sm.nearest_low_rank(S3, np.int32(2)).matrix.rank == 2
    assert sm.Identity(np.int64(3)).shape == (3, 3) and type(sm.Identity(np.int64(3)).shape[0]) is int


def test_mixed_libraries():
    torch = pytest.importorskip("torch")
    A, T = sm.Dense(S3), sm.Dense(torch.asarray(S3.copy()))
    for call in (lambda: A @ torch.ones(3, dtype=torch.float64), lambda: T @ np.ones(3), lambda: A + T, lambda: A @ T,
                 lambda: sm.Kronecker(S3, torch.ones(2, 2)), lambda: sm.solve(A, torch.ones(3, dtype=torch.float64)),
                 lambda: sm.LowRank(S3, torch.ones(3, 3)), lambda: sm.Kronecker(A, T)):  # fmt: skip
        with pytest.raises(sm.DTypeError, match=r"numpy.*torch|torch.*numpy") as e:
            call()
        form(e.value)
    with pytest.raises(sm.DTypeError, match="torch tensors"):
        A @ torch.ones(3, dtype=torch.float64, requires_grad=True)
    half = sm.Dense(torch.ones(2, 2, dtype=torch.bfloat16))
    for call in (lambda: sm.solve(half, torch.ones(2)), lambda: sm.inverse(half), lambda: sm.svdvals(half)):
        with pytest.raises(sm.DTypeError, match=r"bfloat16.*float32"):
            call()


# --- operators without terms, zeros ----------------------------------------------------------------------------------------------


def test_25_26_no_terms():
    for S in (
        sm.Separated([np.zeros((0, 2, 3)), np.zeros((0, 2, 2))]),
        sm.Separated([np.ones((2, 2, 3)), np.ones((2, 2, 2))], [0.0, 0.0]),
    ):
        np.testing.assert_array_equal(S @ np.ones(6), np.zeros(4))
        np.testing.assert_array_equal(S.to_dense(), np.zeros((4, 6)))
        assert sm.norm(S) == 0 and S.condition_number == 1
        np.testing.assert_array_equal((S + S).to_dense(), np.zeros((4, 6)))


def test_27_28_subnormal_scales():
    S = sm.Separated([np.ones((1, 2, 2)), np.ones((1, 2, 2))], scales=[5e-324])
    np.testing.assert_array_equal(S @ np.ones(4), np.full(4, 4 * 5e-324))
    n = S.normalized()
    np.testing.assert_allclose(n.factors[0], 0.5)
    A = sm.Separated([np.full((1, 2, 2), 1e-310), np.full((1, 2, 2), 1e300)])
    np.testing.assert_allclose(A @ np.ones(4), 4e-10, rtol=1e-6)
    np.testing.assert_allclose(sm.norm(A), 4e-10, rtol=1e-6)


def test_29_true_overflow_is_infinite_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for A in (sm.Dense([[1e308, 1e308]]), sm.Kronecker([[1e200]], [[1e200]]), sm.Diagonal([1e308]) * 10):
            y = A @ np.full(A.shape[1], 1.0)
            assert np.isinf(y).all()


def test_50_no_leading_minor_is_needed(xp):
    """t_0 = 0: Levinson cannot start, though the matrix is as good as any."""
    for c, b in (([0.0, 1, 2], [1.0, 1, 1]), ([1e-13, 1, 1, -1], [1.0, -1, 2, 0])):
        T = sm.Toeplitz(xp.asarray(c, dtype=xp.float64))
        x, D = host(sm.solve(T, xp.asarray(b, dtype=xp.float64))), host(T.to_dense())
        check(np.linalg.norm(D @ x - b), np.linalg.norm(D, 2) * np.linalg.norm(x), len(b), "float64", "t_0 = 0")


def test_50_errstate_raise():
    """Legal input never raises FloatingPointError, whatever the caller's settings."""
    with np.errstate(all="raise"):
        for A in (K(np.asarray), sm.Circulant(np.array([1e-310, 1.0, 0, 0])), sm.Diagonal([1e-320, 1.0]),
                  sm.LowRank(np.full((3, 1), 1e-200), np.full((3, 1), 1e-200)), sm.Toeplitz([1e200, 1e-200])):  # fmt: skip
            A @ np.full(A.shape[1], 1e-200)
            A.to_dense()
            A[0, 0]
            sm.norm(A)
            sm.trace(2 * A)
            (A + A) @ np.ones(A.shape[1])
        sm.slogdet(sm.Diagonal([0.0, 1.0]))
        sm.svdvals(K(np.asarray))
        sm.solve(sm.Diagonal([1e-300]), np.array([1e300]))


# --- repeatable ---------------------------------------------------------------------------------------------------------------------


def test_48_threads_and_repeats():
    """The same bits from one thread and from eight, the first use of a spectrum included."""
    from cases import BY_NAME

    names = (
        "Circulant 13x13",
        "Toeplitz 7x4",
        "Kronecker 2x3.4x2",
        "LowDisplacementRank 5x5 r=2",
        "Separated 2 x 3x3.2x2",
    )
    for name in names:
        b = Built(BY_NAME[name], "numpy", "float64")
        x = np.ones((b.A.shape[1], 3))
        expected = b.A @ x
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            fresh = b.A.map(lambda a: a)
            results = list(pool.map(lambda _: (fresh @ x, fresh.T.apply(expected.T)), range(200)))  # noqa: B023
        assert all(np.array_equal(y, expected) and np.array_equal(z, results[0][1]) for y, z in results)


def test_47_seeds():
    M = R.standard_normal((12, 12))
    shapes = ((3, 3), (4, 4))
    first = sm.nearest_kronecker(M, shapes, rank=2)
    np.random.seed(5)  # noqa: NPY002 - that the global state is neither read nor written is what is tested
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = sm.nearest_kronecker(M, shapes, rank=2, seed=0)
    assert again.matrix.equals(first.matrix) and np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    sm.nearest_kronecker(M, shapes, rank=2, seed=np.random.default_rng(3))
    sm.nearest_kronecker(M, shapes, rank=2, seed=None)
    for bad in ("0", 1.5, np.random.RandomState(0), True):
        with pytest.raises(sm.DTypeError, match="seed"):
            sm.nearest_kronecker(M, shapes, rank=2, seed=bad)
    with pytest.raises(sm.ArgumentError, match="seed"):
        sm.nearest_kronecker(M, shapes, rank=2, seed=-1)


# --- whole processes ----------------------------------------------------------------------------------------------------------------

SAMPLE = """
import sys
import numpy as np, sepmat as sm
assert_ = lambda ok: None if ok else sys.exit(f"failed in {sys.argv}")
K = sm.Kronecker(np.eye(3), [[1.0, 2], [3, 4]])
assert_(np.array_equal(K @ np.ones(6), [3, 7, 3, 7, 3, 7]))
assert_(np.allclose(sm.solve(K, K @ np.ones(6)), 1))
assert_(np.allclose(sm.Circulant([1.0, 2, 3]) @ np.ones(3), 6))
bad = [lambda: K @ np.ones(12), lambda: K @ np.ones(5), lambda: sm.Toeplitz([1.0], [2.0]), lambda: sm.kron(),
       lambda: sm.solve(sm.Kronecker(np.ones((2, 2)), np.eye(2)), np.ones(4)), lambda: K + np.eye(6),
       lambda: sm.Circulant(np.ones(10**6)).to_dense(), lambda: sm.Dense(np.array([[2**53 + 1]]))]
for call in bad:
    try:
        call()
    except sm.SepmatError as e:
        assert_(str(e).count(":") >= 2)
    else:
        sys.exit("no error")
print("fine", hash(repr(K)) is not None)
"""


@pytest.mark.parametrize("options", [["-O"], ["-OO"], ["-W", "error"], ["-I", "-W", "error"]], ids="".join)
def test_51_interpreter_options(options):
    if "-I" in options and "site-packages" not in sm.__file__:
        options = ["-W", "error", "-X", "dev"]
    done = run([*options, "-c", SAMPLE])
    assert done.returncode == 0 and done.stdout.startswith("fine"), done.stdout + done.stderr


def test_51_hash_seed():
    outputs = {run(["-c", SAMPLE], PYTHONHASHSEED=str(seed)).stdout for seed in (0, 1)}
    assert outputs == {"fine True\n"}


def test_import_loads_no_guests():
    """import sepmat loads NumPy, SciPy, array-api-compat and the standard library, nothing else."""
    guests = [
        "torch",
        "cupy",
        "matplotlib",
        "tqdm",
        "safetensors",
        "sklearn",
        "array_api_strict",
        "pandas",
        "peft",
        "jax",
    ]
    done = run(["-W", "error", "-c", f"import sys, sepmat; print([m for m in {guests} if m in sys.modules])"])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def run(arguments, **environment):
    root = str(Path(sm.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_the_reference_of_this_file():
    """The table is not empty, and its checker refuses a message with a part missing."""
    assert len(CASES) > 80
    with pytest.raises(AssertionError):
        form(sm.ShapeError("where", "argument", "", "expected", "Advice"))
    assert ref.kronecker(np.eye(2), np.eye(2)).shape == (4, 4)
