"""Kronecker products on tensors of a GPU, without one: the operator by GEMMs, its kernel on the host, its stream by stand-ins.

What only a device can show (side streams, graphs, the compiled graph on it) is in test_gpu.py.
"""

import dataclasses
import functools
import itertools
import math
import sys
import types

import numpy as np
import pytest
from conftest import check
from cuda_host import MISSING, HostModule

from sepmat import _array
from sepmat._bounds import BOUNDS
from sepmat.kernels.cuda import launch, plan
from sepmat.kernels.cuda import layer as plans
from sepmat.kernels.cuda.plan import Limits
from sepmat.kernels.kron import kron_matmul, separated_matmul

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from sepmat.kernels.torch import device, layer  # noqa: E402
from sepmat.kernels.torch import kron as own_kron  # noqa: E402
from sepmat.nn import StructuredUpdate  # noqa: E402

CASES = {  # shapes of the factors, terms, outer, inner
    "one factor": ([(3, 4)], 1, 5, 1),
    "two": ([(2, 3), (4, 2)], 1, 3, 1),
    "three, strided": ([(2, 3), (4, 2), (3, 3)], 1, 2, 3),
    "five": ([(2, 2)] * 5, 1, 3, 1),
    "mixed": ([(1, 4), (5, 3), (3, 1), (2, 2)], 1, 3, 2),
    "sum of two": ([(2, 3), (3, 2)], 3, 3, 1),
    "sum of three, strided": ([(2, 3), (2, 2), (3, 2)], 2, 2, 2),
    "no rows": ([(2, 3), (3, 2)], 2, 0, 1),
    "no terms": ([(2, 3), (3, 2)], 0, 2, 1),
    "empty factor": ([(0, 3), (3, 2)], 2, 2, 1),
}
needs_compiler = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
FULL = [name for name in CASES if not name.startswith(("no", "empty"))]
WINS = Limits(float32=1.0, float64=1.0, plain64=1e30, issued=1e30)  # of a device on which the kernel is always faster


def normal(rng, *shape, dtype=torch.float64):
    return torch.as_tensor(rng.standard_normal(shape)).to(dtype)


def data(name, dtype=torch.float64):
    """Factors (terms, m, n) and x of a case, which require gradients."""
    shapes, terms, outer, inner = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))
    sizes = [*((terms, *s) for s in shapes), (outer, math.prod(n for _, n in shapes), inner)]
    return [normal(rng, *s, dtype=dtype).requires_grad_() for s in sizes]


def product(*args):
    return device.separated(args[:-1], args[-1])


def dense(*args):
    """The same by the matrix."""
    *factors, x = args
    total = x.new_zeros(x.shape[0], math.prod(F.shape[1] for F in factors), x.shape[2])
    total = total + 0 * sum(a.sum() for a in args)  # all of them have a gradient, terms or not
    for terms in zip(*factors, strict=True):
        K = terms[0]
        for F in terms[1:]:
            K = (K[:, None, :, None] * F[None, :, None, :]).reshape(K.shape[0] * F.shape[0], K.shape[1] * F.shape[1])
        total = total + K @ x
    return total


def packed(args):
    """The arguments of the operator itself."""
    *factors, x = args
    flat = torch.cat([F.detach().flatten(1) for F in factors], dim=1).requires_grad_()
    return flat, x, [side for F in factors for side in F.shape[1:]], False


def gradients(f, args, g):
    y = f(*args)
    return [y, *torch.autograd.grad(y, args, g)]


def close(found, expected, dtype="float64", limit=100):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        check(float((a - b).detach().norm()), float(b.detach().norm()), limit, dtype, "Kronecker products on tensors")


# --- the operator -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, dtype):
    args = data(name, dtype)
    g = torch.randn_like(dense(*args))
    close(gradients(product, args, g), gradients(dense, args, g), str(dtype))


@pytest.mark.parametrize("name", FULL)
def test_gradcheck(name):
    """First derivatives, also of a batch of them, and second ones."""
    args = data(name)
    assert torch.autograd.gradcheck(product, args, check_batched_grad=True)
    if name != "five":
        assert torch.autograd.gradgradcheck(product, args)


def test_only_what_is_asked_for():
    """Each argument alone has the gradient that it has among the others; x is kept only for the factors."""
    args = data("three, strided")
    g = torch.ones_like(product(*args))
    for i, expected in enumerate(gradients(product, args, g)[1:]):
        alone = [a.detach().requires_grad_(i == k) for k, a in enumerate(args)]
        close(torch.autograd.grad(product(*alone), [alone[i]], g), [expected])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        product(*(a.detach() for a in args[:-1]), args[-1])
    assert args[-1].shape not in kept


def test_strides():
    """Transposed factors and an x that is cut out, stepped through or turned."""
    rng = np.random.default_rng(1)
    factors = [normal(rng, 2, 4, 3).mT, normal(rng, 5, 2, 4)[1:3].mT[:, :, ::2], normal(rng, 1, 3, 2).expand(2, 3, 2)]
    for x in (normal(rng, 6, 8, 3)[::2], normal(rng, 3, 5, 8).mT, normal(rng, 8, 2, 3).permute(2, 0, 1)):
        close([product(*factors, x)], [dense(*factors, x)])
    x = normal(rng, 3, 8, 2)
    args = [a.clone().requires_grad_() for a in (*factors, x)]
    g = normal(rng, 2, 36, 3).permute(2, 1, 0)
    turned = lambda *a: product(*(F.mT.contiguous().mT for F in a[:-1]), a[-1])  # noqa: E731
    close(gradients(turned, args, g), gradients(dense, args, g))
    flipped = torch._neg_view(args[0].detach())  # lazily negative, as imaginary parts of conjugates are
    close([product(flipped, *args[1:])], [dense(-args[0].detach(), *args[1:])])


@pytest.mark.parametrize("name", ["two", "sum of three, strided"])
def test_opcheck(name):
    """Schema, fake tensors, autograd and AOT dispatch with dynamic shapes, as torch checks its own operators."""
    flat, x, sides, _ = packed(data(name))
    torch.library.opcheck(device.kronecker, (flat, x, sides, False))
    torch.library.opcheck(device.kronecker, (flat.detach(), dense(*data(name)).detach(), sides, True))


def test_vmap():
    """A batch of x is more rows, one operator; a batch of factors is taken slice by slice."""
    flat, x, sides, _ = packed(data("sum of three, strided"))
    run = lambda F, x: device.kronecker(F, x, sides, False)  # noqa: E731
    xs, Fs = (torch.stack([a, 2 * a, a + 1], dim=1).detach() for a in (x, flat))
    calls = []
    with counted(calls):
        found = torch.func.vmap(run, in_dims=(None, 1), out_dims=1)(flat.detach(), xs)
    assert len(calls) == 1
    close([found], [torch.stack([run(flat, xs[:, i]) for i in range(3)], dim=1).detach()])
    both = torch.func.vmap(run, in_dims=1)(Fs, xs)
    only = torch.func.vmap(run, in_dims=(1, None))(Fs, x.detach())
    close([both], [torch.stack([run(Fs[:, i], xs[:, i]) for i in range(3)])])
    close([only], [torch.stack([run(Fs[:, i], x) for i in range(3)]).detach()])
    nested = torch.func.vmap(torch.func.vmap(run, in_dims=(None, 0)), in_dims=(None, 0))
    close([nested(flat.detach(), xs[None].movedim(2, 1))], [found.movedim(1, 0)[None]])
    jacobian = torch.autograd.functional.jacobian(run, (flat, x), vectorize=True)
    close(jacobian, torch.autograd.functional.jacobian(run, (flat, x)))


def counted(calls):
    """A context that notes every call of the operator."""

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is device.kronecker:
                calls.append(func)
            return func(*args, **(kwargs or {}))

    return Mode()


def test_compiled_in_one_graph():
    """Forward and backward without a break, once for any number of rows."""
    shapes, rng = [(4, 3), (2, 5), (3, 3)], np.random.default_rng(6)
    parameters = [normal(rng, 2, *s).requires_grad_() for s in shapes]
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(product, fullgraph=True, backend=graphs)
    for rows in (5, 7):
        args = [*parameters, normal(rng, rows, 45, 2).requires_grad_()]
        torch._dynamo.mark_dynamic(args[-1], 0)
        g = normal(rng, rows, 24, 2)
        close(gradients(compiled, args, g), gradients(product, args, g))
    assert graphs.frame_count == 1


# --- the kernel, on the memory of CPU tensors -----------------------------------------------------------------------------------

HOST = {name: CASES[name] for name in ("three, strided", "mixed", "sum of two", "sum of three, strided")}
ONE_BY_ONE = "sum of three, strided"  # also with a pass for each factor


def one_by_one(shapes, rows, dtype, terms, columns, limits, kernels):
    """A plan with a pass of the kernel for each factor, from the last to the first."""
    p = plan.Plan(shapes, rows, columns, dtype, terms, ())
    passes = []
    for i in reversed(range(len(shapes))):
        left, right = rows * math.prod(n for _, n in shapes[:i]), columns * math.prod(m for m, _ in shapes[i + 1 :])
        passes.append(plan._kernel(p, (i, i + 1), left, right, limits))
    return dataclasses.replace(p, passes=tuple(passes))


PLANS = {"one pass": plan.plan, "a pass for each factor": one_by_one}


def steps(name, dtype):
    """Forward and backward of a case, and what they gave."""
    args = data(name, dtype)
    g = torch.ones_like(product(*args)).cumsum(1)
    return gradients(product, args, g), gradients(dense, args, g)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """One host module with all kernels that the cases below launch."""
    specs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LIMITS", WINS)
        patch.setattr(device, "launches", lambda _: lambda spec, *rest, **options: specs.setdefault(spec.entry, spec))
        for name, dtype in itertools.product(HOST, (torch.float32, torch.float64)):
            steps(name, dtype)
        args = data("sum of two")
        g = torch.ones_like(product(*args), requires_grad=True)
        once = torch.autograd.grad(product(*args), args, g, create_graph=True)
        torch.autograd.grad(sum((a**2).sum() for a in once), [*args, g])
        patch.setattr(plan, "plan", one_by_one)
        steps(ONE_BY_ONE, torch.float64)
    return HostModule(specs.values(), tmp_path_factory.mktemp("kernels"), order="random", flags=("-O0",))


@pytest.fixture
def on_host(compiled, monkeypatch):
    """CPU tensors go the way of CUDA tensors, from the plan to the launch; fresh memory is full of NaN."""
    monkeypatch.setattr(device, "LIMITS", WINS)
    monkeypatch.setattr(device, "launches", lambda _: functools.partial(launch.launch, compiled))
    torch.use_deterministic_algorithms(True)
    yield compiled
    torch.use_deterministic_algorithms(False)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", HOST)
def test_kernel(on_host, name, dtype):
    """Forward, ∂x by the transposed factors and ∂F through it, each by launches alone."""
    before = on_host.launches
    found, expected = steps(name, dtype)
    assert on_host.launches >= before + 2
    close(found, expected, str(dtype))


@needs_compiler
def test_kernel_in_passes(on_host, monkeypatch):
    """A sum in three passes: x spread over the terms, each term by itself, and all gathered."""
    monkeypatch.setattr(plan, "plan", one_by_one)
    close(*steps(ONE_BY_ONE, torch.float64))


@needs_compiler
def test_kernel_has_two_derivatives(on_host):
    args = data("sum of two")
    assert torch.autograd.gradcheck(product, args, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(product, args)


@needs_compiler
def test_kernel_on_views(on_host):
    """Addresses that begin in the middle of memory, strided x and g, transposed factors, a negative view."""
    *factors, x = (a.detach() for a in data("sum of two"))
    expected = dense(*factors, x)
    wide = torch.randn(x.shape[0] + 1, x.shape[1], 2, dtype=x.dtype)
    wide[1:, :, :1] = x
    cut = torch.randn(7 + x.numel(), dtype=x.dtype)[7:].copy_(x.reshape(-1)).view(x.shape)
    turned = [F.mT.contiguous().mT for F in factors]
    for view in (wide[1:, :, :1], cut, x.permute(2, 0, 1).contiguous().permute(1, 2, 0), torch._neg_view(-x)):
        close([product(*turned, view)], [expected])
    f, g = (lambda *a: product(*a[:-1], a[-1])), torch.randn(expected.shape[::-1], dtype=x.dtype).permute(2, 1, 0)
    args = [a.clone().requires_grad_() for a in (*factors, x)]
    close(gradients(f, args, g), gradients(dense, args, g))


@needs_compiler
def test_kernel_in_a_graph(on_host):
    """torch.compile does not look inside: the launches are those of the eager call."""
    torch._dynamo.reset()
    args = data("sum of two")
    before = on_host.launches
    expected = product(*args)
    eager = on_host.launches - before
    found = torch.compile(product, fullgraph=True, backend="aot_eager")(*args)
    assert on_host.launches - before == 2 * eager
    close([found], [expected], limit=0)


# --- the stream, by stand-ins -----------------------------------------------------------------------------------------------------


def test_on_the_current_stream(monkeypatch):
    """Every launch on torch's current stream and device; one object of CuPy for each stream."""
    inside, seen, made = [], [], []

    class Context:
        def __init__(self, *what):
            self.what = what
            made.append(what)

        def __enter__(self):
            inside.append(self.what)

        def __exit__(self, *error):
            inside.pop()

    class Stream(Context):
        @classmethod
        def from_external(cls, stream):
            return cls(*stream.__cuda_stream__())

    cuda = types.SimpleNamespace(Device=Context, Stream=Stream)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    current = types.SimpleNamespace(cuda_stream=1000)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: current)
    monkeypatch.setattr(launch, "module", lambda spec: ("module of", spec))
    monkeypatch.setattr(launch, "launch", lambda *args, **options: seen.append((list(inside), args, options)))
    monkeypatch.setattr(device, "_has_cupy", lambda: True)
    for cached in (device._stream, device._on_stream):
        cached.cache_clear()
    run = device.launches(torch.device("cuda", 1))
    for stream in (1000, 2000, 1000):
        current.cuda_stream = stream
        run("spec", 1, 2, 3, 4, 5, 6, transposed=1)
    for cached in (device._stream, device._on_stream):
        cached.cache_clear()
    assert [contexts for contexts, *_ in seen] == [[(1,), (0, s)] for s in (1000, 2000, 1000)]
    assert all(
        rest == ((("module of", "spec"), "spec", 1, 2, 3, 4, 5, 6), {"transposed": 1})
        for _, *rest in map(tuple, seen)
        for rest in [tuple(rest)]
    )
    assert [what for what in made if len(what) == 2] == [(0, 1000), (0, 2000)] and not inside


def test_where_there_is_no_kernel(monkeypatch):
    """Neither on the CPU nor without CuPy: the plan is one of GEMMs."""
    assert device.launches(torch.device("cpu")) is None
    monkeypatch.setattr(device, "_has_cupy", lambda: False)
    assert device.launches(torch.device("cuda", 0)) is None


# --- direct layers ------------------------------------------------------------------------------------------------------------

IDEAL = Limits(launch=0.0, streamed=1.0, issued=1.0)
TABLE = {  # d, sides: terms, µs of the chain and of the formed matrix on 8192 rows in bfloat16 where each runs at its limit
    (4096, 64, 64): ({1: 89, 4: 224, 8: 403, 16: 761}, 366),
    (1024, 32, 32): ({1: 22.4, 8: 101}, 22.9),
    (768, 32, 24): ({1: 17, 8: 75}, 12.9),
}


@pytest.mark.parametrize("sides", TABLE, ids=str)
def test_times_at_the_limits(sides):
    """Against times that were derived by hand, to 4 % (the copy of the formed matrix is counted once more here)."""
    _, a, b = sides
    chains, formed = TABLE[sides]
    for terms, expected in chains.items():
        found = {r.name: r.seconds * 1e6 for r in plans.routes(((a, a), (b, b)), terms, 8192, "bfloat16", limits=IDEAL)}
        assert set(found) == {"chain", "formed"}
        assert found["chain"] == pytest.approx(expected, rel=0.02)
        assert found["formed"] == pytest.approx(formed, rel=0.04)


def fastest(d, terms, rows=8192, dtype="bfloat16", trains=False):
    a = 2 ** math.ceil(math.log2(d) / 2)
    return plans.routes(((a, a), (d // a, d // a)), terms, rows, dtype, trains)[0].name


def test_routes():
    """The chain for few terms of large layers, the formed matrix else; never for few rows, never in float32 at these sizes."""
    for trains in (False, True):
        assert fastest(8192, 32, trains=trains) == "formed" and fastest(2048, 1, trains=trains) == "chain"
        assert [fastest(d, R, trains=trains) for d in (768, 1024, 2048) for R in (4, 8)] == ["formed"] * 6
        assert fastest(4096, 16, rows=16, trains=trains) == "chain"
        assert fastest(4096, 16, dtype="float32", trains=trains) == "chain"
        most = [sum(fastest(d, R, trains=trains) == "chain" for R in range(1, 17)) for d in (2048, 4096, 8192)]
        assert most == ([1, 3, 7] if trains else [2, 5, 12])
    assert fastest(1024, 1, dtype="float32") == "fused"


def test_the_fastest_stands_first_and_work_grows():
    """More rows, more terms, gradients: never less time."""
    for rows, terms, dtype in itertools.product((1, 512, 8192), (1, 3), ("bfloat16", "float32", "float64")):
        shapes = ((32, 16), (8, 24))
        found = [
            plans.routes(shapes, *sizes)
            for sizes in (
                (terms, rows, dtype),
                (terms + 1, rows, dtype),
                (terms, 2 * rows, dtype),
                (terms, rows, dtype, True),
            )
        ]
        for routes in found:
            assert [r.seconds for r in routes] == sorted(r.seconds for r in routes)
        first, *more = [{r.name: r.seconds for r in routes} for routes in found]
        assert all(other[name] >= first[name] for other in more for name in first if name in other)


SHAPES = {"square": ((6, 6), (4, 4)), "rectangular": ((3, 5), (4, 2)), "thin": ((1, 7), (5, 1))}


def matrices(shape, terms, dtype, lead=(2, 5)):
    rng = np.random.default_rng(7)
    first, last = SHAPES[shape]
    stack = () if terms is None else (terms,)
    sizes = (*stack, *first), (*stack, *last), (*lead, first[1] * last[1])
    return [normal(rng, *s, dtype=dtype).requires_grad_() for s in sizes]


def by(row, terms):
    if terms is None:
        return lambda first, last, x: kron_matmul((first, last), x, -1, kernel=row)
    return lambda first, last, x: separated_matmul((first, last), None, x, -1, kernel=row)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("row", ["formed", "device", "torch"])
@pytest.mark.parametrize("terms", [None, 1, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_route_meets_the_same_bound(shape, terms, row, dtype):
    """|y - exact| <= γ_k (Σ |F_1| ⊗ |F_2|) |x| entry by entry, and the gradients likewise: B5, k the lengths of all sums.

    In half precision sums are accumulated in float32: k is the number of arrays that are rounded on the way.
    """
    args = matrices(shape, terms, dtype)
    g = normal(np.random.default_rng(8), *by(row, terms)(*args).shape, dtype=dtype)
    wide, size = ([f(a.detach().double()).requires_grad_() for a in args] for f in (torch.clone, torch.abs))
    exact = gradients(by("reference", terms), wide, g.double())
    scales = gradients(by("reference", terms), size, g.double().abs())
    (m1, n1), (m2, n2), R, rows = *SHAPES[shape], terms or 1, 10
    lengths = (R * n1 + n2, *[R * rows * (m1 + n1 + m2 + n2)] * 2, R * m1 + m2)
    for found, truth, scale, k in zip(gradients(by(row, terms), args, g), exact, scales, lengths, strict=True):
        assert found.dtype == dtype and found.shape == truth.shape
        name = str(dtype).removeprefix("torch.")
        limit = BOUNDS["B5"](4 if dtype.itemsize == 2 else k + 4, name)
        check((found.double() - truth).detach().numpy(), scale.detach().numpy(), limit, name, "direct layers")


@pytest.mark.parametrize("axis", [-1, -2])
def test_rows_of_both_axes(axis):
    """The row that products with tensors of a GPU take, asked for on the CPU: scales, three factors, a batch on both sides."""
    rng = np.random.default_rng(9)
    stacks, scales = [normal(rng, 2, *s) for s in ((2, 3), (4, 2), (3, 3))], normal(rng, 2)
    x = normal(rng, 2, 5, 18) if axis == -1 else normal(rng, 5, 18, 2)
    pairs = [
        [separated_matmul(stacks, scales, x, axis, kernel=row) for row in ("device", "reference")],
        [kron_matmul([F[0] for F in stacks], x, axis, kernel=row) for row in ("device", "reference")],
        [kron_matmul([F[0] for F in stacks], x[1:1], axis, kernel=row) for row in ("device", "reference")],
    ]
    for found, expected in pairs:
        close([found], [expected])


def test_formed_takes_scales():
    rng = np.random.default_rng(9)
    stacks, scales, x = [normal(rng, 2, *s) for s in ((2, 3), (4, 2))], normal(rng, 2), normal(rng, 5, 6)
    found, expected = (separated_matmul(stacks, scales, x, -1, kernel=row) for row in ("formed", "reference"))
    close([found], [expected])


def test_structures_take_the_route(monkeypatch):
    """Tensors that say they are on a GPU: Kronecker layers in half precision by the formed matrix or the chain, in one graph."""
    monkeypatch.setattr(_array, "on_gpu", _array.is_torch)
    taken = []
    for module, name in ((layer, "formed"), (own_kron, "chain"), (device, "separated")):
        run = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, run=run, name=name: taken.append(name) or run(*args))
    x = torch.randn(2048, 1024)
    for terms, dtype, expected in ((4, torch.bfloat16, "formed"), (1, torch.float32, "separated")):
        update = StructuredUpdate(1024, 1024, "kronecker", terms=terms, dtype=dtype)
        update.reset_parameters(zero=False)
        y = update(x.to(dtype)).detach()
        assert taken.pop() == expected and not taken
        exact = x.double() @ update.to_dense().detach().double().T
        check(float((y.double() - exact).norm()), float(exact.norm()), 8, str(dtype), "direct layers by themselves")
    assert by(None, 4)(*matrices("square", 4, torch.bfloat16)).dtype == torch.bfloat16 and taken.pop() == "chain"


@pytest.mark.parametrize(("terms", "dtype"), [(4, torch.bfloat16), (1, torch.float32)], ids=str)
def test_layers_in_one_graph(monkeypatch, terms, dtype):
    """torch.compile sees the formed matrix, or the operator, whatever the number of rows."""
    monkeypatch.setattr(_array, "on_gpu", _array.is_torch)
    torch._dynamo.reset()
    update = StructuredUpdate(1024, 1024, "kronecker", terms=terms, dtype=dtype)
    update.reset_parameters(zero=False)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(update, fullgraph=True, backend=graphs)
    W = update.to_dense().detach().double()
    for rows in (33, 65):
        x = torch.randn(rows, 1024).to(dtype)
        torch._dynamo.mark_dynamic(x, 0)
        found = compiled(x)
        found.sum().backward()
        error, exact = (found.detach().double() - x.double() @ W.T).norm(), (x.double() @ W.T).norm()
        check(float(error), float(exact), 8, str(dtype), "direct layers by themselves")
    (graph,) = graphs.graphs
    assert graphs.frame_count == 1 and ("sepmat.kronecker" in graph.code) == (dtype == torch.float32)
    assert ("linear" in graph.code) == (dtype == torch.bfloat16)
