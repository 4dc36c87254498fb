"""BCCB and BTTB matrices beyond the laws of the contract: convolutions of images, solves at any condition, conversions."""

import math
import re

import numpy as np
import pytest
import reference as ref
from conftest import check, dtype_of, host
from scipy.signal import convolve2d

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.kernels import fourier_nd


def test_products_are_convolutions_of_images(xp, rng):
    image, spread = rng.standard_normal((6, 7)), rng.standard_normal((11, 13))
    A = sm.MultilevelToeplitz(xp.asarray(spread))
    found = host(A @ xp.asarray(image.ravel())).reshape(6, 7)
    exact = convolve2d(image, spread, mode="full")[5:11, 6:13]
    bound = math.sqrt(16 * 16) * np.linalg.norm(spread) * np.linalg.norm(image)
    check(np.linalg.norm(found - exact), bound, BOUNDS["B10"](256), "float64", "B10 multilevel Toeplitz")
    P = sm.MultilevelCirculant(xp.asarray(spread[:6, :7]))
    found = host(P @ xp.asarray(image.ravel())).reshape(6, 7)
    exact = convolve2d(image, spread[:6, :7], mode="full", boundary="fill")
    exact = sum(np.pad(exact, ((0, 1), (0, 1)))[i : i + 6, j : j + 7] for i in (0, 6) for j in (0, 7))
    bound = math.sqrt(42) * np.linalg.norm(spread[:6, :7]) * np.linalg.norm(image)
    check(np.linalg.norm(found - exact), bound, BOUNDS["B9"](42), "float64", "B9 multilevel circulant")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("sizes", [(16, 32), (13, 7), (4, 5, 6), (97,), (64, 64)])
def test_bounds_at_larger_sizes(sizes, dtype, rng):
    """B9 and B10 with the product of the lengths for the length; the oracle is the matrix itself, gathered from c."""
    c, x = (rng.standard_normal(sizes) for _ in range(2))
    if dtype.startswith("complex"):
        c, x = c + 1j * rng.standard_normal(sizes), x + 1j * rng.standard_normal(sizes)
    c, x = c.astype(dtype), x.astype(dtype)
    A, N = sm.MultilevelCirculant(c), c.size
    exact = (
        np.fft.ifftn(np.fft.fftn(ref_double(c)) * np.fft.fftn(ref_double(x))).ravel()
        if N > 2000
        else dense(A) @ x.ravel()
    )
    bound = math.sqrt(N) * np.linalg.norm(c) * np.linalg.norm(x)
    check(np.linalg.norm(A @ x.ravel() - exact), bound, BOUNDS["B9"](N), dtype, "B9 multilevel circulant")
    T = sm.MultilevelToeplitz(np.ascontiguousarray(c[tuple(slice(0, n - 1 + n % 2) for n in sizes)]))
    y = rng.standard_normal(T.shape[1]).astype(dtype)
    M = math.prod(2 * n for n in sizes)
    bound = math.sqrt(M) * np.linalg.norm(T.t) * np.linalg.norm(y)
    check(np.linalg.norm(T @ y - dense(T) @ y), bound, BOUNDS["B10"](M), dtype, "B10 multilevel Toeplitz")


def ref_double(x):
    return x.astype(np.result_type(x, np.float64))


def dense(A):
    """By _block, which only gathers; in double precision."""
    return ref_double(A.to_dense())


@pytest.mark.parametrize("kappa", [1e1, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("sizes", [(8, 8), (5, 13), (3, 4, 5)])
def test_solve_knows_no_condition(kappa, sizes, rng):
    """B12 for several levels: the residual is free of the condition; the inverse is in the class."""
    N = math.prod(sizes)
    spectrum = np.fft.fftn(rng.standard_normal(sizes))
    size = np.abs(spectrum)
    spectrum *= kappa ** (-(size - size.min()) / (size.max() - size.min())) / size
    c = np.fft.ifftn(spectrum).real
    A = sm.MultilevelCirculant(c)
    D = ref.multilevel_circulant(ref.wide(c))
    x0 = rng.standard_normal(N)
    b = (D @ x0).astype(float)
    x = sm.solve(A, b)
    bound = 20 * math.log2(N) + 6
    check(np.linalg.norm((b - D @ x).astype(float)), float(ref.frobenius(D)) * np.linalg.norm(x), bound, "float64",
          "B12 multilevel solve")  # fmt: skip
    X = sm.inverse(A)
    assert type(X) is sm.MultilevelCirculant
    condition = np.abs(spectrum).max() / np.abs(spectrum).min()
    check(np.linalg.norm((X @ A).to_dense() - np.eye(N)), condition * N, bound, "float64", "multilevel inverse")


def test_singular_ones_are_refused():
    laplacian = np.zeros((4, 5))
    laplacian[0, 0], laplacian[0, [1, -1]], laplacian[[1, -1], 0] = 4.0, -1.0, -1.0
    A = sm.MultilevelCirculant(laplacian)
    for call in (lambda: sm.solve(A, np.ones(20)), lambda: sm.inverse(A)):
        with pytest.raises(sm.SingularMatrixError, match="rcond"):
            call()
    assert sm.solve(A + 0.1 * sm.Identity(20), np.ones(20)) == pytest.approx(10.0)


@pytest.mark.parametrize("scale", [2.0**1020, 2.0**-1060, 2.0**500, 2.0**-500])
def test_extreme_scales(scale):
    rng = np.random.default_rng(2)
    c, x = (np.round(rng.standard_normal((4, 6)) * 64) / 64 for _ in range(2))
    tiny = scale < 1e-300
    y = sm.MultilevelCirculant(c * scale) @ (x.ravel() * 2.0**-9)
    exact = sm.MultilevelCirculant(c) @ x.ravel() * 2.0**-9
    np.testing.assert_allclose(y / scale, exact, rtol=1e-13, atol=1e-3 if tiny else 1e-14)
    found = sm.solve(sm.MultilevelCirculant(c * scale), x.ravel() * scale)
    np.testing.assert_allclose(found, sm.solve(sm.MultilevelCirculant(c), x.ravel()), rtol=1e-2 if tiny else 1e-11)


def test_kernel_rows_agree(rng):
    for dtype in (float, complex):
        v, x = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((3, 12)).astype(dtype)
        S = fourier_nd.spectrum(v, (8, 10))
        arguments = (S, x, (3, 4), ((2, 5), (3, 7)), -1)
        fast = fourier_nd.convolve_modes(*arguments)
        slow = fourier_nd.convolve_modes(*arguments, kernel="reference")
        assert fast.shape == (3, 12) and fast.dtype == dtype
        np.testing.assert_allclose(fast, slow, atol=1e-13)


def test_kronecker_products_of_circulants(xp, rng):
    a, b = (xp.asarray(rng.standard_normal(n)) for n in (3, 4))
    A, B = sm.Circulant(a), sm.Circulant(b)
    K = sm.Kronecker(A, B)
    C = sm.convert(K, sm.MultilevelCirculant)
    assert C.sizes == (3, 4)
    np.testing.assert_allclose(host(C.to_dense()), np.kron(host(A.to_dense()), host(B.to_dense())), atol=1e-14)
    for M in (C @ K, K @ C, C + K, K + C, sm.kron(C, A), sm.kron(A, C)):
        assert type(M) is sm.MultilevelCirculant
    np.testing.assert_allclose(host((C @ K).to_dense()), host(C.to_dense()) @ host(K.to_dense()), atol=1e-12)
    np.testing.assert_allclose(
        host(sm.kron(A, C).to_dense()), np.kron(host(A.to_dense()), host(C.to_dense())), atol=1e-12
    )
    T = sm.Toeplitz(a, xp.flip(b) * 0 + a[0])
    M = sm.convert(sm.Kronecker(T, B), sm.MultilevelToeplitz)
    assert M.shapes == ((3, 4), (4, 4))
    np.testing.assert_allclose(host(M.to_dense()), np.kron(host(T.to_dense()), host(B.to_dense())), atol=1e-14)
    assert type(sm.kron(M, T)) is type(sm.kron(T, M)) is sm.MultilevelToeplitz
    np.testing.assert_allclose(
        host(sm.kron(T, M).to_dense()), np.kron(host(T.to_dense()), host(M.to_dense())), atol=1e-14
    )
    for factors in ((A, xp.asarray(np.eye(2))), (sm.Circulant(a, shape=(3, 2)), B)):
        with pytest.raises(sm.UnsupportedError):
            sm.convert(sm.Kronecker(*factors), sm.MultilevelCirculant)
    with pytest.raises(sm.UnsupportedError, match="one level"):
        sm.convert(C, sm.Circulant)


def test_bad_input():
    with pytest.raises(sm.ShapeError, match=r"t: 4 entries along axis 1; expected 2 n - 1"):
        sm.MultilevelToeplitz(np.ones((3, 4)))
    with pytest.raises(sm.ShapeError, match=r"expected m \+ n - 1 = 4 for the level 2×3"):
        sm.MultilevelToeplitz(np.ones((3, 4)), ((2, 3), (2, 3)))
    with pytest.raises(sm.ShapeError, match="2 pairs"):
        sm.MultilevelToeplitz(np.ones((3, 3)), ((2, 2),))
    with pytest.raises(sm.ShapeError, match="0-D"):
        sm.MultilevelCirculant(3.0)
    with pytest.raises(sm.UnsupportedError, match="norm"):
        sm.norm(sm.MultilevelToeplitz(np.ones((3, 3))), 1)
    with pytest.raises(sm.NonFiniteError):
        sm.solve(sm.MultilevelCirculant([[np.nan, 1.0]]), np.ones(2))


def test_the_ways_that_messages_name_work_when_pasted(rng):
    """Every call in the messages is run as it stands: the nearest circulant preconditions, the dense matrix is exact."""
    decay = 0.5 ** np.abs(np.arange(-5.0, 6.0))
    A, b = sm.MultilevelToeplitz(np.multiply.outer(decay, decay)), rng.standard_normal(36)
    logdet = np.linalg.slogdet(A.to_dense())[1]
    for f in (sm.solve, sm.inverse, sm.factorize, sm.slogdet, sm.lstsq):
        with pytest.raises(sm.UnsupportedError) as caught:
            f(A, b) if f in (sm.solve, sm.lstsq) else f(A)
        ways = caught.value.args[-1]
        assert "sm.Dense(A.to_dense())" in ways and (f in (sm.slogdet, sm.lstsq) or "interop.cg" in ways)
        calls = re.findall(r"sm\.[^ ]*?\((?:[^()]|\((?:[^()]|\((?:[^()]|\(.*?\))*\))*\))*\)", ways)
        assert len(calls) == (3 if f is sm.solve else 2), calls
        for call in calls:
            found = eval(call, {"sm": sm, "A": A, "b": b})
            if f is sm.slogdet:
                assert abs(found.logabsdet - logdet) <= 0.2 * abs(logdet)
                continue
            x = found.solve(b) if f is sm.factorize and "Dense" in call else found
            x = x @ b if isinstance(x, sm.StructuredMatrix) else getattr(x, "x", x)
            # the default tolerance of the iterations; lsmr's is on Aᴴ (b − A x)
            assert np.linalg.norm(A @ x - b) <= (1e-3 if "lsmr" in call else 1e-5) * np.linalg.norm(b)
    few = sm.interop.cg(A, b, rtol=1e-10, M=sm.inverse(sm.t_chan(A)))
    assert few.converged and few.iterations < 36


def test_half_precision_has_no_fft_of_its_own():
    torch = pytest.importorskip("torch")
    c = torch.asarray(np.random.default_rng(0).standard_normal((4, 5)))
    y = sm.MultilevelCirculant(c.to(torch.bfloat16)) @ torch.ones(20, dtype=torch.bfloat16)
    assert dtype_of(y) == "bfloat16"
    np.testing.assert_allclose(host(y), host(c.to(torch.bfloat16)).sum(), rtol=0.02)
