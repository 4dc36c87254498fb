"""sepmat.peft: which layers are adapted, of which kinds and precisions, in processes and compiled. test_peft.py says how the tests work."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")

from peft_models import (  # noqa: E402  isort: skip  (it hides a torchvision that does not load)
    ADDITIVE,
    FILTERS,
    MERGE,
    METHODS,
    MLP_TARGETS,
    NOT_LINEAR,
    VARIANTS,
    adapted,
    bert,
    config_of,
    difference,
    gpt2,
    inputs,
    layers_of,
    llama,
    loss,
    mlp,
    operation,
    output,
    saved_again,
)
import peft  # noqa: E402
from packaging.version import Version  # noqa: E402
from peft import PeftModel, get_peft_model  # noqa: E402
from torch import nn  # noqa: E402

from sepmat.errors import ArgumentError, DTypeError, UnsupportedError  # noqa: E402

pytestmark = FILTERS

# --------------------------------------------------------------------------------------------------------------- targets


def targeted(model):
    return sorted(model.targeted_module_names)


@operation('target_modules: "all-linear", names, a regular expression, None')
def test_target_modules(method):
    every = targeted(adapted(method, bert(), target_modules="all-linear", task_type="SEQ_CLS"))
    assert len(every) == 13 and "classifier" not in every and "bert.pooler.dense" in every
    names = targeted(adapted(method, bert(), target_modules=["query", "output.dense"]))
    assert len(names) == 6
    regex = targeted(adapted(method, bert(), target_modules=r".*layer\.1\..*(query|value)"))
    assert regex == [f"bert.encoder.layer.1.attention.self.{name}" for name in ("query", "value")]
    default = targeted(adapted(method, bert(), target_modules=None))
    assert len(default) == 4 and all(
        n.endswith("output.dense" if method == "adapter" else ("query", "value")) for n in default
    )
    with pytest.raises(ValueError, match="nothing_of_that_name"):
        adapted(method, target_modules=["nothing_of_that_name"])
    # a second adapter on all linear layers, those that have one included
    model = adapted(method, target_modules="all-linear")
    model.add_adapter("second", config_of(method, "all-linear"))
    assert all(set(layer.alpha) == {"default", "second"} for layer in layers_of(model)) and len(layers_of(model)) == 3


@operation("exclude_modules")
def test_exclude_modules(method):
    for exclude in (["layer.0.attention.self.query", "key"], r".*(layer\.0\..*query|key)"):
        model = adapted(method, bert(), target_modules=["query", "key", "value"], exclude_modules=exclude)
        assert [n.split("layer.")[1] for n in targeted(model)] == [
            "0.attention.self.value",
            "1.attention.self.query",
            "1.attention.self.value",
        ]


@operation("layers_to_transform (0 too), layers_pattern")
def test_layers_to_transform(method):
    for layers, found in ((0, {"0"}), ([0], {"0"}), ([1], {"1"}), ([0, 1], {"0", "1"}), (None, {"0", "1"})):
        for pattern in (None, "layer") if layers is not None else (None,):
            model = adapted(
                method, bert(), target_modules=["query"], layers_to_transform=layers, layers_pattern=pattern
            )
            assert {n.split(".")[3] for n in targeted(model)} == found


CIRCULANTS = dict.fromkeys(("circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz"), "rank_pattern.*factors")


@operation("rank_pattern", no={**CIRCULANTS, "adapter": "rank_pattern.*factors"})
def test_rank_pattern(method):
    """A name, and a regular expression; the other layers keep r."""
    model = adapted(
        method, bert(), target_modules=["query", "key"], rank_pattern={"layer.0.attention.self.query": 1, ".*key": 4}
    )
    counts = {
        n: sum(p.numel() for p in model.get_submodule(f"base_model.model.{n}").updates.parameters())
        for n in targeted(model)
    }
    other = adapted(method, bert(), target_modules=["query"])
    usual = sum(p.numel() for p in layers_of(other)[0].updates.parameters())
    by = {n.split("layer.")[1]: c for n, c in counts.items()}
    assert by["1.attention.self.query"] == usual and by["0.attention.self.key"] == by["1.attention.self.key"]
    rank = {n.split("layer.")[1]: rank_of(model.get_submodule(f"base_model.model.{n}")) for n in counts}
    assert rank["0.attention.self.query"] < rank["1.attention.self.query"] <= rank["1.attention.self.key"]


def rank_of(layer):
    p = layer.updates["default"].parametrisation
    return p.shapes[0][1] if p.name == "kronecker" else p.rank


@operation("alpha_pattern")
def test_alpha_pattern(method):
    model = adapted(method, alpha=2.0, alpha_pattern={"down": 0.5})
    assert [layer.alpha["default"] for layer in layers_of(model)] == [2.0, 0.5]
    one, half = adapted(method), adapted(method, alpha_pattern={"down": 0.5, "up": 2.0})
    x = torch.randn(3, 36)
    for a, b in ((half, model),):
        assert torch.equal(a.base_model.model.down(x), b.base_model.model.down(x))
    base = one.base_model.model.down.base_layer(x)
    assert difference(2 * (model.base_model.model.down(x) - base), one.base_model.model.down(x) - base) < 1e-5


@operation("modules_to_save")
def test_modules_to_save(method, tmp_path):
    model = adapted(method, modules_to_save=["head"])
    head = model.base_model.model.head
    assert {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"up", "down", "head"}
    with torch.no_grad():
        head.modules_to_save["default"].weight.add_(1.0)
    loaded = saved_again(model, tmp_path, mlp())
    assert torch.equal(output(loaded), output(model))
    with model.disable_adapter():
        assert torch.equal(output(model), output(mlp()))
    if method in ADDITIVE:
        y = output(model)
        assert difference(output(model.merge_and_unload()), y) <= MERGE


@operation('bias "none", "all", "surm_only" and so on')
def test_bias(method, tmp_path):
    if Version(peft.__version__) < Version("0.21"):
        with pytest.raises(UnsupportedError, match=r"bias: 'all', which PEFT 0\.20 would not save"):
            adapted(method, bias="all")
        return
    prefix = METHODS[method]().method
    for bias, names in (("none", set()), ("all", {"up", "down", "head"}), (f"{prefix}_only", {"up", "down"})):
        model = adapted(method, bias=bias)
        trainable = {n for n, p in model.named_parameters() if p.requires_grad and f".{model.prefix}" not in n}
        assert {n.split(".")[2] for n in trainable} == names and all(n.endswith(".bias") for n in trainable)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.5)
        loaded = saved_again(model, tmp_path / bias, mlp())
        assert torch.equal(output(loaded), output(model)), bias
    with pytest.raises(ArgumentError, match="lora_only"):
        adapted(method, bias="lora_only")


# ------------------------------------------------------------------------------------------------ other kinds of layers


@operation("Conv1D (GPT-2), rectangular")
def test_conv1d(method):
    """c_attn is 32 -> 96, stored as (in, out)."""
    model = adapted(method, gpt2(), target_modules=["c_attn", "c_proj", "c_fc"])
    y = output(model)
    assert len(layers_of(model)) == 8 and difference(y, output(gpt2())) > 1e-3
    loss(model.train()).backward()
    if method in ADDITIVE:
        layer = layers_of(model)[0]
        x = torch.randn(2, 32)
        delta = (layer(x) - layer.base_layer(x)).detach()
        assert difference(x @ layer.get_delta_weight("default"), delta) < 1e-5
        assert difference(output(model.merge_and_unload()), y) <= 10 * MERGE  # through two blocks


@operation("Llama with grouped keys (32 -> 16), generate")
def test_llama(method):
    model = adapted(method, llama(), target_modules=None)
    ids = inputs(model)["input_ids"]
    tokens = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert tokens.shape == (3, 12)
    y = output(model)
    assert difference(y, output(llama())) > 1e-3
    if method in ADDITIVE:
        assert difference(output(model.merge_and_unload()), y) <= 10 * MERGE


def quantised(kind):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = mlp(n=64, m=128)
    for name in MLP_TARGETS:
        old = getattr(model, name)
        n, m = old.in_features, old.out_features
        if kind == "4bit":
            new = bnb.nn.Linear4bit(n, m, quant_type="nf4", compute_dtype=torch.float32)
        else:
            new = bnb.nn.Linear8bitLt(n, m, has_fp16_weights=False)
        new.load_state_dict(old.state_dict(), strict=False)
        setattr(model, name, new.to("cpu"))
    return model


def check_quantised(method, kind, tolerance):
    """Trains beside the quantised weight; the merge rounds W + ΔW to the grid again."""
    base = quantised(kind)
    model = get_peft_model(base, config_of(method))
    loss(model.train()).backward()  # before any forward in eval mode, which packs 4-bit weights for good on some CPUs
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with model.disable_adapter():
        y0 = output(model)
    y = output(model)
    with model.disable_adapter():
        assert torch.equal(output(model), y0)
    model.merge_adapter(safe_merge=True)
    assert difference(output(model), y) < tolerance < difference(y0, y)
    model.unmerge_adapter()
    assert difference(output(model), y) < tolerance
    assert difference(output(model.merge_and_unload()), y) < tolerance


@operation("8-bit base (bitsandbytes), merge included", no=NOT_LINEAR)
def test_8bit(method):
    check_quantised(method, "8bit", 0.03)


@operation("4-bit base (bitsandbytes), merge included", no=NOT_LINEAR)
def test_4bit(method):
    check_quantised(method, "4bit", 0.25)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_bottleneck_on_quantised_base(kind):
    model = get_peft_model(quantised(kind), config_of("adapter"))
    loss(model.train()).backward()
    y = output(model)
    y0 = output(model.unload())
    assert not torch.equal(y, y0) and torch.equal(y0, output(quantised(kind)))


# -------------------------------------------------------------------------------------------------------------- precision


@operation("autocast to bfloat16")
def test_autocast(method):
    model = adapted(method)
    y = output(model)
    with torch.autocast("cpu", torch.bfloat16):
        half = output(model)
        value = loss(model.train())
    value.backward()
    assert half.dtype == torch.bfloat16 and 0 < difference(half, y) < 0.05
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@operation("float16 and bfloat16 bases, autocast_adapter_dtype on and off, on the meta device too")
def test_half_base(method, tmp_path):
    adapted(method).save_pretrained(tmp_path)
    want = output(PeftModel.from_pretrained(mlp(), tmp_path))
    for dtype in (torch.float16, torch.bfloat16):
        for autocast in (True, False):
            for low in (False, True):
                model = PeftModel.from_pretrained(
                    mlp(dtype), tmp_path, autocast_adapter_dtype=autocast, low_cpu_mem_usage=low, is_trainable=True
                )
                found = {p.dtype for n, p in model.named_parameters() if model.prefix in n}
                assert found == {torch.float32 if autocast else dtype}, (dtype, autocast, low)
                y = output(model, dtype)
                assert y.dtype == dtype and difference(y, want) < 30 * torch.finfo(dtype).eps
                model(**inputs(model, dtype)).float().square().mean().backward()
                assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------------------------- processes, compilation


@pytest.fixture(scope="module")
def in_step():
    """Two processes train every method once; what came out by method."""
    script = pathlib.Path(__file__).with_name("peft_ddp.py")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@operation("DistributedDataParallel, two processes bitwise in step", slow="starts two processes that import everything")
def test_ddp(method, in_step):
    assert in_step[method]


@operation("torch.compile(fullgraph=True), forward and backward", slow="compiles C++")
@pytest.mark.filterwarnings("ignore")
def test_compile(method):
    torch._dynamo.reset()
    model = adapted(method).train()
    value = loss(model)
    value.backward()
    want = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True)
    again = loss(compiled)
    again.backward()
    assert abs(again.item() - value.item()) < 1e-5
    for n, p in model.named_parameters():
        if p.requires_grad:
            assert (p.grad - want[n]).abs().max() <= 1e-5 * (want[n].abs().max() + 1e-3), n


# ------------------------------------------------------------------------------------------------------- layers and sizes


@pytest.mark.parametrize("method", [m for m in [*METHODS, *VARIANTS] if "kronecker" not in m])
@pytest.mark.parametrize("sizes", [(13, 7), (7, 13), (1, 5), (5, 1), (12, 12)], ids="{0[0]}x{0[1]}".format)
def test_any_sizes(method, sizes):
    """Primes, and one: x ΔWᵀ is what the dense ΔW gives."""
    n, m = sizes
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(n, m)).eval()
    config = config_of(method, ["0"], **({"r": 1} if method == "ldr" else {}))
    if "adapter" in method and m == 1 and method != "adapter, dense":
        config = config_of("adapter, dense", ["0"])
    layer = get_peft_model(model, config).base_model.model[0]
    x = torch.randn(3, n, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    if method in ADDITIVE or "adapter" not in method:
        want = layer.base_layer(x) + x @ layer.get_delta_weight("default").T
        assert difference(y, want) < 1e-5


def test_unsupported_layers():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Embedding(4, 4), nn.MultiheadAttention(8, 2))
    for target, error, text in (
        ("0", DTypeError, "target_modules: Conv2d; expected torch.nn.Linear"),
        ("1", DTypeError, "target_modules: Embedding;"),
        ("2.out_proj", UnsupportedError, "out_proj of a torch.nn.MultiheadAttention"),
    ):
        with pytest.raises(error, match=text):
            get_peft_model(copy.deepcopy(model), config_of("circulant", [target]))
    with pytest.raises(ArgumentError, match=r"divisor of 36 and 24.*Use one of 1, 2, 3, 4, 6, 12"):
        adapted("kronecker", r=5)


def test_repr():
    assert repr(layers_of(adapted("lsr"))[0]).startswith("lsr.LSRLinear(")


def test_houlsby_and_pfeiffer():
    for model, houlsby, pfeiffer in ((bert, 4, 2), (gpt2, 4, 2), (llama, 4, 2)):
        for position, count in (("houlsby", houlsby), ("pfeiffer", pfeiffer)):
            found = targeted(adapted("adapter", model(), target_modules=None, position=position))
            assert len(found) == count, (found, position)
            assert position == "houlsby" or not any("att" in name for name in found)
