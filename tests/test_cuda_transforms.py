"""Products by FFTs on a GPU, without one: the plan against the derived crossovers, and matrices whose arrays pass for CuPy's."""

import dataclasses

import numpy as np
import pytest
from cases import normal
from conftest import check

import sepmat as sm
from sepmat import _array
from sepmat.kernels import fourier
from sepmat.kernels.cuda.plan import H100, H200
from sepmat.kernels.cuda.transforms import transform

IDEAL = dataclasses.replace(H100, launch=0.0)


def crossover(limits, padded, vectors=8192, kind="f"):
    """The largest n at which the dense form wins."""
    plans = (transform(n, n, (1 + padded) * n, vectors, kind, 2, limits) for n in range(8, 2900, 4))
    return max(p.n for p in plans if p.route == "dense")


@pytest.mark.parametrize(
    ("rate", "toeplitz", "circulant"), [(60e12, 700, 240), (395e12, 2896, 1600)], ids=["float32", "tf32"]
)
def test_crossovers(rate, toeplitz, circulant):
    """8192 rows. At the rate of TF32 it is the memory of the dense form that ends it, 32 MiB."""
    limits = dataclasses.replace(IDEAL, float32=rate)
    assert crossover(limits, True) == pytest.approx(toeplitz, rel=0.05)
    assert crossover(limits, False) == pytest.approx(circulant, rel=0.05)
    assert crossover(H200, True) < crossover(H100, True) < 1.2 * 700


@pytest.mark.parametrize(("n", "toeplitz", "circulant"), [(1024, 190, 67), (4096, 761, 268), (16384, 3042, 1074)])
def test_times_of_transforms(n, toeplitz, circulant):
    """68 and 24 bytes a number: µs for 8192 rows."""
    for length, expected in ((2 * n, toeplitz), (n, circulant)):
        assert transform(n, n, length, 8192, "f", limits=IDEAL).by_transforms * 1e6 == pytest.approx(expected, rel=0.01)


def test_dense_forms_that_cost_too_much():
    assert transform(4096, 4096, 8192, 1, "f").route == "fft"  # 64 MiB
    small = transform(64, 64, 128, 8192, "d")
    assert small.route == "dense" and small.seconds < small.by_transforms and small.by_fft().route == "fft"


class OnDevice(np.ndarray):
    """An array that passes for one of CuPy."""


@pytest.fixture
def device(monkeypatch):
    """A machine on which OnDevice arrays are CuPy's."""
    for name, found in {"is_cupy": True, "on_gpu": True, "is_numpy": False, "sum_of_squares": None}.items():
        real = getattr(_array, name)
        monkeypatch.setattr(_array, name, lambda x, real=real, found=found: found if type(x) is OnDevice else real(x))


def matrices(n, rng, dtype):
    """Structures on arrays of the device, and the same on NumPy's."""
    c, r, G, H = (normal(rng, s, dtype) for s in ((n,), (n,), (n, 2), (n, 2)))
    r[0] = c[0]
    for make in (
        lambda f: sm.Toeplitz._of(c=f(c), tail=f(r[1:])),
        lambda f: sm.Hankel._of(c=f(c), tail=f(r[1:])),
        lambda f: sm.Circulant._of(c=f(c), corner=(n, n)),
        lambda f: sm.SkewCirculant._of(c=f(c), corner=(n, n)),
        lambda f: sm.LowDisplacementRank._of(g=f(G), h=f(H), corner=(n, n), transposed=False),
    ):
        yield make(lambda a: a.view(OnDevice)), make(lambda a: a)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("n", [64, 65, 3000])
def test_products(device, rng, dtype, n, axis, monkeypatch):
    """The route of the plan for GPUs; what is remembered (spectra, dense forms) is made once; the answer is NumPy's."""
    x = normal(rng, (8, n) if axis == -1 else (n, 8), dtype)
    made, real = [], fourier.spectrum
    monkeypatch.setattr(fourier, "spectrum", lambda *args, **kw: made.append(1) or real(*args, **kw))
    for A, B in matrices(n, rng, dtype):
        y = A._apply(x.view(OnDevice), axis)
        dense = A._plan(x.shape, axis).route == "dense"
        assert dense == (n < 100) if type(A).__name__ != "LowDisplacementRank" else not dense or n < 100
        expected = B._apply(x, axis)
        check(np.linalg.norm(np.asarray(y) - expected), np.linalg.norm(expected), 100, dtype, "transforms on a device")
        count = len(made)
        np.testing.assert_array_equal(A._apply(x.view(OnDevice), axis), y)
        assert len(made) == count
