"""sepmat.nn: values against the definitions, counts, what a product costs, precision, modules, errors."""

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
from conftest import check, host
from nn_cases import ALL, SIZES, STRUCTURES, block_circulant, gaussian, oracle, update

import sepmat as sm

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from sepmat import nn as snn  # noqa: E402
from sepmat.nn.contract import split  # noqa: E402

# values ------------------------------------------------------------------------------------------------------------------


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


def test_a_state_dict_knows_its_structure(tmp_path):
    """circulant, skew_circulant and symmetric_toeplitz have parameters of the same name and shape."""
    names = ("circulant", "skew_circulant", "symmetric_toeplitz")
    for cls in (snn.StructuredLinear, snn.StructuredUpdate):
        for name in names:
            torch.save({"state": cls(6, 4, name).state_dict()}, tmp_path / "s.pt")
            state = torch.load(tmp_path / "s.pt", weights_only=True)["state"]
            for other in names:
                net, fresh = torch.nn.Sequential(cls(6, 4, other)), cls(6, 4, other)
                before = fresh.to_dense().detach().clone()
                if other == name:
                    fresh.load_state_dict(state)
                    continue
                message = f"parameters of '{name}'; expected those of '{other}'. Build it with structure='{name}'"
                with pytest.raises(RuntimeError, match=f"load_state_dict: state_dict: {message}"):
                    fresh.load_state_dict(state, strict=False)
                assert torch.equal(fresh.to_dense(), before)
                with pytest.raises(RuntimeError, match=f"load_state_dict: 0: {message}"):
                    net.load_state_dict(torch.nn.Sequential(cls(6, 4, name)).state_dict())
    fresh.load_state_dict(dict(state))  # a plain dict, as safetensors has it, does not say


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


def test_every_public_name_has_an_example():
    """Which runs, as all docstrings do."""
    names = [name for name in snn.__all__ if name != "PARAMETRISATIONS"]
    assert [name for name in names if ">>>" not in getattr(snn, name).__doc__] == []


def test_where_no_position_is_found_nobody_is_asked_for_a_name():
    with pytest.raises(sm.ArgumentError, match=r"positions: model: .*linear layers: 0\. Name the layers yourself"):
        snn.positions(nn.Sequential(nn.Linear(2, 2)))


def test_nothing_is_dense_in_silence():
    """Sizes without divisors: the default factors are the dense matrix and 1."""
    with pytest.warns(UserWarning, match=r"^kronecker: shapes: .*\(13×7\) ⊗ \(1×1\).*pass rank= or shapes=") as seen:
        layer = snn.StructuredUpdate(7, 13, "kronecker")
    assert [w.filename for w in seen] == [__file__] and layer.parametrisation.num_parameters == 13 * 7 + 1
    for shape, options in [
        ((13, 7), {"rank": 1}),
        ((13, 7), {"shapes": ((13, 1), (1, 7))}),
        ((12, 7), {}),
        ((1, 7), {}),
    ]:
        assert snn.parametrisation("kronecker", shape, **options).num_parameters <= math.prod(shape) + 1
