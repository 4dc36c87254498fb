"""sepmat.nn: values against the definitions, counts, starts and their variances, training, precision, modules, merging."""

import copy
import io
import math
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import reference as ref
from cases import o_dense, o_low_rank, o_separated
from conftest import check, host
from reference import Oracle, displacement_constant, displacement_norm

import sepmat as sm

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from sepmat import nn as snn  # noqa: E402
from sepmat.nn.contract import split  # noqa: E402

SIZES = ((12, 12), (12, 8), (8, 12))


# the definitions ----------------------------------------------------------------------------------------------------------


def vector_oracle(build, norm):
    return ref.normwise(build, lambda *a: ref.fft_constant(2 * ref.embedding(*a)), norm)


def circulant(build):
    def make(p, shape):
        c = p["c"] if "c" in p else p["a"] * p["b"]
        o = ref.normwise(lambda c: build(c, shape), lambda c: ref.fft_constant(len(c)), ref.circulant_norm)(c)
        return Oracle(o.D, o.G, o.E + o.G)  # one rounding for a ∘ b

    return make


o_toeplitz = vector_oracle(ref.toeplitz, ref.embedding_norm)


def symmetric(p, shape):
    (m, n), N = shape, max(shape)
    if "c" in p:
        return o_toeplitz(p["c"][:m], p["c"][:n])
    return o_toeplitz(p["b"][:m], p["b"]) @ o_toeplitz(p["a"][:N], p["a"][:n])


def toeplitz(p, shape):
    def T(c, r):
        return o_toeplitz(p[c], np.concatenate((p[c][:1], p[r])))

    return T("c", "r") if "c" in p else T("b_c", "b_r") @ T("a_c", "a_r")


def kronecker(p, shape):
    return o_separated(p["A1"], p["A2"])


def ldr(p, shape):
    build = ref.normwise(lambda G, H: ref.low_displacement_rank(G, H, shape), displacement_constant, displacement_norm)
    return build(p["G"], p["H"])


def lsr(p, shape):
    L, R = o_separated(p["A1"], p["A2"]), o_separated(p["B1"], p["B2"])
    o = L @ R
    return Oracle(o.D, o.G, o.E + (shape[1] + L.D.shape[1] + 2) * o.G)


def lora(p, shape):
    return o_low_rank(p["B"], np.ascontiguousarray(p["A"].T))


def kadaptation(p, shape):
    """Σ_i (u1_i v1_iᵀ) ⊗ (u2_i v2_iᵀ)"""
    A, B = (np.einsum("ia,ib->iab", *map(ref.wide, (p[f"u{k}"], p[f"v{k}"]))) for k in (1, 2))
    o = o_separated(A, B)
    return Oracle(o.D, o.G, (sum(shape) + 8) * o.G)


def block_circulant(p, shape):
    c = ref.wide(p["c"])
    P, Q, b = c.shape
    D = np.block([[ref.circulant(c[i, j]) for j in range(Q)] for i in range(P)])
    size = np.sqrt(np.longdouble(b)) * np.sqrt(np.sum(c**2))
    return Oracle(D, np.full(D.shape, size), np.full(D.shape, (ref.fft_constant(b) + 4 * Q) * size))


STRUCTURES = {
    "circulant": ("circulant", {}, circulant(ref.circulant)),
    "circulant pair": ("circulant", {"factors": 2}, circulant(ref.circulant)),
    "skew_circulant": ("skew_circulant", {}, circulant(ref.skew_circulant)),
    "skew_circulant pair": ("skew_circulant", {"factors": 2}, circulant(ref.skew_circulant)),
    "toeplitz": ("toeplitz", {}, toeplitz),
    "toeplitz pair": ("toeplitz", {"factors": 2}, toeplitz),
    "symmetric_toeplitz": ("symmetric_toeplitz", {}, symmetric),
    "symmetric_toeplitz pair": ("symmetric_toeplitz", {"factors": 2}, symmetric),
    "kronecker": ("kronecker", {}, kronecker),
    "kronecker rank 2": ("kronecker", {"rank": 2}, kronecker),
    "kronecker 3 terms": ("kronecker", {"terms": 3}, kronecker),
    "ldr": ("ldr", {}, ldr),
    "ldr 2": ("ldr", {"rank": 2}, ldr),
    "lsr": ("lsr", {"terms": 3}, lsr),
    "lsr rank 6": ("lsr", {"rank": 6, "terms": 2}, lsr),
    "lora": ("lora", {"rank": 2}, lora),
    "krona": ("krona", {}, kronecker),
    "kadaptation": ("kadaptation", {"terms": 4}, kadaptation),
    "block_circulant": ("block_circulant", {}, block_circulant),
    "block_circulant 2": ("block_circulant", {"block": 2}, block_circulant),
    "dense": ("dense", {}, lambda p, shape: o_dense(p["W"])),
}
ALL = pytest.mark.parametrize("key", STRUCTURES)


def update(key, shape=(12, 12), zero=False, cls=snn.StructuredUpdate, seed=0, **more):
    name, options, _ = STRUCTURES[key]
    made = cls(shape[1], shape[0], name, generator=torch.Generator().manual_seed(seed), **options, **more)
    if cls is snn.StructuredUpdate and not zero:
        made.reset_parameters(torch.Generator().manual_seed(seed), zero=False)
    return made


def numbers(module):
    return {name: host(p) for name, p in module.named_parameters() if name != "bias"}


def oracle(key, module, scale=1.0):
    o = STRUCTURES[key][2](numbers(module), module.parametrisation.shape)
    return Oracle(scale * o.D, scale * o.G, scale * (o.E + o.G))


def gaussian(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_every_structure_is_tested():
    assert {name for name, _, _ in STRUCTURES.values()} == set(snn.PARAMETRISATIONS)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@ALL
def test_values(key, shape, dtype):
    """Products, dense forms and the matrix of the core against the definition, with the bounds of the core."""
    module, kind = update(key, shape, dtype=dtype, alpha=None), str(dtype)
    o = oracle(key, module)
    x = gaussian(2, 3, shape[1], dtype=dtype)
    xn = ref.wide(host(x))
    check(host(module(x)) - xn @ o.D.T, np.abs(xn) @ o.E.T, 1.02, kind, f"nn {key}")
    check(host(module(x[0, 0])) - xn[0, 0] @ o.D.T, np.abs(xn[0, 0]) @ o.E.T, 1.02, kind)
    check(host(module.to_dense()) - o.D, o.E, 1.02, kind)
    A = module.matrix()
    assert A.shape == shape and isinstance(A, sm.StructuredMatrix) and A.dtype == dtype
    check(host(A.T @ gaussian(shape[0], dtype=dtype)) - o.D.T @ ref.wide(host(gaussian(shape[0], dtype=dtype))),
          o.E.T @ np.abs(host(gaussian(shape[0], dtype=dtype))), 1.02, kind)  # fmt: skip


@pytest.mark.parametrize("mode", (torch.no_grad, torch.inference_mode), ids=lambda f: f.__name__)
@ALL
def test_values_without_gradients(key, mode):
    """Frozen or only evaluated: other routes of the core, dense forms and NumPy's memory among them, the same bounds."""
    for frozen in (False, True):
        module = update(key, (8, 12), dtype=torch.float64).requires_grad_(not frozen)
        o = oracle(key, module)
        for rows in (1, 3, 200):
            x = gaussian(rows, 12)
            with mode():
                y = module(x)
            check(host(y) - host(x) @ o.D.T, np.abs(host(x)) @ o.E.T, 1.02, "float64", f"nn {key}")


@pytest.mark.parametrize("key", STRUCTURES)
def test_a_frozen_update_takes_the_route_of_one_that_trains(key):
    """At the size where a matrix that stays would get a dense form: one that is built anew each time does not pay for it."""
    u, x = update(key, (720, 720)).to(torch.float32), gaussian(40, 720, dtype=torch.float32)
    with torch.no_grad():
        trained = u(x)
        u.requires_grad_(False)
        assert torch.equal(u(x), trained)


@ALL
def test_the_scale_is_part_of_the_update(key):
    module = update(key, dtype=torch.float64, alpha=-3.0)
    rank = module.parametrisation.rank if key == "lora" else 1
    assert module.scale == -3.0 / rank
    o, x = oracle(key, module), gaussian(4, 12)
    wanted = host(x) @ o.D.T * module.scale
    check(host(module(x)) - wanted, 3 / rank * np.abs(host(x)) @ o.E.T, 1.1, "float64")
    check(host(module.to_dense()) - module.scale * o.D, 3 / rank * o.E, 1.1, "float64")


# counts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "count"),
    (
        ("lsr", {}, 3584),
        ("lsr", {"rank": 16, "terms": 8}, 3584),
        ("lora", {}, 12288),
        ("circulant", {}, 768),
        ("circulant", {"factors": 2}, 1536),
        ("skew_circulant", {}, 768),
        ("toeplitz", {}, 1535),
        ("symmetric_toeplitz", {}, 768),
        ("symmetric_toeplitz", {"factors": 2}, 1536),
        ("kronecker", {"rank": 1}, 1536),
        ("kronecker", {"rank": 8}, 1536),
        ("kronecker", {}, 32 * 32 + 24 * 24),
        ("kronecker", {"terms": 3}, 3 * (32 * 32 + 24 * 24)),
        ("krona", {}, 1536),
        ("ldr", {}, 1536),
        ("ldr", {"rank": 3}, 4608),
        ("block_circulant", {}, 768),
        ("block_circulant", {"block": 256}, 2304),
        ("block_circulant", {"block": 64}, 9216),
        ("dense", {}, 768 * 768),
    ),
)  # fmt: skip
def test_counts_of_the_papers(name, options, count):
    p = snn.parametrisation(name, (768, 768), **options)
    module = snn.StructuredUpdate(768, 768, p, device="meta")
    assert p.num_parameters == sum(q.numel() for q in module.parameters()) == count
    if (name == "circulant" and options) or name == "lsr":
        assert 24 * count == {"circulant": 36_864, "lsr": 86_016}[name]


def test_lsr_has_the_factors_of_the_paper():
    shapes = snn.parametrisation("lsr", (768, 768)).parameter_shapes()
    assert shapes == {"A1": (16, 32, 2), "A2": (16, 24, 2), "B1": (16, 2, 32), "B2": (16, 2, 24)}


@ALL
def test_a_parametrisation_is_rebuilt_from_its_options(key):
    name, options, _ = STRUCTURES[key]
    p = snn.parametrisation(name, (12, 8), **options)
    assert snn.parametrisation(name, (12, 8), **p.options) == p and snn.parametrisation(p, (12, 8)) is p
    assert pickle.loads(pickle.dumps(p)) == p and hash(copy.deepcopy(p)) == hash(p)
    assert sum(math.prod(s) for s in p.parameter_shapes().values()) == p.num_parameters


# the start ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES, ids=str)
@ALL
def test_an_update_starts_at_zero_and_moves(key, shape):
    """ΔW = 0 exactly, by the parameters of one factor; these, and no others, have a gradient."""
    module = update(key, shape, zero=True)
    moved = module.parametrisation.moved
    assert bool((module(gaussian(5, shape[1], dtype=torch.float32)) == 0).all())
    assert bool((module.to_dense() == 0).all())
    for name, p in module.named_parameters():
        assert bool((p == 0).all()) == (name in moved), name
    y = module(gaussian(5, shape[1], dtype=torch.float32))
    y.backward(gaussian(*y.shape, dtype=torch.float32, seed=2))
    for name, p in module.named_parameters():
        if name in moved:
            assert bool((p.grad != 0).any()), name
        else:
            assert float(p.grad.abs().max()) == 0.0, name


def first_step(key, shape, draws=60):
    """The mean square of the entries of ΔW for independent entries of variance 1 in the factor that starts at zero."""
    total = 0.0
    for seed in range(draws):
        module = update(key, shape, zero=True, seed=seed)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for name in module.parametrisation.moved:
                getattr(module, name).normal_(generator=generator)
            total += float(module.to_dense().square().mean()) / draws
    return total


@pytest.mark.parametrize("shape", ((24, 24), (24, 12), (12, 24)), ids=str)
@ALL
def test_the_first_step_is_that_of_lora(key, shape):
    """Entries of variance r / (3 in): r the inner rank, the columns of A1 in A1 ⊗ A2, 8 where there is no rank at all."""
    p = update(key, shape, zero=True).parametrisation
    single = getattr(p, "factors", 0) == 1 or p.name in ("dense", "block_circulant")
    rank = {"lsr": "rank", "lora": "rank", "kadaptation": "terms"}.get(p.name)
    r = getattr(p, rank) if rank else p.shapes[0][1] if p.name in ("kronecker", "krona") else 8
    wanted = 1.0 if single else r / (3 * shape[1])
    assert first_step(key, shape) == pytest.approx(wanted, rel=0.35)


@pytest.mark.parametrize(
    ("name", "options"),
    (
        ("lsr", {}),
        ("lsr", {"rank": 16, "terms": 8}),
        ("circulant", {"factors": 2}),
        ("skew_circulant", {"factors": 2}),
        ("toeplitz", {"factors": 2}),
        ("symmetric_toeplitz", {"factors": 2}),
        ("kronecker", {}),
        ("kronecker", {"rank": 8}),
        ("krona", {}),
        ("ldr", {}),
        ("ldr", {"rank": 4}),
        ("kadaptation", {"terms": 16}),
        ("circulant", {}),
        ("toeplitz", {}),
        ("symmetric_toeplitz", {}),
        ("block_circulant", {}),
        ("dense", {}),
    ),
)  # fmt: skip
def test_the_first_step_of_adam_is_as_large_as_that_of_lora(name, options):
    """‖ΔW‖ after a step with one learning rate is that of LoRA of rank 8 up to 2; single factors are √(3 in / 8) as large."""
    n = 192
    x, y = gaussian(128, n, dtype=torch.float32), gaussian(128, n, dtype=torch.float32, seed=2)

    def step(name, options):
        module = snn.StructuredUpdate(n, n, name, generator=torch.Generator().manual_seed(0), **options)
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
        (module(x) - y).square().mean().backward()
        optimiser.step()
        return float(module.to_dense().detach().norm())

    single = options == {} and name in ("circulant", "toeplitz", "symmetric_toeplitz", "block_circulant", "dense")
    found = step(name, options) / step("lora", {}) / (math.sqrt(3 * n / 8) if single else 1.0)
    assert 0.5 < found < 2.0


@pytest.mark.parametrize(("shape", "gain"), (((24, 24), 2.0), ((24, 12), 1 / 3), ((12, 24), 1 / 3)), ids=str)
@ALL
def test_a_layer_keeps_the_variance(key, shape, gain):
    """Var(W x) = gain Var(x) on average over draws of W, in every row of W."""
    rows, draws = np.zeros(shape[0]), 100
    for seed in range(draws):
        W = host(update(key, shape, cls=snn.StructuredLinear, seed=seed, gain=gain).to_dense())
        rows += (W**2).sum(axis=1) / draws
    assert rows.mean() == pytest.approx(gain, rel=0.25)
    assert rows == pytest.approx(gain, rel=0.75)  # no row is left out


DEEP = {  # ranks as layers of these sizes would have
    "lsr": {"rank": 16},
    "lsr rank 6": {"rank": 36, "terms": 8},
    "kronecker rank 2": {"rank": 8},
    "lora": {"rank": 16},
    "kadaptation": {"terms": 24},
    "block_circulant 2": {"block": 24},
}
OF_VECTORS = ("circulant", "toeplitz", "ldr")  # one entry stands in many rows


@pytest.mark.parametrize("sizes", ((96,), (144, 96, 192)), ids=str)
@ALL
def test_ten_layers_keep_the_variance(key, sizes):
    """The size of the signal after ten layers, square or of changing width, in the median over draws.

    Behind ReLUs too where rows are independent. Where rows share their entries, the mean of x, which a ReLU makes positive,
    meets the same sum in all of them: where that is negative, next to nothing is left, so the typical size falls, while
    the mean square over draws, `test_a_layer_keeps_the_variance`, stays.
    """
    name, options, _ = STRUCTURES[key]
    options = DEEP.get(key, options)
    for activation, gain in ((None, 1.0), (torch.relu, 2.0)):
        found = []
        for seed in range(9):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(32, sizes[0], generator=generator)
            for depth in range(10):
                n, m = sizes[depth % len(sizes)], sizes[(depth + 1) % len(sizes)]
                layer = snn.StructuredLinear(n, m, name, bias=False, gain=gain, generator=generator, **options)
                with torch.no_grad():
                    x = layer(activation(x) if activation and depth else x)
            found.append(float(x.square().mean()) / gain)
        shared = activation is not None and any(word in name for word in OF_VECTORS)
        assert (1e-4 if shared else 0.2) <= np.median(found) <= 5.0, (gain, found)


def test_a_relu_after_a_negative_sum_leaves_nothing():
    """Why circulant layers may die, as a run in twenty of the pinwheel does."""
    x = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    layer = snn.StructuredLinear(64, 64, "circulant", bias=False)
    nn.init.constant_(layer.c, -0.1)
    assert bool((torch.relu(layer(x)) == 0).all())


@ALL
def test_random_numbers_come_from_the_generator_or_from_torch_alone(key):
    before, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = update(key, zero=True, seed=3), update(key, zero=True, seed=3)
    assert bool((torch.get_rng_state() == before).all())
    assert all(bool((p == q).all()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    name, options, _ = STRUCTURES[key]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        c = snn.StructuredLinear(12, 12, name, **options)
        torch.manual_seed(5)
        d = snn.StructuredLinear(12, 12, name, **options)
    assert all(bool((p == q).all()) for p, q in zip(c.parameters(), d.parameters(), strict=True))
    assert bool((np.random.get_state()[1] == other).all())  # noqa: NPY002


def test_the_bias_and_the_default_gain_are_those_of_linear():
    torch.manual_seed(0)
    ours, theirs = snn.StructuredLinear(300, 200, "dense"), nn.Linear(300, 200)
    for a, b in ((ours.W, theirs.weight), (ours.bias, theirs.bias)):
        a, b = a.detach(), b.detach()
        assert float(a.abs().max()) <= 1 / math.sqrt(300) and float(a.var()) == pytest.approx(float(b.var()), rel=0.3)
    assert snn.StructuredLinear(3, 2, "dense", bias=False).bias is None


# training -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ((12, 8), (8, 12)), ids=str)
@ALL
def test_twenty_steps_reduce_the_loss(key, shape):
    x, target = gaussian(64, shape[1], dtype=torch.float32), update(key, shape, seed=7).to_dense().detach()
    y = x @ target.T
    module = update(key, shape, zero=True)
    optimiser, losses = torch.optim.Adam(module.parameters(), lr=0.05), []
    for _ in range(20):
        loss = (module(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


@ALL
def test_a_large_step_does_not_blow_up(key):
    """SGD with a learning rate of 0.5, as PEFT's own tests take: a product of four factors stays finite."""
    name, options, _ = STRUCTURES[key]
    options = options | ({"terms": 16} if name == "lsr" else {})
    module = snn.StructuredUpdate(48, 48, name, generator=torch.Generator().manual_seed(0), **options)
    x, y = gaussian(32, 48, dtype=torch.float32), gaussian(32, 48, dtype=torch.float32, seed=2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(10):
        loss = (module(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert math.isfinite(float(loss.detach())) and all(bool(torch.isfinite(p).all()) for p in module.parameters())


@pytest.mark.parametrize("shape", ((6, 4), (4, 6)), ids=str)
@ALL
def test_gradients_of_first_and_second_order(key, shape):
    name, options, _ = STRUCTURES[key]
    options = {**options, "terms": 2} if name in ("lsr", "kadaptation", "kronecker") else options
    module = snn.StructuredUpdate(shape[1], shape[0], name, dtype=torch.float64, alpha=0.5, **options)
    module.reset_parameters(torch.Generator().manual_seed(0), zero=False)
    names = [n for n, _ in module.named_parameters()]

    def f(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    x = gaussian(2, shape[1]).requires_grad_()
    arguments = (x, *(4 * p.detach() for p in module.parameters()))
    arguments = tuple(a.requires_grad_() for a in arguments)
    assert torch.autograd.gradcheck(f, arguments)
    assert shape[0] < shape[1] or torch.autograd.gradgradcheck(f, arguments)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
@ALL
def test_functional_calls_vmap_and_jvp(key):
    """Many modules at once, gradients for each sample, forward mode."""
    modules = [update(key, (12, 8), seed=s) for s in range(3)]
    x = gaussian(5, 8, dtype=torch.float32)
    parameters = {n: p.detach() for n, p in modules[0].named_parameters()}

    def f(parameters, x):
        return torch.func.functional_call(modules[0], parameters, (x,))

    torch.testing.assert_close(f(parameters, x), modules[0](x))
    torch.testing.assert_close(torch.vmap(f, (None, 0))(parameters, x), modules[0](x))
    stacked = torch.func.stack_module_state(modules)[0]
    torch.testing.assert_close(torch.vmap(f, (0, None))(stacked, x), torch.stack([m(x) for m in modules]))
    gradients = torch.vmap(torch.func.grad(lambda p, z: f(p, z).square().sum()), (None, 0))(parameters, x)
    modules[0](x).square().sum().backward()
    for name, p in modules[0].named_parameters():
        torch.testing.assert_close(gradients[name].sum(dim=0), p.grad)
    y, tangent = torch.func.jvp(lambda z: f(parameters, z), (x,), (x,))
    torch.testing.assert_close(tangent, y)


# what a product costs -----------------------------------------------------------------------------------------------------


def operations(f, at_least=1024 * 48, dtypes=False):
    """The names of the operations of f whose results have so many numbers, and those of all others."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view:
                name = func.overloadpacket.__name__ + (f" {str(result.dtype)[6:]}" if dtypes else "")
                (large if result.numel() >= at_least else small).append(name)
            return result

    large, small = [], []
    with Count():
        f()
    return large, small


@pytest.mark.parametrize("name", ("lora", "lsr", "kadaptation", "dense"))
def test_nothing_superfluous(name):
    """base(x) + update(x): the product of the base, one of ours that is as large, one sum; the scale costs nothing."""
    options = {"kadaptation": {"terms": 4}}.get(name, {})
    module = snn.AdaptedLinear(nn.Linear(48, 48), snn.StructuredUpdate(48, 48, name, alpha=2.0, **options))
    x = gaussian(1024, 48, dtype=torch.float32)
    large, small = operations(lambda: module(x))
    assert large == ["addmm", "mm", "add"], large
    assert small.count("mm") == {"lora": 1, "lsr": 3, "kadaptation": 1, "dense": 0}[name], small


@pytest.mark.slow  # traces three products, forward and backward; the other structures are test_torch_kernels' and test_peft's
@pytest.mark.filterwarnings("ignore")  # torch's own, about what it traces
def test_one_graph():
    """torch.compile(fullgraph=True): forward and backward, under autocast, another batch that wants no gradient."""
    torch._dynamo.reset()
    module = snn.AdaptedLinear(nn.Linear(48, 32), snn.StructuredUpdate(48, 32, "lsr", alpha=0.5))
    module.update.reset_parameters(torch.Generator().manual_seed(0), zero=False)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = gaussian(7, 48, dtype=torch.float32).requires_grad_()

    def run(f):
        found = torch.autograd.grad(f(x).square().sum(), [x, *module.update.parameters()])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = f(x.detach())
        return [f(x).detach(), half, f(gaussian(11, 48, dtype=torch.float32)), *found]

    torch.testing.assert_close(run(compiled), run(module))


# precision ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", (torch.bfloat16, torch.float16), ids=str)
@ALL
def test_half_precision(key, half):
    """Parameters or inputs in half precision, and autocast: the dtype of nn.Linear, errors of a few roundings."""
    module = update(key, dtype=torch.float32)
    x, u = gaussian(7, 12, dtype=half), 2.0 ** (-8 if half == torch.bfloat16 else -11)
    o = oracle(key, module)
    xn = host(x).astype(np.longdouble)
    size = np.sqrt((xn**2).sum(axis=1, keepdims=True)) * np.sqrt((o.D**2).sum())
    wanted = xn @ o.D.T

    def close(y, dtype, roundings):
        assert y.dtype == dtype
        check(host(y) - wanted, size, roundings, str(half), f"nn {half}")

    close(module(x), half, 2)
    with torch.autocast("cpu", dtype=half):
        y = module(x.float())
        assert y.dtype == half == nn.Linear(12, 12)(x.float()).dtype
        close(y, half, 16)
        y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())
    low = copy.deepcopy(module).to(half)
    check(host(low(x)) - wanted, 8 * size + 8 * np.abs(xn) @ o.G.T, 2, str(half))
    assert low(x).dtype == half and low(x.float()).dtype == torch.float32
    assert u > 0 and bool(torch.isfinite(low(x)).all())


def test_autocast_leaves_ffts_in_single_precision():
    module = update("circulant", (768, 768), zero=False)
    x = gaussian(4, 768, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x).detach()
    exact = update("circulant", (768, 768), dtype=torch.float64)
    exact.load_state_dict({n: p.double() for n, p in module.state_dict().items()})
    assert (
        float((y.double() - exact(x.double()).detach()).abs().max() / y.abs().max()) <= 2.0**-8
    )  # one rounding, of the result


@pytest.mark.parametrize("key", ("circulant pair", "skew_circulant", "toeplitz", "ldr 2", "block_circulant 2"))
def test_ffts_of_half_parameters_are_in_single_precision(key):
    """What half precision does is to round the parameters, x and the result, and nothing in between."""
    low = update(key, dtype=torch.bfloat16)
    x = gaussian(7, 12, dtype=torch.bfloat16)
    wide = copy.deepcopy(low).float()
    y, wanted = low(x).detach().float(), wide(x.float()).detach()
    assert bool(((y - wanted).abs() <= 1.01 * 2.0**-8 * wanted.abs() + 1e-6).all())


def test_autocast_multiplies_in_half_precision_and_leaves_doubles_alone():
    module, x = update("lsr"), gaussian(256, 12, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operations(lambda: module(x), at_least=256 * 4, dtypes=True)[0] == [
            "_to_copy bfloat16",
            "mm bfloat16",
            "mm bfloat16",
        ]
        assert (
            copy.deepcopy(module).double()(x.double()).dtype
            == torch.float64
            == nn.Linear(12, 12).double()(x.double()).dtype
        )


def test_double_inputs_are_not_rounded():
    module = update("lsr")
    assert module(gaussian(3, 12)).dtype == torch.float64
    o, x = oracle("lsr", module), gaussian(3, 12)
    check(host(module(x)) - host(x) @ o.D.T, np.abs(host(x)) @ o.E.T, 1.02, "float64")


# modules ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", (snn.StructuredUpdate, snn.StructuredLinear), ids=lambda c: c.__name__)
@ALL
def test_state_dict_copies_pickles_and_meta(key, cls):
    module, x = update(key, (12, 8), cls=cls), gaussian(3, 8, dtype=torch.float32)
    wanted = module(x)

    def same(other):
        assert bool((other(x) == wanted).all()) and repr(other) == repr(module)

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = update(key, (12, 8), cls=cls, seed=9)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    same(fresh)
    same(copy.deepcopy(module))
    same(pickle.loads(pickle.dumps(module)))
    meta = update(key, (12, 8), cls=cls, device="meta")
    assert all(p.is_meta for p in meta.parameters()) and meta(x.to("meta")).shape == (3, 12)
    real = meta.to_empty(device="cpu")
    real.reset_parameters()
    assert all(bool(torch.isfinite(p).all()) for p in real.parameters())
    real.load_state_dict(module.state_dict())
    same(real)
    assert set(module.state_dict()) == {*module.parametrisation.parameter_shapes()} | {"bias"} & {*dir(module)}
    assert module.double()(x.double()).dtype == torch.float64 and module.parametrisation.name in repr(module)


def test_the_matrix_is_one_of_the_core_on_the_parameters():
    module = update("toeplitz pair", dtype=torch.float64)
    A = module.matrix()
    assert isinstance(A, sm.Product) and all(isinstance(F, sm.Toeplitz) for F in A.factors)
    value = sm.norm(sm.Dense(module.to_dense()))
    value.backward()
    assert all(p.grad is not None for p in module.parameters())
    L, R = update("lsr").parametrisation.separated(dict(update("lsr").named_parameters()))
    assert L.shape == (12, 4) and R.shape == (4, 12) and L.condition_number > 0


def test_structured_linear_is_a_linear_layer():
    layer = update("ldr", (8, 12), cls=snn.StructuredLinear)
    x = gaussian(2, 3, 12, dtype=torch.float32)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.to_dense(), layer.bias))
    assert layer(x[:0]).shape == (0, 3, 8)


def test_the_limit_of_dense_forms(monkeypatch):
    """That of the core for a layer; an update is added to a weight of its size, and has none."""
    monkeypatch.setattr(sm.StructuredMatrix.to_dense, "__defaults__", (100,))
    with pytest.raises(sm.SizeLimitError):
        update("circulant", cls=snn.StructuredLinear).to_dense()
    assert update("circulant").to_dense().shape == (12, 12)


def test_split():
    assert [split(n) for n in (1, 2, 12, 768, 3072, 97)] == [(1, 1), (2, 1), (4, 3), (32, 24), (64, 48), (97, 1)]


def test_block_circulants_are_matrices_of_the_core():
    from sepmat.nn.block_circulant import BlockCirculant

    c = gaussian(2, 3, 4)
    A, o = BlockCirculant(c), block_circulant({"c": host(c)}, (8, 12))
    x, y = gaussian(12, 5), gaussian(8)
    check(host(A @ x) - o.D @ host(x), o.E @ np.abs(host(x)), 1, "float64")
    check(host(A.T @ y) - o.D.T @ host(y), o.E.T @ np.abs(host(y)), 1, "float64")
    check(host((2.0 * A).to_dense()) - 2 * o.D, 2 * o.E, 1, "float64")
    assert repr(A) == "BlockCirculant(blocks of 4, shape=(8, 12), float64)" and A.T.shape == (12, 8)
    with pytest.raises(sm.DTypeError, match="real numbers"):
        BlockCirculant(c.to(torch.complex128))


# errors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    (
        (lambda: snn.StructuredUpdate(4, 4, "circular"), sm.ArgumentError, "one of circulant, .*Did you mean 'circulant'"),
        (lambda: snn.StructuredUpdate(4, 4, "lsr", ranks=2), sm.ArgumentError, "option of 'lsr': rank, terms, shapes"),
        (lambda: snn.StructuredUpdate(4, 4, "dense", rank=2), sm.ArgumentError, "it has none"),
        (lambda: snn.StructuredUpdate(4, 4, "circulant", factors=3), sm.ArgumentError, "from 1 to 2"),
        (lambda: snn.StructuredUpdate(12, 8, "kronecker", rank=3), sm.ArgumentError, "divisor of 8 and 12. Use one of 1, 2, 4"),
        (lambda: snn.StructuredUpdate(12, 8, "kronecker", rank=2, shapes=((2, 2), (4, 6))), sm.ArgumentError, "exactly one"),
        (lambda: snn.StructuredUpdate(12, 8, "kronecker", shapes=((2, 2), (4, 5))), sm.ShapeError, "Divisors of 12: 1, 2, 3"),
        (lambda: snn.StructuredUpdate(12, 8, "lsr", shapes=((2, 2), (2, 2), (2, 3))), sm.ArgumentError, "3 factors; expected two"),
        (lambda: snn.StructuredUpdate(12, 8, "kadaptation"), sm.ArgumentError, "terms: 32.*Use one of 1, 2, 4"),
        (lambda: snn.StructuredUpdate(12, 8, "block_circulant", block=3), sm.ArgumentError, "Use one of 1, 2, 4"),
        (lambda: snn.StructuredUpdate(12, 8, "ldr", rank=0), sm.ArgumentError, "rank"),
        (lambda: snn.StructuredUpdate(12, 8, "ldr", rank=13), sm.ArgumentError, "from 1 to 12"),
        (lambda: snn.StructuredUpdate(0, 8, "ldr"), sm.ArgumentError, "in_features"),
        (lambda: snn.StructuredUpdate(8.5, 8, "ldr"), sm.DTypeError, "in_features"),
        (lambda: snn.StructuredUpdate(8, 8, "ldr", dtype=torch.complex64), sm.DTypeError, "real floating"),
        (lambda: snn.StructuredLinear(8, 8, "ldr", gain=-1.0), sm.ArgumentError, "gain"),
        (lambda: snn.StructuredUpdate(8, 8, "lora")(torch.ones(3, 7)), sm.ShapeError, r"shape \(3, 7\); expected \(..., 8\)"),
        (lambda: snn.StructuredUpdate(8, 8, "lora")(torch.ones(3, 8, dtype=torch.int64)), sm.DTypeError, "int64"),
        (lambda: snn.StructuredUpdate(8, 8, snn.parametrisation("lora", (8, 4))), sm.ArgumentError, "Pass its name"),
        (lambda: snn.StructuredUpdate(8, 8, "kadaptation", terms=2, shared={"u1": nn.Parameter(torch.ones(3, 3))}), sm.ShapeError, "shared"),
        (lambda: snn.Bottleneck(8, activation="relu"), sm.ArgumentError, "flat at 0"),
        (lambda: snn.Bottleneck(8, activation="geluu"), sm.ArgumentError, "Did you mean 'gelu'"),
        (lambda: snn.Bottleneck(8, "dense", 0), sm.ArgumentError, "bottleneck"),
    ),
)  # fmt: skip
def test_impossible_options(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert re.search(text, str(caught.value)), caught.value
    assert len(caught.value.args) == 5


def test_without_torch_the_extra_is_named():
    code = """
import sys
sys.modules["torch"] = None
import sepmat as sm
try:
    import sepmat.nn
except sm.BackendError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "sepmat[torch]" in found.stdout


# adapted models -----------------------------------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As transformers': y = x W + b with W (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(0.02 * gaussian(nx, nf, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Block(nn.Module):
    def __init__(self, d, wide):
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(d, d), "value": nn.Linear(d, d)})
        self.attention["output"] = nn.ModuleDict({"dense": nn.Linear(d, d)})
        self.intermediate = Conv1D(wide, d)
        self.output = nn.ModuleDict({"dense": nn.Linear(wide, d, bias=False)})

    def forward(self, x):
        a = self.attention
        x = x + a["output"]["dense"](a["query"](x) * torch.tanh(a["value"](x)))
        return x + self.output["dense"](torch.relu(self.intermediate(x)))


class Model(nn.Module):
    def __init__(self, d=12, wide=24, layers=2):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(5, d)
            self.encoder = nn.ModuleList([Block(d, wide) for _ in range(layers)])
            self.head = nn.Linear(d, 5)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.head

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.encoder:
            x = block(x)
        return self.head(x)


TOKENS = torch.arange(10).reshape(2, 5) % 5


def adapted_names(model):
    return [name for name, m in model.named_modules() if isinstance(m, snn.AdaptedLinear)]


@pytest.mark.parametrize(
    ("targets", "more", "count"),
    (
        ("all-linear", {}, 10),
        ("all-linear", {"exclude_modules": ["query"]}, 8),
        ("all-linear", {"exclude_modules": r".*\.0\..*"}, 5),
        ("all-linear", {"trainable": ["encoder.1"]}, 5),
        (["query", "value"], {}, 4),
        (["0.attention.query"], {}, 1),
        (["output.dense"], {}, 4),
        (r"encoder\.\d\.output\.dense", {}, 2),
        (["intermediate"], {}, 2),
        (["head"], {}, 1),
    ),
)  # fmt: skip
def test_targets(targets, more, count):
    model = Model()
    before = model(TOKENS)
    assert snn.adapt(model, targets, "circulant", **more) is model
    assert len(adapted_names(model)) == count
    assert bool((model(TOKENS) == before).all())  # the identity at the start
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    heads = {n for n, _ in model.named_parameters() if n.startswith("encoder.1.")} if "trainable" in more else set()
    assert training == {n for n, _ in model.named_parameters() if n.endswith("update.c")} | heads


@pytest.mark.parametrize(
    ("call", "text"),
    (
        (lambda m: snn.adapt(m, ["querry"]), "query.*Did you mean 'query'"),
        (lambda m: snn.adapt(m, ["nothing"]), r"query \(2\), value \(2\), dense \(4\), intermediate \(2\), head.*all-linear"),
        (lambda m: snn.adapt(m, "query"), "matches nothing"),
        (lambda m: snn.adapt(m, "(query"), "a regular expression"),
        (lambda m: snn.adapt(m, ["query"], trainable=["classifier"]), "trainable.*embedding, encoder, head"),
        (lambda m: snn.adapt(snn.adapt(m, ["query"]), ["query"]), "adapted already"),
        (lambda m: snn.adapt(m, ["query"], "kronecker", rank=5), "divisor of 12"),
        (lambda m: snn.adapt(nn.Tanh(), "all-linear"), "there are none"),
        (lambda m: snn.positions(nn.Sequential(nn.Linear(2, 2))), r"positions: model: .*names of linear layers: 0"),
    ),
)  # fmt: skip
def test_targets_that_are_not_there(call, text):
    model = Model()
    with pytest.raises(sm.ArgumentError) as caught:
        call(model)
    assert re.search(text, str(caught.value)), caught.value


@ALL
def test_merging(key):
    """The merged model says the same to 2e-6, and the base comes back bit by bit."""
    name, options, _ = STRUCTURES[key]
    model = snn.adapt(Model(), "all-linear", name, bias=True, alpha=0.5, **options).eval()
    for m in model.modules():
        if isinstance(m, snn.AdaptedLinear):
            m.update.reset_parameters(torch.Generator().manual_seed(1), zero=False)
            nn.init.constant_(m.delta_bias, 0.25)
    base = {n: p.detach().clone() for n, p in model.state_dict().items()}
    layers = [m for m in model.modules() if isinstance(m, snn.AdaptedLinear)]
    for m in layers:
        x = gaussian(9, m.in_features, dtype=torch.float32)
        apart = m(x).detach()
        m.merge()
        m.merge()  # no effect
        assert m.merged and not any(p.requires_grad for p in m.base.parameters())
        error = float((m(x).detach() - apart).norm() / apart.norm())
        assert error <= 2e-6, (type(m.base).__name__, error)
        m.unmerge()
        m.unmerge()
        assert not m.merged and bool((m(x) == apart).all())
    assert all(bool((p == base[n]).all()) for n, p in model.state_dict().items())
    wanted = model(TOKENS)
    plain = snn.merge_and_unload(model)
    assert plain is model and not adapted_names(model)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in Model().named_modules()]
    torch.testing.assert_close(model(TOKENS), wanted, rtol=2e-5, atol=2e-5)


def test_merging_a_tied_weight_leaves_its_other_owner_alone():
    model = snn.adapt(Model(), ["head"], "lora", rank=2)
    model.head.update.reset_parameters(zero=False)
    before = model.embedding.weight.detach().clone()
    model.head.merge()
    assert bool((model.embedding.weight == before).all()) and model.head.base.weight is not model.embedding.weight
    model.head.unmerge()
    assert model.head.base.weight is model.embedding.weight


def test_merging_refuses_what_is_not_finite_and_rounds_once():
    layer = snn.AdaptedLinear(nn.Linear(8, 8, dtype=torch.bfloat16), snn.StructuredUpdate(8, 8, "lora", rank=2))
    nn.init.constant_(layer.update.B, math.nan)
    before = layer.base.weight
    with pytest.raises(sm.NonFiniteError, match="merge: update"):
        layer.merge()
    assert layer.base.weight is before and not layer.merged
    layer.update.reset_parameters(zero=False)
    wanted = (before.float() + layer.update.to_dense()).to(torch.bfloat16)
    layer.merge()
    assert bool((layer.base.weight == wanted).all()) and layer.base.weight.dtype == torch.bfloat16
    layer.double()
    layer.unmerge()
    assert layer.base.weight is before and before.dtype == torch.float64  # it moved with the module


def test_adapted_layers_check_their_parts():
    with pytest.raises(sm.ArgumentError, match="8 -> 4 as base"):
        snn.AdaptedLinear(nn.Linear(8, 4), snn.StructuredUpdate(8, 8, "lora"))
    with pytest.raises(sm.DTypeError, match="a Tanh"):
        snn.AdaptedLinear(nn.Tanh(), snn.StructuredUpdate(8, 8, "lora"))
    layer = snn.AdaptedLinear(nn.Linear(8, 4), snn.StructuredUpdate(8, 4, "lora"))
    assert (layer.in_features, layer.out_features) == (8, 4) and "scale=1" in repr(layer)
    layer.base.weight = nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)  # as 4-bit weights are
    with pytest.raises(sm.DTypeError, match=r"merge: base: a weight in torch.uint8.*Use sepmat.peft"):
        layer.merge()
    attention = nn.MultiheadAttention(8, 2)  # reads the weight of its output projection itself
    with pytest.raises(sm.ArgumentError, match="matches nothing"):
        snn.adapt(attention, "all-linear")


def test_a_linear_layer_alone_can_be_adapted():
    model = snn.adapt(nn.Linear(8, 4), "all-linear", "lsr", rank=1, terms=2)
    assert isinstance(model, snn.AdaptedLinear)
    assert isinstance(snn.merge_and_unload(model), nn.Linear)


def test_kadaptation_shares_its_slow_factors():
    """One set for all queries, one for all values; L (2 t 2 (d/t) + d) + 2 · 2 t² with a bias for one of them."""
    d, t, layers = 12, 4, 3
    model = snn.adapt(Model(d=d, layers=layers), ["query"], "kadaptation", terms=t, bias=True)
    own = {n for n, p in model.named_parameters() if p.requires_grad}
    assert sum(n.endswith("u1") for n in own) == 1
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == layers * (2 * d + d) + 2 * t * t
    model = snn.adapt(Model(d=d, layers=layers), ["query", "value"], "kadaptation", terms=t)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == layers * 4 * d + 2 * 2 * t * t
    a, b = (m.attention["query"].update for m in (model.encoder[0], model.encoder[1]))
    assert a.u1 is b.u1 and a.u2 is not b.u2 and a.u1 is not model.encoder[0].attention["value"].update.u1
    kept = a.u1.detach().clone()
    b.reset_parameters()
    assert bool((a.u1 == kept).all())  # not the owner
    model(TOKENS).square().sum().backward()
    assert bool((a.u2.grad != 0).any())


def test_an_adapted_model_trains_saves_and_loads():
    def make(seed):
        return snn.adapt(Model(), ["query", "value"], "ldr", alpha=2.0, trainable=["head"],
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip

    model, losses = make(0), []
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(1).flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    small = {n: p for n, p in model.state_dict().items() if ".update." in n or n.startswith(("head", "embedding"))}
    other = make(1)
    missing, unexpected = other.load_state_dict(small, strict=False)
    assert not unexpected and not any(".update." in n for n in missing)
    assert bool((other(TOKENS) == model(TOKENS)).all())


# bottlenecks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck", (None, 5, 12, 16))
@pytest.mark.parametrize("structure", ("circulant", "toeplitz", "kronecker", "ldr", "lsr", "dense"))
def test_bottlenecks(structure, bottleneck):
    """h + scale · Up(act(Down h)) or h + scale · (act(M h) + b), the identity at the start, with a gradient."""
    adapter = snn.Bottleneck(12, structure, bottleneck, scale=0.5, dtype=torch.float64)
    h = gaussian(3, 12)
    assert bool((adapter(h) == h).all())
    adapter(h).square().sum().backward()
    moved = adapter.up.parametrisation.moved
    assert all(bool((getattr(adapter.up, n).grad != 0).any()) for n in moved if getattr(adapter.up, n).numel())
    adapter.up.reset_parameters(zero=False)
    nn.init.normal_(adapter.bias, generator=torch.Generator().manual_seed(0))
    act, U = nn.functional.gelu, adapter.up.to_dense()
    if bottleneck is None:
        wanted = h + 0.5 * (act(h @ U.T) + adapter.bias)
    else:
        wanted = h + 0.5 * (
            act(nn.functional.linear(h, adapter.down.to_dense(), adapter.down.bias)) @ U.T + adapter.bias
        )
    torch.testing.assert_close(adapter(h), wanted)
    adapter.reset_parameters()
    assert bool((adapter(h) == h).all()) and "12, activation='gelu', scale=0.5" in repr(adapter)


@pytest.mark.parametrize(
    ("arguments", "options", "count"),
    (
        (("circulant",), {"factors": 2}, 55_296),
        (("symmetric_toeplitz",), {"factors": 2}, 55_296),
        (("circulant",), {}, 36_864),
        (("dense", 16), {}, 608_640),
        (("dense", 48), {}, 24 * 74_544),
    ),
)  # fmt: skip
def test_counts_of_bottlenecks(arguments, options, count):
    assert 24 * sum(p.numel() for p in snn.Bottleneck(768, *arguments, device="meta", **options).parameters()) == count


def test_positions_and_add_bottlenecks():
    model = Model()
    ends = ("attention.output.dense", "output.dense")
    both = [f"encoder.{i}.{e}" for i in range(2) for e in ends]
    assert snn.positions(model) == both and snn.positions(model, "pfeiffer") == both[1::2]
    before = model(TOKENS)
    snn.add_bottlenecks(model, "circulant", factors=2, trainable=["head"])
    assert bool((model(TOKENS) == before).all())
    training = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(training) == 4 * 3 + 2 and all(".adapter." in n or n.startswith(("head", "embedding")) for n in training)
    with pytest.raises(sm.UnsupportedError, match=r"a Bottleneck at 'encoder.0.attention.output.dense.adapter'"):
        snn.merge_and_unload(model)
    some = snn.add_bottlenecks(Model(), "dense", 3, position=[r"0.output.dense"], activation="relu", dropout=0.5)
    assert sum(isinstance(m, snn.Bottleneck) for m in some.modules()) == 1


@pytest.mark.slow  # imports transformers
def test_models_of_transformers():
    """Positions in the families named in the docstring; GPT-2's Conv1D is adapted and merged."""
    t = pytest.importorskip("transformers", reason="transformers is not installed")
    own = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text, image = {**own, "vocab_size": 40}, {**own, "image_size": 8, "patch_size": 4}
    special = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    gpt2 = t.GPT2Config(n_embd=16, n_layer=2, n_head=2, **special)
    two = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    families = {
        "Bert": (t.BertConfig(**text), 2, 2),
        "Roberta": (t.RobertaConfig(**text), 2, 2),
        "DebertaV2": (t.DebertaV2Config(**text), 2, 2),
        "DistilBert": (t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=40), 2, 2),
        "ViT": (t.ViTConfig(**image), 2, 2),
        "Dinov2": (t.Dinov2Config(**{k: v for k, v in image.items() if k != "intermediate_size"}), 2, 2),
        "CLIPVision": (t.CLIPVisionConfig(**image), 2, 2),
        "GPT2": (gpt2, 2, 2),
        "OPT": (t.OPTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
                            word_embed_proj_dim=16, **special), 2, 2),
        "Llama": (t.LlamaConfig(**text), 2, 2),
        "Qwen2": (t.Qwen2Config(**text), 2, 2),
        "Bart": (t.BartConfig(d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, **two, **special), 6, 4),
        "T5": (t.T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=40), 6, 4),
    }  # fmt: skip
    for name, (config, attention, feed_forward) in families.items():
        with torch.device("meta"):
            model = getattr(t, f"{name}Model")(config)
        found = len(snn.positions(model)), len(snn.positions(model, "pfeiffer"))
        assert found == (attention + feed_forward, feed_forward), name
    model, tokens = t.GPT2LMHeadModel(gpt2).eval(), TOKENS
    before = model(tokens).logits
    snn.adapt(model, "all-linear", "lsr", rank=2, terms=2)
    assert len(adapted_names(model)) == 8 and "lm_head" not in adapted_names(model)
    assert bool((model(tokens).logits == before).all())
    for m in model.modules():
        if isinstance(m, snn.AdaptedLinear):
            m.update.reset_parameters(zero=False)
    apart = model(tokens).logits
    torch.testing.assert_close(snn.merge_and_unload(model)(tokens).logits, apart, rtol=2e-5, atol=2e-5)
