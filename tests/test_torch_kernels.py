"""The kernels for tensors: against the reference, forward and backward, by gradcheck, in chunks, under torch.compile."""

import numpy as np
import pytest
from conftest import check

torch = pytest.importorskip("torch")

from sepmat.kernels import fourier  # noqa: E402

SHAPES = {  # n, x in front, start, stop, skew
    "circulant": (12, 12, 0, 12, False),
    "circulant, odd": (9, 9, 0, 9, False),
    "corner": (12, 7, 0, 12, False),
    "skew-circulant": (12, 12, 0, 12, True),
    "skew-circulant, odd": (9, 9, 0, 9, True),
    "skew corner": (12, 5, 0, 8, True),
    "skew corner of few": (12, 5, 0, 4, True),
    "toeplitz": (16, 8, 7, 15, False),
    "wide": (16, 11, 10, 14, False),
    "one": (1, 1, 0, 1, False),
    "two": (2, 2, 0, 2, True),
}


def normal(rng, *shape, dtype=torch.float64):
    return torch.as_tensor(rng.standard_normal(shape)).to(dtype)


def convolution(shape, kernel, lead=(3, 2), dtype=torch.float64):
    """f(generator, x) of one of the SHAPES and its arguments, which require gradients."""
    n, k, start, stop, skew = SHAPES[shape]
    rng = np.random.default_rng(0)
    args = [normal(rng, n, dtype=dtype).requires_grad_(), normal(rng, *lead, k, dtype=dtype).requires_grad_()]
    return lambda c, x: fourier.convolve(fourier.spectrum(c, n, skew), x, start, stop, -1, kernel=kernel), args


TWICE = {  # n, x in front, stop, terms, transposed
    "one term": (8, 8, 8, 1, False),
    "two terms": (8, 8, 8, 2, False),
    "transposed": (8, 8, 8, 2, True),
    "odd": (7, 7, 7, 2, False),
    "corner": (10, 6, 10, 2, False),
    "other corner": (10, 10, 4, 1, True),
}


def sum_of_products(shape, kernel, lead=(3, 2), dtype=torch.float64):
    n, k, stop, terms, transposed = TWICE[shape]
    rng = np.random.default_rng(1)
    args = [normal(rng, *s, dtype=dtype).requires_grad_() for s in ((terms, n), (terms, n), (*lead, k))]

    def run(g, h, x):
        outer, inner = fourier.spectrum(g, n, transposed), fourier.spectrum(h, n, not transposed)
        return fourier.convolve_twice(outer, inner, x, stop, -1, kernel=kernel)

    return run, args


CASES = [(convolution, s) for s in SHAPES] + [(sum_of_products, s) for s in TWICE]
each_case = pytest.mark.parametrize(("build", "shape"), CASES, ids=lambda v: getattr(v, "__name__", v))


def forward_and_gradients(f, args, g):
    y = f(*args)
    return [y.detach(), *torch.autograd.grad(y, args, g)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_case
def test_values_and_gradients(build, shape, dtype):
    """Against the reference and plain autograd."""
    (f, args), (reference, _) = build(shape, "torch", dtype=dtype), build(shape, "reference", dtype=dtype)
    g = normal(np.random.default_rng(2), *reference(*args).shape, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    for found, expected in zip(
        forward_and_gradients(f, args, g), forward_and_gradients(reference, args, g), strict=True
    ):
        assert found.dtype == dtype and found.shape == expected.shape
        check(float((found - expected).norm()), float(expected.norm()), 100, name, "kernels for tensors")


@each_case
def test_chosen(build, shape, monkeypatch):
    """What is differentiated, goes through these kernels; so do batches that nobody differentiates."""
    f, args = build(shape, None)
    assert "sepmat_convolve" in str(f(*args).grad_fn.next_functions) + str(f(*args).grad_fn)
    with torch.no_grad():
        np.testing.assert_array_equal(f(*args), build(shape, "torch")[0](*args))


@each_case
def test_gradcheck(build, shape):
    f, args = build(shape, "torch", lead=(2,))
    assert torch.autograd.gradcheck(f, args, check_batched_grad=shape == "toeplitz")
    if shape in ("circulant", "skew corner", "toeplitz", "corner", "transposed"):
        assert torch.autograd.gradgradcheck(f, args)


@each_case
def test_only_what_is_asked_for(build, shape):
    """Each argument alone has the gradient that it has among the others, and x is kept only for the generators."""
    f, args = build(shape, "torch")
    y = f(*args)
    g = torch.ones_like(y)
    all_of_them = torch.autograd.grad(y, args, g)
    for i, expected in enumerate(all_of_them):
        alone = [a.detach().requires_grad_(i == k) for k, a in enumerate(args)]
        (found,) = torch.autograd.grad(f(*alone), [alone[i]], g)
        check(float((found - expected).norm()), float(expected.norm()), 100, "float64", "kernels for tensors")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        f(*(a.detach() for a in args[:-1]), args[-1])
    assert not any(len(s) > 1 and s[-1] == args[-1].shape[-1] and s[0] == 6 for s in kept)
