"""Plans: every route against a dense oracle within the bounds B3 to B5 and B9 to B11, and plans that say what is done."""

import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest
import reference as ref
from cases import CASES, normal
from conftest import check, host, namespace

import sepmat as sm
from sepmat import kronecker
from sepmat._bounds import BOUNDS
from sepmat.kernels import fourier, kron, plan, plan_fft, pocketfft, steps, unrolled
from sepmat.kernels.kron import kron_matmul, separated_matmul

DTYPES = ["float32", "float64", "complex64", "complex128"]


def constant(dtype, k):
    """γ_k for real sums of k products, √2 γ_2k for complex ones."""
    return BOUNDS["B3"](k, dtype)


def counted(monkeypatch):
    """A list of the multiplications and additions of all GEMMs from here on."""
    flops = []

    def spy(product):
        def counting(a, b, **kwargs):
            y = product(a, b, **kwargs)
            flops.append(2 * y.size * a.shape[-1])
            return y

        return counting

    monkeypatch.setattr(np, "matmul", spy(np.matmul))
    monkeypatch.setattr(steps, "_gemm", spy(steps._gemm))
    return flops


# --- Kronecker products -------------------------------------------------------------------------------------------------------

SHAPES = [
    [(8, 8)], [(4, 4), (4, 4)], [(2, 9), (5, 3)], [(3, 3), (2, 2), (5, 5)], [(2, 3)] * 4, [(17, 16), (33, 20)],
    [(1, 7), (6, 1), (3, 5)],
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_every_split_and_form(shapes, dtype, monkeypatch):
    """B3, B4 entry by entry, for every way to cut the factors in two groups or x in slabs, rows and columns, wide and narrow."""
    rng = np.random.default_rng(0)
    factors = [normal(rng, s, dtype) for s in shapes]
    D, G = (ref.kronecker(*(f(ref.wide(F)) for F in factors)) for f in (lambda a: a, np.abs))
    K, n = sum(n for _, n in shapes), D.shape[1]
    sizes, chain = tuple(shapes), plan.chain
    for k in (1, 3, 70):
        x = normal(rng, (n, k), dtype)
        scale, exact = G @ np.abs(x), D @ ref.wide(x)
        for split, axis in itertools.product((None, *range(len(shapes) + 1)), (-2, -1)):
            p = chain(sizes, *((1, k) if axis == -2 else (k, 1)), x.dtype.char)
            if split is None:
                p = dataclasses.replace(p, rows=0, columns=0)
            else:
                rows, columns = (2 if split < len(shapes) else 0), (5 if split else 0)
                p = dataclasses.replace(p, split=split, rows=rows, columns=columns)
            monkeypatch.setattr(plan, "chain", lambda *_, p=p: p)
            y = kron_matmul(factors, x if axis == -2 else np.ascontiguousarray(x.T), axis)
            check(np.abs((y if axis == -2 else y.T) - exact), scale, constant(dtype, K), dtype, "B3, B4 by plan")


@pytest.mark.parametrize("form", ["panels", "row panels", "batched"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_forms_of_a_step(form, dtype):
    """One factor in the middle: all forms give the same within γ_n."""
    rng = np.random.default_rng(1)
    for left, m, n, right in ((5, 20, 17, 70), (1, 16, 32, 200), (3, 4, 6, 64)):
        F, y = normal(rng, (m, n), dtype), normal(rng, (left, n, right), dtype)
        step = plan.Step(0, m, n, left, right, form, {"panels": 32, "row panels": 8, "batched": 0}[form])
        found = steps.run_step(F, step, y).reshape(left, m, right)
        scale = np.abs(F) @ np.abs(y)
        check(np.abs(found - np.matmul(ref.wide(F), ref.wide(y))), scale, constant(dtype, n), dtype, "B3 a step")
    rows = normal(rng, (300, 6), dtype)
    F = normal(rng, (5, 6), dtype)
    found = steps.run_step(F, plan.Step(0, 5, 6, 300, 1, "rows", 64), rows)
    check(np.abs(found[..., 0] - ref.wide(rows) @ ref.wide(F).T), np.abs(rows) @ np.abs(F).T, constant(dtype, 6), dtype)


@pytest.mark.parametrize(
    ("n", "d", "k", "axis"), [(64, 2, 16, -2), (64, 2, 20, -1), (8, 6, 1, -2), (32, 3, 5, -2), (2, 16, 1, -2)]
)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_results_take_turns_in_one_array(n, d, k, axis, dtype, monkeypatch):
    """The same numbers as with an array for each step, in two arrays at a time that nobody else keeps."""
    rng = np.random.default_rng(5)
    factors, x = (
        [normal(rng, (n, n), dtype) for _ in range(d)],
        normal(rng, (n**d, k) if axis == -2 else (k, n**d), dtype),
    )
    p = plan.chain(((n, n),) * d, *((1, k) if axis == -2 else (k, 1)), x.dtype.char)
    assert x.nbytes <= p.room <= 1.1 * x.nbytes and p.room % 64 == 0
    tracemalloc.start()
    y = kron_matmul(factors, x, axis)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held <= 1.05 * x.nbytes and peak <= 2 * p.room + 1.1 * x.nbytes
    monkeypatch.setitem(p.__dict__, "room", 0)
    np.testing.assert_allclose(y, kron_matmul(factors, x, axis), rtol=0, atol=1e-6 * np.abs(y).max())


def test_room_is_for_what_malloc_would_give_back():
    """From FREED on, and while a result stays below PAIR; slabs and single steps have none."""
    for n, d, k, room in (
        (64, 2, 15, 0),
        (64, 2, 16, 2**19),
        (64, 2, 255, 8355840),
        (64, 2, 257, 0),
        (32, 3, 16, 4259840),
        (32, 3, 33, 0),
        (64, 1, 2000, 0),
    ):
        p = plan.chain(((n, n),) * d, 1, k, "d")
        assert p.room in (room, room + 64 * n) and bool(p.room) == bool(room)


def test_calls_choose_whether_slabs_are_shared():
    """GEMMs of 10 µs lose more by handing over Python's lock than two threads gain; of 90 µs and more they nearly halve."""
    assert plan.chain(((64, 64),) * 2, 1, 300, "d").shared and plan.chain(((8, 8),) * 6, 16, 1, "d").shared
    assert not plan.chain(((8, 8),) * 6, 1, 16, "d").shared and not plan.chain(((8, 8),) * 6, 1, 16, "f").shared


def test_sizes_choose_the_forms():
    assert plan.step(0, 64, 64, 64, 1).form == "from the right" and plan.step(0, 64, 64, 1, 16).form == "from the left"
    assert plan.step(0, 64, 64, 64, 16).form == "batched" and plan.step(0, 256, 256, 256, 16).form == "row panels"
    assert plan.step(0, 64, 64, 1, 1024).form == "panels" and plan.step(0, 8, 8, 2**14, 1).form == "rows"
    assert not plan.chain(((8, 8),) * 4, 1, 16, "d").split and plan.chain(((8, 8),) * 6, 1, 16, "d").split
    assert len(plan.chain(((2, 2),) * 16, 1, 16, "d", True).groups) < 8
    assert len(plan.chain(((2, 2),) * 2, 1, 1, "d", True).groups) == 1


@pytest.mark.parametrize(
    ("n", "d", "shape", "axis", "slab"),
    [
        (64, 2, (4096, 300), -2, "64 columns at a time"),
        (64, 2, (300, 4096), -1, "16 rows at a time"),
        (8, 6, (5, 8**6), -1, "1 rows at a time"),
        (64, 2, (2, 4096, 150), -2, "1 rows at a time"),
        (32, 3, (2, 32**3, 40), -2, None),
    ],
)
def test_slabs_of_x_meet_all_factors(n, d, shape, axis, slab):
    """Rows and wide batches go through all factors a slab at a time, so that nothing as large as x is held beside the result."""
    rng = np.random.default_rng(9)
    F, x = [rng.standard_normal((n, n)) / n**0.5 for _ in range(d)], rng.standard_normal(shape)
    A = sm.Kronecker(*F)
    said = sm.explain(A, x, axis)
    product = A.apply if axis == -1 else A.__matmul__
    product(x)
    tracemalloc.start()
    try:
        y = product(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said.steps[0].rstrip(":") == slab if slab else "two passes" in said.route
    assert slab is None or peak <= y.nbytes + 4 * 2**21 + 2**16
    error = np.linalg.norm(y - kron_matmul(F, x, axis, kernel="reference"))
    check(error, np.linalg.norm(y), 2 * d * n, "float64", "slabs")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_merged_factors(d, dtype):
    """Small neighbours are multiplied out: K counts the columns of the merged factors, and one more for each product."""
    rng = np.random.default_rng(d)
    for shapes in ([(2, 2)] * d, [(3, 2), (2, 4), (1, 3), (5, 2)][:d]):
        factors = [normal(rng, s, dtype) for s in shapes]
        A = sm.Kronecker(*factors)
        D, G = (ref.kronecker(*(f(ref.wide(F)) for F in factors)) for f in (lambda a: a, np.abs))
        for k in (1, 5):
            x = normal(rng, (A.shape[1], k), dtype)
            p = A._plan(x.shape, -2)
            K = sum(n for _, n in p.shapes) + sum(j - i - 1 for i, j in p.groups)
            for y in (A @ x, A.apply(x.T).T):
                check(np.abs(y - D @ ref.wide(x)), G @ np.abs(x), constant(dtype, K), dtype, "B3, B4 merged")


def test_merging_follows_the_data():
    """What is remembered is dropped with a gradient, and a tensor that was written to is merged anew."""
    torch = pytest.importorskip("torch")
    F = [torch.eye(2, dtype=torch.float64) for _ in range(3)]
    A = sm.Kronecker(*F)
    x = torch.arange(8.0, dtype=torch.float64)
    assert torch.equal(A @ x, x)
    F[1].mul_(2)
    assert torch.equal(A @ x, 2 * x)
    F[0].requires_grad_(True)
    (sm.Kronecker(*F) @ x).sum().backward()
    assert F[0].grad is not None and float(F[0].grad[0, 0]) == float(2 * x[:4].sum())


# --- sums of Kronecker products -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [[(6, 5), (4, 7)], [(3, 2), (2, 4), (5, 3)], [(2, 2)] * 4], ids=str)
def test_terms_at_once(shapes, dtype):
    """B5 entry by entry: by the plan, and from either end, of all of x and in slabs."""
    rng = np.random.default_rng(2)
    terms = 5
    factors, scales = [normal(rng, (terms, *s), dtype) for s in shapes], normal(rng, (terms,), dtype)
    D = ref.separated(*map(ref.wide, factors), scales=ref.wide(scales))
    G = ref.separated(*(np.abs(ref.wide(F)) for F in factors), scales=np.abs(ref.wide(scales)))
    K, x = sum(n for _, n in shapes), normal(rng, (D.shape[1], 3), dtype)
    bound = constant(dtype, K + terms + 1)
    columns = [separated_matmul(factors, scales, x, -2), separated_matmul(factors, scales, x.T.copy(), -1).T]
    weighted = (*factors[:-1], factors[-1] * scales[:, None, None])
    for forward, slab, (axis, left, right) in itertools.product((True, False), (1, 2, 7), ((-2, 1, 3), (-1, 3, 1))):
        whole = plan.terms(tuple(shapes), terms, left, right, x.dtype.char)
        way = plan.stacked(tuple(shapes), terms, left, right, forward)
        p = whole._replace(forward=forward, slab=slab, steps=way)
        laid = kron.stacks_laid_out(weighted, forward)
        y = kron.planned_sum(p, laid, x if axis == -2 else x.T.copy(), axis)
        columns.append(y if axis == -2 else y.T)
    for y in columns:
        check(np.abs(y - D @ ref.wide(x)), G @ np.abs(x), bound, dtype, "B5 by plan")
    S = sm.Separated(factors, scales)
    for A, dense, size in ((S, D, G), (S.T, D.T, G.T)):
        z = normal(rng, (A.shape[1], 3), dtype)
        check(np.abs(A @ z - dense @ ref.wide(z)), size @ np.abs(z), bound + 4, dtype, "B5 by plan")


# --- transforms and dense forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m, n", [(7, 7), (13, 5), (6, 11), (64, 64), (1, 9), (9, 1)])
def test_both_routes_of_a_transform(m, n, dtype):
    """B9, B10: by FFT and by the dense form, which is n products of the largest entry at most away."""
    rng = np.random.default_rng(m * n)
    t, c = normal(rng, (m + n - 1,), dtype), normal(rng, (max(m, n),), dtype)
    x = normal(rng, (n, 3), dtype)
    for A in (
        sm.Toeplitz(t[n - 1 :], t[n - 1 :: -1]),
        sm.Hankel(t[:m], t[m - 1 :]),
        sm.Circulant(c, (m, n)),
        sm.SkewCirculant(c, (m, n)),
    ):
        dense = ref.wide(A.to_dense())
        data = t if isinstance(A, (sm.Toeplitz, sm.Hankel)) else c
        N = max(8, A._fft_length)
        scale = math.sqrt(N) * np.linalg.norm(data) * np.linalg.norm(x, axis=0)
        for route in (A._by_fft, A._times_dense):
            for y in (route(x, -2), route(np.ascontiguousarray(x.T), -1).T):
                error = np.linalg.norm((y - dense @ ref.wide(x)).astype(complex), axis=0)
                check(error, scale, ref.fft_constant(N), dtype, "B9, B10 by plan")
        y = A._times_dense(x, -2)
        check(np.abs(y - dense @ ref.wide(x)), np.abs(dense) @ np.abs(x), constant(dtype, n), dtype, "dense route")
        np.testing.assert_array_equal(host(A._dense_transpose()).T, A.to_dense())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, r", [(8, 1), (13, 2), (64, 3)])
def test_both_routes_of_displacement(n, r, dtype):
    """B11 by FFT; the dense form is made of n such products and costs one more γ_n."""
    rng = np.random.default_rng(n)
    G, H, x = normal(rng, (n, r), dtype), normal(rng, (n, r), dtype), normal(rng, (n, 2), dtype)
    W = sm.LowDisplacementRank(G, H)
    assert W._plan(x.shape, -2).route == "dense"
    k = np.subtract.outer(np.arange(n), np.arange(n))
    D = sum((ref.wide(G[:, i])[k % n]) @ (ref.wide(H[:, i])[k % n] * np.where(k < 0, -1, 1)) for i in range(r))
    scale = float(ref.displacement_norm(G, H)) * np.linalg.norm(x, axis=0)
    for A, dense in ((W, D), (W.T, D.T)):
        for y, bound in ((A._by_fft(x, -2), 0), (A._times_dense(x, -2), (math.sqrt(n) + n) * 2)):
            error = np.linalg.norm((y - dense @ ref.wide(x)).astype(complex), axis=0)
            check(error, scale, ref.displacement_constant(G, H) + bound, dtype, "B11 by plan")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("axis", [-1, -2])
def test_blocks_of_vectors(axis, dtype, monkeypatch):
    """Batches in blocks: the same as in one piece, for rows, columns and stacks of columns."""
    rng = np.random.default_rng(3)
    monkeypatch.setattr(plan_fft, "vectors", lambda n, kind, axis: 8)
    for shape in ((20, 30), (2, 11, 30), (3, 30)):
        x = normal(rng, shape if axis == -1 else (*shape[:-2], shape[-1], shape[-2]), dtype)
        S = fourier.spectrum(normal(rng, (30,), dtype), 30)
        T = fourier.spectrum(normal(rng, (2, 30), dtype), 30, skew=True)
        U = fourier.spectrum(normal(rng, (2, 30), dtype), 30)
        for table, args in ((fourier.convolve, (S, x, 3, 17, axis)), (fourier.convolve_twice, (U, T, x, 29, axis))):
            found, expected = table(*args), table(*args, kernel="reference")
            assert found.shape == expected.shape and found.dtype == expected.dtype
            check(np.linalg.norm(found - expected), np.linalg.norm(expected), 100, dtype, "blocks")


def test_without_pocketfft(monkeypatch):
    """The public functions of SciPy in place of what they call."""
    import scipy.fft

    c, x = np.random.default_rng(4).standard_normal((2, 700))
    expected = sm.Circulant(c) @ x
    rows, h = np.random.default_rng(5).standard_normal((90, 700)), np.ones(1399)
    many = sm.Circulant(c).apply(rows)
    backwards = sm.Hankel(h[:700], h[699:]) @ x
    monkeypatch.setattr(pocketfft, "NUMPY_FFT", scipy.fft)
    np.testing.assert_array_equal(sm.Circulant(c) @ x, expected)
    np.testing.assert_array_equal(sm.Circulant(c).apply(rows), many)
    np.testing.assert_array_equal(sm.Hankel(h[:700], h[699:]) @ x, backwards)


def test_plans_follow_the_number_of_vectors():
    """One matrix meets a vector, rows and a vector again: each product has its own plan, and equal products have equal bits."""
    rng = np.random.default_rng(2)
    G, H, rows = rng.standard_normal((300, 2)), rng.standard_normal((300, 2)), rng.standard_normal((70, 300))
    for A in (sm.Toeplitz(G[:, 0]), sm.LowDisplacementRank(G, H)):
        first, many = A @ rows[0], A.apply(rows)
        assert [A._plan(shape, -1).vectors for shape in ((300,), (70, 300), (1, 300))] == [1, 70, 1]
        np.testing.assert_array_equal(A @ rows[0], first)
        np.testing.assert_array_equal(A.apply(rows), many)


def test_dense_forms_of_displacement_structure_pay():
    """n = 1024, 16 terms, one vector: 4 MB of a dense matrix are read faster than 34 transforms run, 8 MB are not."""
    assert plan_fft.transform(1024, 1024, 1024, 1, "f", 34).route == "dense"
    assert plan_fft.transform(1024, 1024, 1024, 1, "d", 34).route == "fft"
    assert [plan_fft.run(n) for n in (0, 1, 31, 32, 256, 10**6)] == [1, 1, 1, 2, 16, plan_fft.LONGEST_RUN]


def test_blocks_share_nothing_with_results():
    """Products after each other leave earlier results alone, and a block does not read what the block before it left."""
    rng = np.random.default_rng(6)
    c, rows = rng.standard_normal(1500), rng.standard_normal((120, 1500))
    for A in (
        sm.Circulant(c),
        sm.Toeplitz(c),
        sm.Hankel(c),
        sm.SkewCirculant(c),
        sm.LowDisplacementRank(*[c[:, None]] * 2),
    ):
        first = A.apply(rows)
        kept = first.copy()
        A.apply(-rows)
        np.testing.assert_array_equal(first, kept)
        error = np.linalg.norm(first - np.stack([A @ row for row in rows]), axis=1)
        check(error, np.linalg.norm(first, axis=1), 100, "float64", "blocks")


def test_rows_are_never_turned(monkeypatch):
    """A batch of rows meets its transforms as it lies in memory."""
    seen, fit = [], pocketfft.PocketFFT._fit
    monkeypatch.setattr(
        pocketfft.PocketFFT,
        "_fit",
        lambda self, x, n, axis: (seen.append((x.flags.c_contiguous, axis)), fit(self, x, n, axis))[1],
    )
    x = np.ones((40, 600))
    sm.Circulant(np.ones(600)).apply(x)
    sm.Toeplitz(np.ones(600)).apply(x)
    assert seen and all((contiguous and axis % 2 == 1) or (contiguous and axis == -1) for contiguous, axis in seen)


def test_dense_forms_need_the_right_to_remember():
    torch = pytest.importorskip("torch")
    c = torch.ones(16, dtype=torch.float64)
    assert sm.Circulant(c)._plan((16,), -1).route == "dense"
    c.requires_grad_(True)
    A = sm.Circulant(c)
    assert A._plan((16,), -1).route == "fft" and "dense" not in A.__dict__.get("_memo", {})
    (A @ torch.arange(16.0, dtype=torch.float64)).sum().backward()
    assert torch.allclose(c.grad, torch.full((16,), 120.0, dtype=torch.float64))


def test_large_dense_forms_are_never_made():
    for n in (3000, 10000):
        assert plan_fft.transform(n, n, n, 10**4, "d", 34).route == "fft"
    assert plan_fft.transform(509, 509, 509, 64, "d").route == "dense"  # prime: Bluestein
    assert plan_fft.transform(512, 512, 512, 64, "d").route == "fft"


@pytest.mark.parametrize("descending", [True, False])
def test_unrolled(descending, xp):
    t = xp.asarray(np.arange(8.0))
    rows = [list(range(s, s + 5)) for s in range(4)]
    expected = np.asarray(rows[::-1] if descending else rows, float)
    np.testing.assert_array_equal(host(unrolled.unroll(t, 4, 5, descending)), expected)
    np.testing.assert_array_equal(host(unrolled.unroll(t, 4, 5, descending, kernel="reference")), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what forward mode imports
def test_tensors_share_memory_with_numpy_only_where_nobody_looks(monkeypatch):
    """Gradients, forward mode and vmap see torch operations; plain tensors are multiplied by NumPy on their memory."""
    torch = pytest.importorskip("torch")
    calls = []
    monkeypatch.setattr(kronecker, "planned", lambda *a, run=kron.planned: (calls.append(1), run(*a))[1])
    rng = np.random.default_rng(8)
    F = [torch.tensor(rng.standard_normal((3, 3))) for _ in range(2)]
    x, v = (torch.tensor(rng.standard_normal(9)) for _ in range(2))
    K = torch.kron(*F)
    A = sm.Kronecker(*F)
    assert torch.allclose(A @ x, K @ x) and len(calls) == 1
    z = x.clone().requires_grad_(True)
    (A @ z).sum().backward()
    assert torch.allclose(z.grad, K.sum(0)) and len(calls) == 1
    with torch.no_grad():
        assert torch.allclose(A @ z, K @ x) and len(calls) == 2
    value, tangent = torch.func.jvp(lambda y: A @ y, (x,), (v,))
    assert torch.allclose(value, K @ x) and torch.allclose(tangent, K @ v) and len(calls) == 2
    with torch.autograd.forward_ad.dual_level():
        dual = A @ torch.autograd.forward_ad.make_dual(x, v)
        assert torch.allclose(torch.autograd.forward_ad.unpack_dual(dual).tangent, K @ v)
    both = torch.func.vmap(lambda y: A @ y)(torch.stack((x, v)))
    assert torch.allclose(both, torch.stack((K @ x, K @ v))) and len(calls) == 2
    F[0].mul_(2)  # a tensor that was written to is looked at anew
    assert torch.allclose(A @ x, 2 * (K @ x)) and len(calls) == 3
    c = torch.tensor(rng.standard_normal(700))
    C, y = sm.Circulant(c), torch.tensor(rng.standard_normal(700))
    D = C.to_dense()
    assert torch.allclose(C @ y, D @ y) and torch.allclose(torch.func.jvp(lambda t: C @ t, (y,), (c,))[1], D @ c)
    assert torch.allclose((C @ y.to(torch.complex128).conj()).real, D @ y)


# --- explain --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 64])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_the_flops_are_the_counted_ones(k, dtype, monkeypatch):
    """Of the multiplications that NumPy is asked for, in every form."""
    rng = np.random.default_rng(5)
    for factors in ([(8, 8)] * 4, [(2, 2)] * 9, [(30, 40), (20, 5)], [(64, 64)] * 2, [(3, 50), (50, 3)]):
        A = sm.Kronecker(*(normal(rng, s, dtype) for s in factors))
        S = sm.Separated([normal(rng, (4, *s), dtype) for s in factors])
        for B, axis in itertools.product((A, S), (-2, -1)):
            x = normal(rng, (B.shape[1], k) if axis == -2 else (k, B.shape[1]), dtype)
            B.apply(x, axis=axis)  # merges, once
            with monkeypatch.context() as patch:
                flops = counted(patch)
                B.apply(x, axis=axis)
            assert sm.explain(B, x, axis=axis).flops == sum(flops) * (4 if dtype.startswith("complex") else 1)


def test_the_plan_is_the_one_that_runs(monkeypatch):
    """The steps that run are those of the plan that explain has put into words, and the table finds the same plan."""
    rng = np.random.default_rng(6)
    seen = []
    step, slabs = steps.run_step, steps._in_slabs
    monkeypatch.setattr(steps, "run_step", lambda f, s, *a: (seen.append(s), step(f, s, *a))[1])
    monkeypatch.setattr(steps, "_in_slabs", lambda f, p, x: (slabs(f, p, x), seen.clear(), seen.extend(p.steps))[0])
    for shapes, k in (([(8, 8)] * 6, 16), ([(2, 2)] * 12, 1), ([(64, 64)] * 2, 16), ([(7, 3), (2, 6)], 5)):
        A = sm.Kronecker(*(rng.standard_normal(s) for s in shapes))
        x = rng.standard_normal((A.shape[1], k))
        p = A._plan(x.shape, -2)
        seen.clear()
        A @ x
        assert tuple(seen) == p.steps
        factors = A._ready(p.groups)[0]
        seen.clear()
        kron_matmul(factors, x, -2)
        assert tuple(seen) == p.steps


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_class_is_explained(case):
    xp = namespace("numpy")
    A, _ = case.build(xp, case.data(np.random.default_rng(7), "float64"))
    for shape, axis in (((A.shape[1],), None), ((A.shape[1], 3), None), ((2, A.shape[1]), -1)):
        found = sm.explain(A, shape, axis=axis)
        text = str(found)
        assert found.route and found.seconds >= 0 and 0 <= found.share <= 1 and found.bytes >= 0
        assert (
            text.count("\n") >= 3 and "route" in text and "limit" in text and max(map(len, text.split("\n")[1:])) < 120
        )


def test_what_explain_says():
    A = sm.Kronecker(*[np.eye(8)] * 4)
    found = sm.explain(A, np.ones((4096, 16)))
    assert found.flops == 4 * 2 * 8 * 4096 * 16 and "4 factors one after the other" in str(found)
    assert str(found).startswith("Kronecker(8×8 ⊗ 8×8 ⊗ 8×8 ⊗ 8×8) @ x (4096, 16), float64\n")
    assert sm.explain(A, np.ones((4096, 16)) + 0j).flops == 2 * found.flops
    slow = sm.explain(A, (4096, 16), limits=sm.Limits(copy=1e9, cache=1e9, gemm64=1e9))
    assert slow.seconds > 10 * found.seconds and slow.share == found.share
    assert "slabs" in str(sm.explain(sm.Kronecker(*[np.eye(8)] * 6), (8**6, 16)))
    assert "multiplied out" in str(sm.explain(sm.Kronecker(*[np.eye(2)] * 16), (2**16,)))
    assert "dense" in sm.explain(sm.Circulant(np.ones(64)), (64,)).route
    assert sm.explain(sm.Circulant(np.ones(4096)), (4096,)).route == "2 real FFTs of length 4096 a vector"
    assert sm.explain(sm.Toeplitz(np.ones(3000) + 0j), (3000,)).route.startswith("2 complex FFTs of length ")


def test_explain_refuses():
    A = sm.Kronecker(np.eye(2), np.eye(3))
    with pytest.raises(sm.ShapeError, match=r"explain: x: shape \(5,\); expected length 6"):
        sm.explain(A, (5,))
    with pytest.raises(sm.ArgumentError, match="explain: axis"):
        sm.explain(A, (6,), axis=-2)
    with pytest.raises(sm.ShapeError, match="scalar"):
        sm.explain(A, np.float64(1.0))
    with pytest.raises(sm.DTypeError):
        sm.explain(np.eye(2), (2,))


def test_limits_are_measured_on_request():
    limits = sm.Limits.measured()
    assert all(value > 1e7 for value in (limits.gemm32, limits.gemm64, limits.copy, limits.cache, limits.fft))


def test_memory_is_checked_before_it_is_taken():
    column = np.broadcast_to(np.ones((1, 1)), (2**20, 1))
    with pytest.raises(sm.SizeLimitError, match=r"A @ x: size: .*: factor \d made"):
        sm.Kronecker(column, column) @ np.ones(1)
    S = sm.Separated([np.ones((2, 2**18, 1)), np.ones((2, 2**18, 1))])
    with pytest.raises(sm.SizeLimitError, match=r"A @ x: size: .*fewer columns"):
        S @ np.ones(1)
