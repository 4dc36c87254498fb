"""The kernels for tensors: against the reference, forward and backward, by gradcheck, in chunks, under torch.compile."""

import threading

import numpy as np
import pytest
from conftest import check

import sepmat as sm

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from sepmat.kernels import fourier, steps  # noqa: E402
from sepmat.kernels.kron import kron_matmul, separated_matmul  # noqa: E402
from sepmat.kernels.torch import fourier as own_fourier  # noqa: E402
from sepmat.kernels.torch import kron as own_kron  # noqa: E402

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
    "one term": (6, 6, 6, 1, False),
    "two terms": (6, 6, 6, 2, False),
    "transposed": (4, 4, 4, 2, True),
    "odd": (5, 5, 5, 2, False),
    "corner": (6, 4, 6, 2, False),
    "other corner": (6, 6, 2, 1, True),
}


def sum_of_products(shape, kernel, lead=(3, 2), dtype=torch.float64):
    n, k, stop, terms, transposed = TWICE[shape]
    rng = np.random.default_rng(1)
    args = [normal(rng, *s, dtype=dtype).requires_grad_() for s in ((terms, n), (terms, n), (*lead, k))]

    def run(g, h, x):
        outer, inner = fourier.spectrum(g, n, transposed), fourier.spectrum(h, n, not transposed)
        return fourier.convolve_twice(outer, inner, x, stop, -1, kernel=kernel)

    return run, args


CHAINS = {  # shapes of the factors
    "square": [(3, 3), (4, 4)],
    "rectangular": [(5, 2), (3, 4)],
    "shrinking": [(2, 5), (6, 2)],
    "rows and columns": [(6, 1), (1, 5)],
    "three": [(2, 3), (4, 2), (3, 3)],
}


def kronecker(shape, kernel, lead=(3, 2), dtype=torch.float64):
    rng, shapes = np.random.default_rng(3), CHAINS[shape]
    n = int(np.prod([n for _, n in shapes]))
    args = [normal(rng, *s, dtype=dtype).requires_grad_() for s in (*shapes, (*lead, n))]
    return lambda *args: kron_matmul(args[:-1], args[-1], -1, kernel=kernel), args


SUMS = {
    "two terms": ([(3, 2), (4, 5)], 2, True),
    "one term": ([(2, 2), (3, 3)], 1, False),
    "many": ([(2, 3), (3, 2)], 7, True),
}


def separated(shape, kernel, lead=(3, 2), dtype=torch.float64):
    rng, (shapes, terms, scaled) = np.random.default_rng(4), SUMS[shape]
    n = int(np.prod([n for _, n in shapes]))
    sizes = (*((terms, *s) for s in shapes), *([(terms,)] * scaled), (*lead, n))
    args = [normal(rng, *s, dtype=dtype).requires_grad_() for s in sizes]

    def run(first, last, *rest):
        return separated_matmul((first, last), rest[0] if scaled else None, rest[-1], -1, kernel=kernel)

    return run, args


CASES = [(kronecker, s) for s in CHAINS] + [(separated, s) for s in SUMS]
CASES += [(convolution, s) for s in SHAPES] + [(sum_of_products, s) for s in TWICE]
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
def test_chosen(build, shape):
    """What is differentiated, goes through these kernels; so do batches for the transforms that nobody differentiates."""
    f, args = build(shape, None)
    assert "GeneratedBackwardFor_sepmat_" in str(f(*args).grad_fn.next_functions)
    if build in (convolution, sum_of_products):
        with torch.no_grad():
            np.testing.assert_array_equal(f(*args), build(shape, "torch")[0](*args))


@each_case
def test_gradcheck(build, shape):
    f, args = build(shape, "torch", lead=(2,))
    assert torch.autograd.gradcheck(f, args, check_batched_grad=shape == "toeplitz")
    if shape in ("circulant", "skew corner", "toeplitz", "corner", "transposed", "rectangular", "two terms"):
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


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 50])
@each_case
def test_chunks(build, shape, rows, monkeypatch):
    """In chunks of 8 rows, whatever is left over: the same numbers."""
    f, args = build(shape, "torch", lead=(rows,))
    g = torch.ones_like(f(*args))
    expected = forward_and_gradients(f, args, g)
    for kernel in (own_fourier, own_kron):
        monkeypatch.setitem(kernel.CHUNK, "cpu", 1)
    for found, whole in zip(forward_and_gradients(f, args, g), expected, strict=True):
        check(float((found - whole).norm()), float(whole.norm()), 100, "float64", "kernels for tensors, chunks")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_case
def test_half_precision(build, shape, dtype):
    """Transforms and sums over the rows are made in float32: few roundings, however many rows."""
    f, args = build(shape, "torch", lead=(100,), dtype=dtype)
    args = [a.detach().abs().requires_grad_() for a in args]  # so that nothing cancels
    exact, _ = build(shape, "reference", lead=(100,))
    wide = [a.detach().to(torch.float64).requires_grad_() for a in args]
    g = torch.ones_like(f(*args))
    u = torch.finfo(dtype).eps / 2
    for found, expected in zip(
        forward_and_gradients(f, args, g), forward_and_gradients(exact, wide, g.double()), strict=True
    ):
        assert found.dtype == dtype
        assert float((found.double() - expected).norm()) <= (2 + 4 * (build in (kronecker, separated))) * u * float(
            expected.norm()
        )


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e-38])
@pytest.mark.parametrize("shape", ["circulant", "skew corner", "toeplitz"])
def test_range(shape, size):
    """Rows far from 1 are scaled by powers of two on the way, in both directions."""
    f, (c, x) = convolution(shape, "torch", dtype=torch.float32)
    g = torch.ones_like(f(c, x))
    expected = forward_and_gradients(f, (c, x), g)
    x = (x.detach() * size).requires_grad_()
    for found, whole, factor in zip(forward_and_gradients(f, (c, x), g), expected, (size, size, 1.0), strict=True):
        assert float((found / factor - whole).norm()) <= 1e-5 * float(whole.norm())
    (dx,) = torch.autograd.grad(f(c, x), x, g * size)
    assert float((dx / size - expected[2]).norm()) <= 1e-5 * float(expected[2].norm())


def test_vectorised():
    """torch.func and vectorised Jacobians go on working: through the reference, or slice by slice."""
    c, x = (normal(np.random.default_rng(5), 6) for _ in range(2))
    f = lambda c, x: fourier.convolve(fourier.spectrum(c, 6), x, 0, 6, -1)  # noqa: E731
    dense = torch.func.jacrev(f, argnums=1)(c, x)
    vectorised = torch.autograd.functional.jacobian(lambda x: f(c, x), x, vectorize=True)
    batched = torch.func.vmap(f, in_dims=(None, 0))(c, torch.eye(6, dtype=c.dtype)).mT
    for J in (vectorised, batched):
        torch.testing.assert_close(J, dense)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("build", "shape"), [(kronecker, "three"), (separated, "many")], ids=lambda v: str(v)[:20])
def test_vectorised_jacobians_of_chains(build, shape, alone):
    """A batch of gradients at once, of all arguments or of x alone."""
    f, args = build(shape, None, lead=(2,))
    rest = [a.detach() for a in args[:-1]] if alone else []
    run, args = (lambda *some: f(*rest, *some)), tuple(args[len(rest) :])
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(jacobian(run, args, vectorize=True), jacobian(run, args))


# --- torch.compile -----------------------------------------------------------------------------------------------------------

STRUCTURES = {  # a matrix of shape (8, 6) or so from the parameters of these shapes
    "Circulant": (lambda c: sm.Circulant(c, (8, 6)), [(8,)]),
    "SkewCirculant": (lambda c: sm.SkewCirculant(c, (8, 6)), [(8,)]),
    "Toeplitz": (lambda c, r: sm.Toeplitz._of(c=c, tail=r), [(8,), (5,)]),
    "symmetric Toeplitz": (lambda c: sm.Toeplitz(c), [(6,)]),
    "LowDisplacementRank": (lambda G, H: sm.LowDisplacementRank(G, H, (8, 6)), [(8, 2), (8, 2)]),
    "Kronecker": (lambda A, B: sm.Kronecker(A, B), [(4, 2), (2, 3)]),
    "Separated": (lambda A, B: sm.Separated([A, B]), [(3, 4, 2), (3, 2, 3)]),
    "LowRank": (lambda U, V: sm.LowRank(U, V), [(8, 2), (6, 2)]),
    "LSR": (
        lambda A, B, C, D: sm.LowRank(sm.Separated([A, B]).to_dense(), sm.Separated([C, D]).to_dense()),
        [(3, 4, 2), (3, 2, 1), (3, 2, 2), (3, 3, 1)],
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_compiled_in_one_graph(name):
    """x @ A.T with A built on the way, forward and backward, without a break and once for any number of rows."""
    build, shapes = STRUCTURES[name]
    rng = np.random.default_rng(6)
    parameters = [torch.nn.Parameter(normal(rng, *s)) for s in shapes]
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")

    def product(x, *parameters):
        return x @ build(*parameters).T

    compiled = torch.compile(product, fullgraph=True, backend=graphs)
    for rows in (5, 7):
        args = (normal(rng, 2, rows, 6).requires_grad_(), *parameters)
        torch._dynamo.mark_dynamic(args[0], 1)
        g = normal(rng, 2, rows, 8 if name != "symmetric Toeplitz" else 6)
        pairs = zip(forward_and_gradients(compiled, args, g), forward_and_gradients(product, args, g), strict=True)
        for found, expected in pairs:
            check(float((found - expected).norm()), float(expected.norm()), 100, "float64", "torch.compile")
    assert graphs.frame_count == 1


# --- NumPy beside the threads of torch ----------------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch):
    """torch says that it has two threads; the sizes of what NumPy is asked for meanwhile."""
    asked, matmul, vdot = [], np.matmul, np.vdot

    def spy(a, b, out=None):
        m, k = a.shape[-2] if a.ndim > 1 else 1, b.shape[-1] if b.ndim > 1 else 1
        asked.append((m * a.shape[-1] * k, min(m, k)))
        return matmul(a, b, out=out)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(np, "matmul", spy)
    monkeypatch.setattr(np, "vdot", lambda a, b: (asked.append((10 * a.size, 2)), vdot(a, b))[1])
    return asked


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("build", "k"),
    [
        (lambda f: sm.Kronecker(f(64, 64), f(64, 64)), 20),
        (lambda f: sm.Kronecker(f(256, 256), f(256, 256)), 1),
        (lambda f: sm.Kronecker(f(150, 150), f(100, 100)), 3),
        (lambda f: sm.Kronecker(*(f(8, 8) for _ in range(6))), 1),
        (lambda f: sm.Separated([f(8, 64, 64), f(8, 64, 64)]), 1),
        (lambda f: sm.Separated([f(8, 64, 64), f(8, 64, 64)]), 16),
        (lambda f: sm.Separated([f(3, 4, 4), f(3, 150, 150), f(3, 4, 4)]), 40),
        (lambda f: sm.Separated([f(3, 8, 4), f(3, 150, 150), f(3, 4, 6)]), 40),
        (lambda f: sm.Toeplitz(f(128)), 64),
        (lambda f: sm.Circulant(f(16384)), 1),
    ],
)
def test_threads_of_blas_are_not_woken_beside_those_of_torch(build, k, dtype, threads):
    """No GEMM, GEMV or dot product of NumPy on the memory of tensors is so large that OpenBLAS would take its threads."""
    rng = np.random.default_rng(0)
    A = build(lambda *shape: normal(rng, *shape, dtype=dtype) / shape[-1] ** 0.5)
    x = normal(rng, A.shape[1], k, dtype=dtype) if k > 1 else normal(rng, A.shape[1], dtype=dtype)
    with torch.no_grad():
        y = A @ x
    assert all(size <= (10**6 if thin > 1 else 9216) for size, thin in threads)
    wide = A.map(lambda a: a.double()).map(lambda a: a.numpy()) @ x.double().numpy()
    name = "float64" if dtype == torch.float64 else "float32"
    scale = np.linalg.norm(wide) * np.sqrt(A.shape[1])
    check(float(np.linalg.norm(y.double().numpy() - wide)), scale, 1.0, name, "tensors beside threads of torch")


@pytest.mark.parametrize(
    ("n", "d", "shape", "axis"), [(64, 2, (4096, 290), -2), (64, 2, (290, 4096), -1), (32, 3, (2**15, 40), -2)]
)
def test_slabs_are_shared_among_threads(n, d, shape, axis, monkeypatch):
    """As many threads as torch takes, the same bits as on NumPy arrays, no thread left behind; what a thread raises arrives."""
    rng = np.random.default_rng(10)
    F, x = [normal(rng, n, n, dtype=torch.float64) / n**0.5 for _ in range(d)], normal(rng, *shape, dtype=torch.float64)
    A, run, count = sm.Kronecker(*F), steps._run, threading.active_count()
    one, seen, met, error = threading.get_ident(), set(), threading.Event(), FloatingPointError("a slab")

    def product(A, x):
        return A.apply(x) if axis == -1 else A @ x

    def shared(*args):
        """A slab, the first one not before two threads have each taken one."""
        seen.add(threading.get_ident())
        if len(seen) == 2:
            met.set()
        assert met.wait(60)
        return run(*args)

    def fails(*args):
        if threading.get_ident() != one:
            met.set()
            raise error
        assert met.wait(60)
        return run(*args)

    expected = product(A.map(lambda a: a.numpy()), x.numpy())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with torch.no_grad():
        monkeypatch.setattr(steps, "_run", shared)
        np.testing.assert_array_equal(product(A, x).numpy(), expected)
        assert one in seen and len(seen) > 1 and threading.active_count() == count
        met.clear()
        monkeypatch.setattr(steps, "_run", fails)
        with pytest.raises(FloatingPointError) as found:
            product(A, x)
        assert found.value is error and threading.active_count() == count
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(steps, "_run", run)
    np.testing.assert_array_equal(product(A, x).numpy(), expected)


@pytest.mark.parametrize(
    "shapes",
    [((700, 800), (800, 900)), ((300, 40), (40,)), ((40,), (40, 300)), ((200, 60), (3, 60, 100))]
    + [((200, 60), (2, 3, 60, 100)), ((2, 3, 200, 60), (60, 100))],
)
@pytest.mark.parametrize("into", [False, True])
def test_gemm_on_memory(shapes, into, threads):
    """By torch where it is large: what NumPy says, of read-only and of turned arrays, into an array with gaps."""
    from sepmat import _array

    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s) for s in shapes)
    expected = a @ b
    a = np.asfortranarray(a)
    a.flags.writeable = False
    room = np.zeros((*expected.shape[:-1], expected.shape[-1] + 3))[..., : expected.shape[-1]]
    room = room if into and b.ndim > 1 and a.ndim > 1 else None
    threads.clear()
    y = _array.on_memory(lambda view: _array.gemm(a, view, out=room), torch.from_numpy(b))
    assert bool(threads) == (a.size * b.size // a.shape[-1] <= (10**6 if min(a.ndim, b.ndim) > 1 else 9216))
    error = float(np.linalg.norm(y.numpy() - expected))
    check(
        error, float(np.linalg.norm(a) * np.linalg.norm(b)), a.shape[-1], "float64", "tensors beside threads of torch"
    )
