"""The rows of CuPy arrays without a device: passes on every library, cuBLAS and the kernel by stand-ins on NumPy's memory."""

import ctypes
import functools
import importlib.util
import math
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import check, host
from cuda_host import MISSING, HostModule

import sepmat as sm
from sepmat import _array
from sepmat._bounds import BOUNDS
from sepmat.kernels.cuda import chain, launch, rows
from sepmat.kernels.cuda.plan import H100, H200, Limits, plan
from sepmat.kernels.cuda.specialise import ARGUMENTS, specialise
from sepmat.kernels.kron import kron_matmul, separated_matmul
from sepmat.kernels.plan import sides

SHAPES = [
    ((8, 8), (8, 8), (8, 8)), ((5, 3), (2, 7)), ((3, 3),), ((65, 4), (4, 65)), ((2, 2),) * 7, ((1, 3), (4, 1), (2, 2), (3, 5)),
    ((33, 40), (3, 2), (4, 4)), ((4, 4), (16, 16), (9, 9)),
    ((2, 66), (65, 2), (3, 65)),  # nothing can be multiplied out: a middle factor in sums
]  # fmt: skip
DTYPES = ["float32", "float64", "complex64", "complex128"]


def data(rng, xp, shapes, terms, dtype, axis, lead=(2, 5)):
    """(factors, x): matrices, or stacks of them for a number of terms; a batch on both sides of the axis."""
    n = math.prod(n for _, n in shapes)
    factors = [normal(rng, (terms, *s) if terms else s, dtype) for s in shapes]
    x = normal(rng, (*lead, n) if axis == -1 else (lead[0], n, lead[1]), dtype)
    return [xp.asarray(F, copy=True) for F in factors], xp.asarray(x, copy=True)


def expected(factors, x, axis, scales=None):
    """(the product, the same of moduli), mode by mode in wider precision."""
    stacks = [ref.wide(host(F)) if F.ndim == 3 else ref.wide(host(F))[None] for F in factors]
    weights = np.ones(len(stacks[0])) if scales is None else ref.wide(host(scales))
    found = []
    for f in (lambda a: a, np.abs):
        v = np.moveaxis(f(ref.wide(host(x))), axis, -1)
        total = 0
        for l, s in enumerate(weights):
            y = v.reshape(-1, *(F.shape[2] for F in stacks))
            for k, F in enumerate(stacks):
                y = np.moveaxis(np.tensordot(y, f(F[l]), axes=(k + 1, 1)), -1, k + 1)
            total = total + f(s) * y
        found.append(np.moveaxis(total.reshape(*v.shape[:-1], -1), -1, axis))
    return found


def agrees(found, exact, shapes, terms, dtype, name):
    """The bound of a chain, entry by entry: γ of all lengths of the sums."""
    y, scale = exact
    assert host(found).shape == y.shape and host(found).dtype == np.dtype(dtype)
    k = sum(n for _, n in shapes) + len(shapes) + terms + 2
    check(np.abs(host(found) - y), scale, BOUNDS["B3"](k, dtype), dtype, name)


# --- passes on any library -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_merged_chain(xp, rng, shapes, dtype, axis):
    factors, x = data(rng, xp, shapes, 0, dtype, axis)
    left, right = sides(x.shape, axis)
    p = plan(shapes, left, dtype, 1, right, kernels=False)
    found = chain.kron(p, factors, x, axis)
    agrees(found, expected(factors, x, axis), shapes, 1, dtype, "kron, merged")
    wider = plan(shapes, left, "tf32", 1, right)  # longer merges, other groups: the same product
    agrees(chain.kron(wider, factors, x, axis), expected(factors, x, axis), shapes, 1, dtype, "kron, merged")


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_merged_sums(xp, rng, shapes, dtype, axis):
    factors, x = data(rng, xp, shapes, 3, dtype, axis)
    scales = xp.asarray(normal(rng, (3,), dtype), copy=True) if axis == -1 else None
    left, right = sides(x.shape, axis)
    p = plan(shapes, left, dtype, 3, right, kernels=False)
    found = chain.separated(p, factors, scales, x, axis)
    agrees(found, expected(factors, x, axis, scales), shapes, 4, dtype, "sum of terms, merged")


def test_one_vector_and_size_limit():
    rng = np.random.default_rng(0)
    shapes = ((4, 3), (2, 5))
    factors, x = [normal(rng, s, "float64") for s in shapes], normal(rng, (15,), "float64")
    agrees(
        chain.kron(plan(shapes, 1, "float64", kernels=False), factors, x, -1),
        expected(factors, x, -1),
        shapes,
        1,
        "float64",
        "kron, merged",
    )
    huge = np.broadcast_to(np.float32(0), (2**18, 2**16))
    with pytest.raises(sm.SizeLimitError, match=r"A @ x: size: .*68\.7 GB.*fewer columns at a time: factor 0 made"):
        chain.kron(
            plan(((2**16, 2**16),), 2**18, "float32"), [np.broadcast_to(np.float32(0), (2**16, 2**16))], huge, -1
        )


def test_a_kernel_needs_its_products():
    p = plan(((8, 8),) * 4, 1024, "float32")
    with pytest.raises(sm.UnsupportedError, match=r"a pass of the kernel.*kernels=False"):
        chain.kron(p, [np.eye(8, dtype=np.float32)] * 4, np.ones((1024, 4096), np.float32), -1)


# --- cuBLAS and the kernel by stand-ins ------------------------------------------------------------------------------------


def at(address, count, dtype):
    """`count` entries at an address."""
    return np.frombuffer((ctypes.c_char * (int(count) * np.dtype(dtype).itemsize)).from_address(int(address)), dtype)


class CuBLAS:
    """The batched products of cuBLAS, column by column, as its manual defines them."""

    def __init__(self):
        self.calls = 0

    def __getattr__(self, name):
        if not name.endswith("gemmStridedBatched"):
            raise AttributeError(name)
        return functools.partial(self.batched, {"s": "f", "d": "d", "c": "F", "z": "D"}[name[0]])

    def batched(self, kind, handle, ta, tb, m, n, k, one, A, lda, step_a, B, ldb, step_b, zero, C, ldc, step_c, count):
        assert (
            handle == 7 and ta == 0 and all(type(v) is int for v in (m, n, k, lda, ldb, ldc, A, B, C, step_a, step_c))
        )
        assert at(one, 1, kind)[0] == 1 and at(zero, 1, kind)[0] == 0 and lda >= m and ldc >= m
        self.calls += 1
        for i in range(count):
            a, b, c = (
                at(p + i * step * np.dtype(kind).itemsize, ld * (columns - 1) + rows, kind)
                for p, step, ld, rows, columns in (
                    (A, step_a, lda, m, k), (B, step_b, ldb, *((n, k) if tb else (k, n))), (C, step_c, ldc, m, n)
                )
            )  # fmt: skip
            a = view(a, m, k, lda)
            b = view(b, n, k, ldb).T if tb else view(b, k, n, ldb)
            view(c, m, n, ldc)[...] = a @ b


def view(a, rows, columns, ld):
    return np.lib.stride_tricks.as_strided(
        a, (rows, columns), (a.itemsize, ld * a.itemsize), writeable=a.flags.writeable
    )


class Module:
    """The kernel by its documentation, in double precision: what is launched with is read by the names of the arguments."""

    def __init__(self, spec):
        self.spec, self.launches, self.max_dynamic_shared_size_bytes = spec, 0, 48 * 1024

    def get_function(self, name):
        assert name == self.spec.entry
        return self

    def __call__(self, grid, block, args, *, shared_mem):
        s, self.launches = self.spec, self.launches + 1
        assert [type(a) for a in args] == [np.uint64 if kind == "pointer" else np.int64 for _, kind in ARGUMENTS]
        assert block == (s.threads,) and shared_mem == s.shared_bytes <= self.max_dynamic_shared_size_bytes
        a = dict(zip([name for name, _ in ARGUMENTS], map(int, args), strict=True))
        assert (
            1 <= grid[0] <= s.tiles(a["outer"], a["inner"]) and (s.inner > 1 or a["inner"] == 1) and not a["transposed"]
        )
        n, m = (math.prod(shape[k] for shape in s.shapes) for k in (1, 0))
        many_x, many_y = s.kind == "gather", s.kind == "spread"
        F = at(a["factors"], a["terms"] * sum(p * q for p, q in s.shapes), s.dtype).reshape(a["terms"], -1)
        x = self.slices(a, "x", n, a["terms"] if many_x else 1)
        y = self.slices(a, "y", m, a["terms"] if many_y else 1)
        total = []
        for l, row in enumerate(F):
            part, start = x[l if many_x else 0].astype(float), 0
            part = part.reshape(a["outer"], *(q for _, q in s.shapes), a["inner"])
            for k, (p, q) in enumerate(s.shapes):
                factor = row[start : start + p * q].reshape(p, q).astype(float)
                part, start = np.moveaxis(np.tensordot(part, factor, axes=(k + 1, 1)), -1, k + 1), start + p * q
            total.append(part.reshape(y[0].shape))
        y[...] = total if many_y else [sum(total)]

    def slices(self, a, name, length, count):
        """(terms, outer, length, inner) as the strides say."""
        size, (outer, term) = np.dtype(self.spec.dtype).itemsize, (a[f"{name}_outer"], a[f"{name}_term"])
        last = (count - 1) * term + (a["outer"] - 1) * outer + length * a["inner"]
        strides = (term * size, outer * size, a["inner"] * size, size)
        shape = (count, a["outer"], length, a["inner"])
        return np.lib.stride_tricks.as_strided(at(a[name], last, self.spec.dtype), shape, strides)


class OnHost(rows.CuPyProducts):
    """The products of CuPy on NumPy arrays, whose results begin as NaN."""

    def __init__(self):
        self.arrays, self.blas, self.modules = self, CuBLAS(), {}
        self.ascontiguousarray = np.ascontiguousarray

    @staticmethod
    def empty(shape, dtype):
        return np.full(shape, np.nan, dtype)

    @staticmethod
    def address(a):
        return a.ctypes.data

    def cublas(self):
        return self.blas, 7

    def module(self, spec):
        return self.modules.setdefault(spec, Module(spec))


@pytest.fixture(params=[H100, Limits(issued=100.0, launch=0.0, bandwidth=1e12)], ids=["H100", "kernels everywhere"])
def limits(request, monkeypatch):
    """The plans of an H100, and of a machine on which kernels win more often."""
    monkeypatch.setattr(rows, "plan", functools.partial(plan, limits=request.param))
    return request.param


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_kron_matmul(limits, rng, shapes, dtype, axis):
    factors, x = data(rng, np, shapes, 0, dtype, axis, lead=(3, 40))
    products = OnHost()
    found = rows.kron_matmul(factors, x, axis, products)
    agrees(found, expected(factors, x, axis), shapes, 1, dtype, "kron on a device")
    assert not products.modules or dtype in ("float32", "float64")
    if limits is H100 and len(shapes) == 7 and dtype == "float32":
        assert sum(m.launches for m in products.modules.values()) == 1 and not products.blas.calls
    turned = rows.kron_matmul([np.asfortranarray(F) for F in factors], np.asfortranarray(x), axis, OnHost())
    np.testing.assert_allclose(turned, found, rtol=1e-3, atol=1e-2)
    strided = rows.kron_matmul(
        [np.repeat(F, 2, 1)[:, ::2] for F in factors], np.repeat(x, 2, -1)[..., ::2], axis, OnHost()
    )
    np.testing.assert_array_equal(strided, found)


@pytest.mark.parametrize("terms", [1, 4])
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_separated_matmul(limits, rng, shapes, dtype, axis, terms):
    factors, x = data(rng, np, shapes, terms, dtype, axis, lead=(3, 40))
    scales = normal(rng, (terms,), dtype)
    found = rows.separated_matmul(factors, scales, x, axis, OnHost())
    agrees(found, expected(factors, x, axis, scales), shapes, terms + 1, dtype, "sum on a device")


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@hypothesis.given(
    shapes=st.lists(sizes, min_size=1, max_size=6).filter(
        lambda s: math.prod(max(m, n) for m, n in s) < 5000 and math.prod(m * n for m, n in s) < 10**7
    ),
    terms=st.integers(0, 3),
    rows_of_x=st.integers(1, 40),
    columns=st.integers(1, 40),
    launch_cost=st.sampled_from([0.0, 1e-5]),
    issued=st.sampled_from([0.01, 1.0, 100.0]),
    multiprocessors=st.sampled_from([1, 132]),
)
def test_any_shapes_on_any_machine(shapes, terms, rows_of_x, columns, launch_cost, issued, multiprocessors):
    """Random sides and sizes, machines whose plans differ: one or several passes, kernels, GEMMs and both. 0 terms: a product."""
    limits = Limits(launch=launch_cost, issued=issued, bandwidth=1e11, multiprocessors=multiprocessors)
    shapes, rng = tuple(shapes), np.random.default_rng(len(shapes))
    p = plan(shapes, rows_of_x, "float64", terms or 1, columns, limits)
    n = math.prod(n for _, n in shapes)
    factors = [normal(rng, (terms, *s) if terms else s, "float64") for s in shapes]
    x = normal(rng, (rows_of_x, n, columns), "float64")
    products = OnHost()
    found = chain.separated(p, factors, None, x, -2, products) if terms else chain.kron(p, factors, x, -2, products)
    agrees(found, expected(factors, x, -2), shapes, terms + 1, "float64", "any plan")
    hypothesis.event(p.route)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_in_several_passes(rng, dtype, monkeypatch):
    """Spread, one launch for each term, gathered: rows that one pass cannot hold."""
    shapes = ((16, 16),) * 5
    small = functools.partial(plan, limits=Limits(launch=0.0))
    p = small(shapes, 1, dtype, 3, 1)
    kinds = [s.specialisation.kind for s in p.passes]
    assert kinds[0] == "spread" and kinds[-1] == "gather"
    # the same passes on small factors
    shapes = ((3, 2), (2, 3), (4, 4))
    made = [
        rows_step(shapes, (2, 3), 2 * 2 * 3, 5, "spread", dtype),
        rows_step(shapes, (1, 2), 2 * 2, 4 * 5, "one", dtype),
        rows_step(shapes, (0, 1), 2, 2 * 4 * 5, "gather", dtype),
    ]
    factors, x = data(rng, np, shapes, 3, dtype, -2, lead=(2, 5))
    import dataclasses

    q = dataclasses.replace(p, shapes=shapes, passes=tuple(made))
    products, rooms = OnHost(), []
    products.empty = lambda shape, dtype: rooms.append(shape) or OnHost.empty(shape, dtype)
    found = chain.separated(q, factors, None, x, -2, products)
    assert rooms == [(3, 12, 4, 5), (3, 4, 2, 20), (1, 2, 3, 40)]  # one array for each term between the passes
    agrees(found, expected(factors, x, -2), shapes, 3, dtype, "sum on a device")
    assert [m.launches for m in products.modules.values()] == [1, 3, 1]


def rows_step(shapes, modes, left, right, kind, dtype):
    from sepmat.kernels.cuda.plan import Pass

    part = shapes[modes[0] : modes[1]]
    spec = specialise(part, dtype, inner=right, terms=1 if kind == "one" else 3, kind=kind)
    m, n = (math.prod(s[k] for s in part) for k in (0, 1))
    return Pass("kernel", modes, m, n, left, right, spec, 0, 0, 0.0, 0.0)


def test_packed_factors_are_not_copied(monkeypatch):
    """Views of one array go to the kernel as they are, others are put together first."""
    rng, copies, real = np.random.default_rng(0), [], chain.packed
    monkeypatch.setattr(chain, "packed", lambda factors: copies.append(len(factors)) or real(factors))
    for terms in (1, 3):
        stacks = [normal(rng, (terms, 8, 8), "float32") for _ in range(4)]
        together, products = real(stacks), OnHost()
        assert all(np.array_equal(a, b) for a, b in zip(stacks, together, strict=True))
        assert products._packed(together) and not products._packed(stacks)
        assert products._packed(together[1:2]) == (terms == 1)  # the terms of a part are apart
        assert not products._packed([together[1], together[0]]) and not products._packed([F.mT for F in together])
        x = normal(rng, (256, 8**4), "float32")
        found = [rows.separated_matmul(F, None, x, -1, products) for F in (together, stacks)]
        np.testing.assert_array_equal(*found)
    assert copies == [4, 4]


@pytest.mark.parametrize("axis", [-1, -2])
def test_empty_sizes(axis):
    for shapes, count in ((((3, 0), (2, 2)), 2), (((0, 3), (2, 2)), 2), (((3, 2),), 0)):
        n = math.prod(n for _, n in shapes)
        x = np.ones((count, n) if axis == -1 else (n, count), np.float32)
        factors = [np.ones(s, np.float32) for s in shapes]
        found = rows.kron_matmul(factors, x, axis, OnHost())
        np.testing.assert_array_equal(found, kron_matmul(factors, x, axis, kernel="reference"))
        stacks = [np.ones((0, *s), np.float32) for s in shapes]
        np.testing.assert_array_equal(rows.separated_matmul(stacks, None, x, axis, OnHost()), 0 * found)


# --- the kernel's own text, on the host ------------------------------------------------------------------------------------

CHAINS = [(((8, 8),) * 3, 40), (((3, 3), (4, 5), (2, 2), (5, 4)), 300), (((16, 16),) * 2, 300)]
SUMS = [(((8, 8),) * 3, 40), (((4, 6), (3, 2), (8, 8)), 300)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A module of the host compiler with all kernels that the plans of CHAINS and SUMS ask for; of RawModule's shape."""
    if MISSING:
        pytest.skip(MISSING)
    plans = [plan(shapes, k, "float32") for shapes, k in CHAINS] + [plan(shapes, k, "float64", 3) for shapes, k in SUMS]
    found = {s.specialisation for p in plans for s in p.passes if s.kind == "kernel"}
    assert {s.kind for s in found} == {"one", "sum"} and all("kernel" in p.route for p in plans)
    return HostModule(sorted(found, key=lambda s: s.entry), tmp_path_factory.mktemp("rows"))


def test_the_kernel_itself(compiled, rng):
    """Rows, plans, launches and the shipped source together: only the device is missing."""
    products = OnHost()
    products.module = lambda spec: compiled
    for shapes, k in CHAINS:
        factors, x = data(rng, np, shapes, 0, "float32", -1, lead=(k, 1))
        found = rows.kron_matmul(factors, x[:, 0], -1, products)
        agrees(found, expected(factors, x[:, 0], -1), shapes, 1, "float32", "kron by the kernel")
    for shapes, k in SUMS:
        factors, x = data(rng, np, shapes, 3, "float64", -1, lead=(k, 1))
        found = rows.separated_matmul(factors, None, x[:, 0], -1, products)
        agrees(found, expected(factors, x[:, 0], -1), shapes, 3, "float64", "sum by the kernel")
    assert compiled.launches >= len(CHAINS) + len(SUMS)


# --- matrices ----------------------------------------------------------------------------------------------------------


class OnDevice(np.ndarray):
    """An array that passes for one of CuPy."""


@pytest.fixture
def device(monkeypatch):
    """The products of a machine on which OnDevice arrays are CuPy's."""
    products = OnHost()
    for name, found in {"is_cupy": True, "on_gpu": True, "is_numpy": False}.items():
        real = getattr(_array, name)
        monkeypatch.setattr(_array, name, lambda x, real=real, found=found: found if type(x) is OnDevice else real(x))
    monkeypatch.setattr(rows, "_products", lambda where, x: products)
    return products


@pytest.mark.parametrize("axis", [-1, -2])
def test_matrices_ask_the_plan_for_gpus(device, rng, axis, monkeypatch):
    """Factors go to the kernel one by one and together in memory, to GEMMs multiplied out once; both are remembered."""
    copies, real = [], chain.packed
    monkeypatch.setattr(chain, "packed", lambda factors: copies.append(1) or real(factors))
    shapes = ((8, 8),) * 3
    for dtype, kernels in (("float32", 1), ("complex64", 0)):
        stacks, x = data(rng, np, shapes, 2, dtype, axis, lead=(16, 16))
        stacks, x = [F.view(OnDevice) for F in stacks], x.view(OnDevice)
        single = tuple(F[0] for F in stacks)
        for A, factors in (
            (sm.Kronecker._of(factors=single), single),
            (sm.Separated._of(factors=tuple(stacks), scales=None), stacks),
        ):
            device.modules.clear()
            copies.clear()
            for _ in range(2):
                y = A._apply(x, axis)
                agrees(np.asarray(y), expected(factors, x, axis), shapes, 2, dtype, "a matrix on a device")
            assert [m.launches for m in device.modules.values()] == [2] * kernels and len(copies) == kernels


def test_explain_says_what_a_gpu_does(device):
    """Passes, route and time of the plan for GPUs; limits of a core do not fit, those of another GPU do."""
    F = np.ones((8, 8), np.float32).view(OnDevice)
    K, S = sm.Kronecker._of(factors=(F,) * 4), sm.Separated._of(factors=(F[None].repeat(8, 0),) * 2, scales=None)
    text = str(sm.explain(K, (1024, 4096), axis=-1))
    assert "one pass over x\n         factors 0 to 3: 4096×4096 on 1024 × (4096, 1), by the fused kernel" in text
    assert "expected on one GPU" in text and "(memory)" in text
    p, found = plan(((8, 8),) * 4, 1024, "float32"), sm.explain(K, (1024, 4096), axis=-1)
    assert (found.flops, found.bytes, found.seconds) == (p.flops, p.bytes, pytest.approx(p.seconds))
    assert found.share == pytest.approx(p.floor / p.seconds)
    assert sm.explain(K, (1024, 4096), axis=-1, limits=H200).seconds == pytest.approx(found.seconds * 3.0 / 4.3)
    assert "8 terms in one pass over x" in str(sm.explain(S, (64, 5))) and "multiplied out, by GEMMs" in str(
        sm.explain(S, (64, 5))
    )
    with pytest.raises(sm.DTypeError, match=r"expected sepmat.kernels.cuda.plan.Limits"):
        sm.explain(K, (1024, 4096), axis=-1, limits=sm.Limits())
    with pytest.raises(sm.DTypeError, match="limits"):
        sm.explain(sm.Identity(3), (3,), limits=H200)


# --- launches --------------------------------------------------------------------------------------------------------------


def test_grid_and_shared_memory():
    """No more blocks than tiles, or than the machine holds at once; more than 48 KiB of shared memory is asked for."""
    asked = []

    class Recorder(Module):
        def __call__(self, grid, block, args, *, shared_mem):
            asked.append((grid, block, shared_mem, self.max_dynamic_shared_size_bytes))

    for shapes, outer in (
        (((8, 8),) * 5, 3),
        (((8, 8),) * 5, 10**6),
        (((8, 8),) * 3, 10**6),
        (((2, 2),), 1),
        (((2, 2),), 0),
    ):
        spec = specialise(shapes, "float32")
        launch.launch(Recorder(spec), spec, 0, 0, 0, outer, 1)
    (few, _, big, given), (most, *_), (many, *_), (one, *_) = asked
    assert few == (3,) and given == big > 48 * 1024 and most == (132,) and one == (1,)
    assert 132 < many[0] <= 132 * 32 and launch.resident(specialise(((8, 8),) * 5, "float32")) == 1


# --- CuPy without a device -------------------------------------------------------------------------------------------------


def test_forced_row_says_what_is_missing():
    """kernel="cuda" on arrays of NumPy: BackendError with what to do, whether CuPy is there or not."""
    what = "x: an array of numpy" if importlib.util.find_spec("cupy") else "cupy: not importable"
    for table, args in (
        (kron_matmul, ([np.eye(2)], np.ones(2), -1)),
        (separated_matmul, ([np.eye(2)[None]], None, np.ones(2), -1)),
    ):
        with pytest.raises(sm.BackendError, match=what) as caught:
            table(*args, kernel="cuda")
        where, argument, got, wanted, advice = caught.value.args
        assert (
            where == table.__name__
            and argument
            and got
            and "CuPy" in wanted
            and advice.split()[0] in ("Convert", "Run")
        )


def test_import_needs_no_cupy():
    """Neither the library nor its plans, kernels and launcher import CuPy before an array of it arrives."""
    code = (
        "import sys; import sepmat, numpy; assert not any('kernels.cuda' in name for name in sys.modules);"
        "import sepmat.kernels.cuda.plan, sepmat.kernels.cuda.chain;"
        "import sepmat.kernels.cuda.launch, sepmat.kernels.cuda.rows;"
        "sepmat.Kronecker(numpy.eye(2), numpy.eye(2)) @ numpy.ones(4);"
        "sys.exit('cupy' in sys.modules or 'cupy_backends' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


needs_cupy = pytest.mark.skipif(not importlib.util.find_spec("cupy"), reason="cupy is not installed: sepmat[gpu-check]")


@needs_cupy
def test_cupy_without_a_device():
    """Installed and imported, no GPU: NumPy arrays are multiplied as ever; what needs a device says so in five parts."""
    import cupy

    A, x = sm.Kronecker(np.eye(2), 2 * np.eye(3)), np.ones(6)
    np.testing.assert_array_equal(A @ x, 2 * x)
    assert not _array.is_cupy(x) and not _array.on_gpu(x)
    if cupy.is_available():
        return
    with pytest.raises(sm.BackendError, match=r"no CUDA device answers .cudaError") as caught:
        launch.module(specialise(((8, 8),) * 4, "float32"))
    assert len(caught.value.args) == 5 and caught.value.args[-1].startswith("Check nvidia-smi")
    with pytest.raises(sm.BackendError, match="'cupy'"):
        sm.selftest(backends=["cupy"])


def test_a_kernel_that_does_not_compile():
    """What the compiler says, in five parts; an error of another kind passes through."""
    CompileException = type("CompileException", (Exception,), {})
    spec = specialise(((7, 7), (3, 3)), "float32")
    for error, expected in ((CompileException("line 3: nonsense"), sm.BackendError), (OSError("disk"), OSError)):

        class Module:
            def get_function(self, name, error=error):
                raise error

        with pytest.raises(expected, match=r"does not compile .line 3|disk"):
            launch.launch(Module(), spec, 0, 0, 0, 5, 1)


@needs_cupy
def test_modules_are_made_once():
    """RawModule takes the source and the options of a specialisation; it compiles later, on a device."""
    spec = specialise(((8, 8),) * 4, "float32")
    assert launch._module(0, spec) is launch._module(0, spec) is not launch._module(1, spec)
    assert type(launch._module(0, spec)).__name__ == "RawModule"
    assert rows.CuPyProducts().arrays.__name__ == "cupy"
