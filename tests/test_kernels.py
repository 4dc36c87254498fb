"""The kernels by themselves: every row of a table against the reference, and the bounds B3 to B11 with their alarms.

hard: a theorem; alarm: two to three times the worst ratio ever measured, asserted for n >= 8.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import BACKENDS, check, host, namespace

import sepmat as sm
from sepmat import _array
from sepmat._bounds import BOUNDS
from sepmat.kernels import fourier, pocketfft, reference
from sepmat.kernels.kron import kron_matmul, kron_sum_matmul, order, separated_matmul

DTYPES = ["float32", "float64", "complex64", "complex128"]
TABLES = [kron_matmul, separated_matmul, kron_sum_matmul, fourier.convolve, fourier.convolve_twice]


# --- tables ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.__name__)
def test_tables(table):
    assert table.rows[-1].name == "reference" and table.rows[-1].accepts()
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names) and table.__doc__
    with pytest.raises(sm.ArgumentError, match=rf"{table.__name__}: kernel: 'fast'; expected one of .*reference"):
        table(kernel="fast")


def arguments(table, xp, dtype, axis, rng):
    """Small arguments of a kernel, odd sizes, a batch on both sides of the axis."""

    def a(*shape):
        return xp.asarray(normal(rng, shape, dtype), copy=True)

    def x(n):
        return a(2, 3, n) if axis == -1 else a(2, n, 3)

    if table is kron_matmul:
        return ([a(2, 3), a(4, 2)], x(6), axis)
    if table is kron_sum_matmul:
        return ([a(2, 2), a(3, 3)], x(6), axis)
    if table is separated_matmul:
        return ([a(3, 2, 3), a(3, 4, 2)], a(3), x(6), axis)
    if table is fourier.convolve:
        return (fourier.spectrum(a(7), 7, skew=True), x(7), 1, 6, axis)
    return (fourier.spectrum(a(2, 9), 9), fourier.spectrum(a(2, 9), 9, skew=True), x(9), 7, axis)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.__name__)
def test_every_row_agrees_with_the_reference(table, backend, dtype, axis):
    xp = namespace(backend)
    args = arguments(table, xp, dtype, axis, np.random.default_rng(0))
    expected = host(table(*args, kernel="reference"))
    chosen = host(table(*args))
    assert chosen.dtype == expected.dtype == np.dtype(dtype) and chosen.shape == expected.shape
    for row in table.rows:
        if row.accepts(*args):
            found = host(row.run(*args))
            check(
                np.linalg.norm(found - expected), np.linalg.norm(expected), 100, dtype, f"{table.__name__}: {row.name}"
            )
            if row is next(r for r in table.rows if r.accepts(*args)):
                np.testing.assert_array_equal(found, chosen)


def test_order_is_the_cheapest():
    """Against all orders: the exchange argument finds the fewest multiplications."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        shapes = [tuple(map(int, rng.integers(1, 7, 2))) for _ in range(rng.integers(1, 5))]

        def cost(sequence, shapes=shapes):
            sizes, total = [n for _, n in shapes], 0
            for i in sequence:
                total += shapes[i][0] * math.prod(sizes)
                sizes[i] = shapes[i][0]
            return total

        assert cost(order(shapes)) == min(map(cost, itertools.permutations(range(len(shapes)))))


@pytest.mark.parametrize("n", [1, 2, 7, 13, 97, 127, 1009, 4099])
def test_fast_lengths(n):
    for real in (True, False):
        N = fourier.fast_length(n, real)
        assert n <= N <= 2 * n
        for p in (2, 3, 5, 7, 11):
            while N % p == 0:
                N //= p
        assert N == 1


# --- bounds ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shapes",
    [[(8, 8)], [(4, 4), (4, 4)], [(2, 9), (5, 3)], [(3, 3), (2, 2), (5, 5)], [(2, 3)] * 4, [(17, 16)]],
    ids=str,
)
def test_kronecker_products(shapes, dtype):
    """B3, B4: |ŷ - y| <= γ_K (⊗|A_i|) |x| entry by entry."""
    rng = np.random.default_rng(2)
    worst, K = 0.0, sum(n for _, n in shapes)
    for _ in range(5):
        factors = [normal(rng, s, dtype) for s in shapes]
        x = normal(rng, (math.prod(n for _, n in shapes), 2), dtype)
        D, G = (ref.kronecker(*(f(ref.wide(F)) for F in factors)) for f in (lambda a: a, np.abs))
        y = kron_matmul(factors, x, -2)
        scale = G @ np.abs(x)
        name = "B4 Kronecker product" if "complex" in dtype else "B3 Kronecker product"
        worst = max(worst, check(np.abs(y - D @ ref.wide(x)), scale, BOUNDS[name[:2]](K, dtype), dtype, name))
    assert worst <= 0.6 * K, f"alarm of B3, B4: {worst / K:.2f} K"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [1, 2, 5, 33])
def test_separated_products(terms, dtype):
    """B5 entry by entry; its alarm 0.1 (K + L) is normwise, for factors of norm one."""
    rng = np.random.default_rng(3)
    factors = [normal(rng, (terms, *s), dtype) for s in ((6, 5), (4, 7))]
    factors = [(F / np.linalg.norm(F, axis=(1, 2), keepdims=True)).astype(dtype) for F in factors]
    scales, x = normal(rng, (terms,), dtype), normal(rng, (35, 2), dtype)
    D = ref.separated(*map(ref.wide, factors), scales=ref.wide(scales))
    G = ref.separated(*(np.abs(ref.wide(F)) for F in factors), scales=np.abs(ref.wide(scales)))
    y = separated_matmul(factors, scales, x, -2)
    error = np.abs(y - D @ ref.wide(x))
    check(error, G @ np.abs(x), BOUNDS["B5"](12 + terms + 1, dtype), dtype, "B5 separated product")
    normwise = np.sum(np.abs(scales)) * np.linalg.norm(x)
    check(ref.frobenius(error), normwise, 0.1 * (12 + terms) * (2 if "complex" in dtype else 1), dtype, "B5 alarm")


LENGTHS = [8, 13, 64, 97, 100, 127, 128, 255, 256, 257, 509]


def indices(m, n):
    return np.subtract.outer(np.arange(m), np.arange(n))


def f_circulant(c, f, m=None, n=None):
    """The dense matrix, in extended precision, by an index table."""
    k = indices(m or len(c), n or len(c))
    return ref.wide(c)[k % len(c)] * np.where(k < 0, f, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_fft_products(n, dtype):
    """B9, B10: (20 log2 N + 3) u ‖C‖_F ‖x‖₂; the alarm is 1 log2 n."""
    rng = np.random.default_rng(n)
    c, x = normal(rng, (n,), dtype), normal(rng, (n, 2), dtype)
    for cls, f in ((sm.Circulant, 1), (sm.SkewCirculant, -1)):
        D = f_circulant(c, f)
        frobenius = math.sqrt(n) * np.linalg.norm(c)
        A = cls(c)  # small ones go by their dense form (test_plan.py)
        for y in (A._by_fft(x, -2), A._by_fft(np.ascontiguousarray(x.T), -1).T):
            error = np.linalg.norm((y - D @ ref.wide(x)).astype(complex), axis=0)
            scale = frobenius * np.linalg.norm(x, axis=0)
            found = check(error, scale, BOUNDS["B9"](n), dtype, f"B9 {cls.__name__}")
            assert found <= math.log2(n), f"alarm of B9: {found / math.log2(n):.2f} log2 n"
    t = normal(rng, (2 * n - 1,), dtype)
    N = fourier.fast_length(2 * n - 1, "complex" not in dtype)
    k = indices(n, n)
    for A, D in (
        (sm.Toeplitz(t[n - 1 :], t[n - 1 :: -1]), ref.wide(t)[n - 1 + k]),
        (sm.Hankel(t[:n], t[n - 1 :]), ref.wide(t)[np.add.outer(np.arange(n), np.arange(n))]),
    ):
        error = np.linalg.norm((A._by_fft(x, -2) - D @ ref.wide(x)).astype(complex), axis=0)
        scale = math.sqrt(N) * np.linalg.norm(t) * np.linalg.norm(x, axis=0)
        found = check(error, scale, BOUNDS["B10"](N), dtype, f"B10 {type(A).__name__}")
        assert found <= math.log2(N), f"alarm of B10: {found / math.log2(N):.2f} log2 N"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, r", [(8, 1), (13, 2), (64, 4), (97, 2), (256, 3)])
def test_displacement_products(n, r, dtype):
    """B11: (40 log2 n + 12 + r) u Σ_k ‖C_k‖_F ‖S_k‖_F ‖x‖"""
    rng = np.random.default_rng(n)
    G, H, x = normal(rng, (n, r), dtype), normal(rng, (n, r), dtype), normal(rng, (n, 2), dtype)
    W = sm.LowDisplacementRank(G, H)
    D = sum(f_circulant(G[:, i], 1) @ f_circulant(H[:, i], -1) for i in range(r))
    scale = float(ref.displacement_norm(G, H)) * np.linalg.norm(x, axis=0)
    for A, dense in ((W, D), (W.T, D.T), (W.H, D.conj().T)):
        error = np.linalg.norm((A._by_fft(x, -2) - dense @ ref.wide(x)).astype(complex), axis=0)
        check(error, scale, BOUNDS["B11"](n, r), dtype, "B11 displacement product")


@pytest.mark.parametrize("dtype", DTYPES)
def test_displacement_products_of_prime_size(dtype):
    """N = 97: transforms of a good length above 2 N, for the whole matrix, its corners and their transposes (B11)."""
    rng = np.random.default_rng(97)
    G, H = normal(rng, (97, 2), dtype), normal(rng, (97, 2), dtype)
    D = sum(f_circulant(G[:, i], 1) @ f_circulant(H[:, i], -1) for i in range(2))
    for m, n in ((97, 97), (97, 30), (41, 97)):
        W = sm.LowDisplacementRank(G, H, shape=(m, n))
        for A, dense in ((W, D[:m, :n]), (W.T, D[:m, :n].T)):
            x = normal(rng, (dense.shape[1], 3), dtype)
            assert A._plan(x.shape, -2).length >= 193
            scale = float(ref.displacement_norm(G, H)) * np.linalg.norm(x, axis=0)
            for y in (A._by_fft(x, -2), A._by_fft(x.T, -1).T):
                error = np.linalg.norm((y - dense @ ref.wide(x)).astype(complex), axis=0)
                check(error, scale, BOUNDS["B11"](97, 2), dtype, "B11 displacement product, prime size")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(700, 700), (700, 301), (301, 700), (33, 33), (16, 5), (1, 1)])
def test_dense_displacement_by_runs_of_columns(shape, dtype):
    """Columns that follow from one another meet B11 as products do; small integers make the definition exact."""
    (m, n), N = shape, max(shape)
    rng = np.random.default_rng(N)
    G, H = (np.rint(4 * normal(rng, (N, 2), dtype)).astype(dtype) for _ in range(2))
    G[:, 1] *= 2.0**-40  # a small term beside a large one
    wide = [a.astype("complex128") for a in (G, H)]
    D = sum(f_circulant(wide[0][:, i], 1) @ f_circulant(wide[1][:, i], -1) for i in range(2))[:m, :n]
    W = sm.LowDisplacementRank(G, H, shape=shape)
    for A, dense in ((W, D), (W.T, D.T)):
        found = A.to_dense()
        assert found.shape == dense.shape and found.dtype == A.dtype
        error = np.linalg.norm(found - dense, axis=0)
        check(error, float(ref.displacement_norm(G, H)), BOUNDS["B11"](N, 2), dtype, "B11 dense displacement form")


def test_dense_displacement_of_far_generators():
    """2^-600 beside 2^600, and all of it far from 1: powers of two pass through the dense form bit for bit."""
    G, H = np.random.default_rng(3).standard_normal((2, 80, 3))
    near = sm.LowDisplacementRank(G, H).to_dense()
    for g, h, k in ((600, -600, 0), (-600, 600, 0), (400, 400, 800), (-500, 80, -420)):
        far = sm.LowDisplacementRank(np.ldexp(G, g), np.ldexp(H, h)).to_dense()
        np.testing.assert_array_equal(far, np.ldexp(near, k))


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 20000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_squares_of_any_length(size, dtype):
    x = normal(np.random.default_rng(size), (size,), dtype)
    expected = float(np.sum(np.abs(x.astype("complex128")) ** 2))
    assert abs(_array.sum_of_squares(x) - expected) <= 1e-4 * expected
    assert _array.sum_of_squares(x.reshape(-1, 1)[:, 0]) == _array.sum_of_squares(x)


def test_shorter_vectors_after_longer_ones():
    """Blocks of products after each other share arrays: nothing of a longer x is left in the padding of a shorter one."""
    t, x = np.random.default_rng(8).standard_normal((2, 2999))
    rows = np.broadcast_to(x, (90, 2999))
    for n in (1600, 1400, 1700):
        A = sm.Toeplitz(t[n - 1 :], t[n - 1 :: -1])
        found = A.apply(np.ascontiguousarray(rows[:, :n]))
        error = np.linalg.norm(found - A @ x[:n], axis=1)
        check(error, np.linalg.norm(found, axis=1), 100, "float64", "blocks, shorter")
    rooms = pocketfft.shared_rooms()  # what is interrupted here is not used again
    assert pocketfft.shared_rooms() is not rooms


def test_real_data_stays_real():
    """A real product has no imaginary part to drop, and costs real transforms."""
    for n in (5, 8):
        c = np.random.default_rng(n).standard_normal(n)
        for cls in (sm.Circulant, sm.SkewCirculant, sm.Toeplitz, sm.Hankel):
            assert (cls(c) @ c).dtype == np.float64
        assert fourier.spectrum(c, n).values.shape[-1] == n // 2 + 1


# --- linear in everything, one batch at a time ----------------------------------------------------------------------------------


def test_blocks_of_terms_do_not_show(monkeypatch):
    """The sum over the terms in blocks of any size gives the same to rounding."""
    rng = np.random.default_rng(5)
    factors = [rng.standard_normal((7, 3, 2)), rng.standard_normal((7, 2, 4))]
    x = rng.standard_normal((8, 3))
    whole = separated_matmul(factors, None, x, -2)
    S, T = fourier.spectrum(rng.standard_normal((7, 9)), 9), fourier.spectrum(rng.standard_normal((7, 9)), 9, skew=True)
    z = rng.standard_normal((9, 3))
    twice = fourier.convolve_twice(S, T, z, 9, -2)
    monkeypatch.setattr(reference, "TERM_BLOCK", 1)
    monkeypatch.setattr(fourier, "TERM_BLOCK", 1)
    np.testing.assert_allclose(separated_matmul(factors, None, x, -2), whole, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(fourier.convolve_twice(S, T, z, 9, -2), twice, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.__name__)
def test_arguments_are_not_written(table):
    args = arguments(table, np, "float64", -2, np.random.default_rng(6))
    x = next(a for a in args if isinstance(a, np.ndarray) and a.ndim == 3)
    before = x.copy()
    y = table(*args)
    y[...] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("base", [MemoryError, RuntimeError])
def test_out_of_memory_on_a_device_says_what_to_do(base, monkeypatch):
    """CuPy's and torch's errors of that name, known without importing either; what else is raised passes."""
    full = type("OutOfMemoryError", (base,), {})
    for error, expected in ((full("8 bytes"), sm.BackendError), (base("other"), base)):

        def run(*arguments, error=error):
            raise error

        monkeypatch.setattr(kron_matmul, "rows", [dataclasses.replace(kron_matmul.rows[0], run=run)])
        with pytest.raises(expected, match=r"8 bytes; expected room for it\. Multiply fewer|^other$") as caught:
            kron_matmul((np.eye(6),), np.ones(6), -1)
        assert expected is base or caught.value.__cause__ is error


def test_the_exponent_is_that_of_the_power_of_two(xp, rng):
    """On every library the k with 2^k = power_of_two(x), over the whole range of the dtypes."""
    for dtype in ("float32", "float64", "complex64", "complex128"):
        top = 126 if dtype in ("float32", "complex64") else 1022
        for e in range(-top - 20, top, 37):
            x = (rng.standard_normal(3) * np.longdouble(2) ** e).astype(dtype)
            x = xp.asarray(x * (1j if e % 2 and dtype[0] == "c" else 1))
            assert 2.0 ** _array.exponent(x) == float(_array.power_of_two(x))
        for special in ([0.0], [np.nan, 1.0], [np.inf], [], [-4.0, 1.0]):
            x = xp.asarray(np.asarray(special).astype(dtype))
            assert 2.0 ** _array.exponent(x) == float(_array.power_of_two(x))
