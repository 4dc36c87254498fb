"""sepmat.nn: how structures start, the variances of their starts, training, gradients of every order."""

import math

import numpy as np
import pytest
from conftest import host
from nn_cases import ALL, SIZES, STRUCTURES, gaussian, update

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from sepmat import nn as snn  # noqa: E402

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
