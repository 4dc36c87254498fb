"""sepmat.peft: several adapters in a model, merging, exports to LoRA, sums of adapters. test_peft.py says how the tests work."""

import re

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")

from peft_models import (  # noqa: E402  isort: skip  (it hides a torchvision that does not load)
    ADDITIVE,
    FILTERS,
    MERGE,
    MLP,
    NOT_LINEAR,
    VARIANTS,
    adapted,
    another,
    bert,
    config_of,
    difference,
    layers_of,
    loss,
    mlp,
    operation,
    output,
    three,
)
import peft  # noqa: E402
from peft import PeftModel, PeftType, get_peft_model  # noqa: E402

import sepmat.peft as sp  # noqa: E402
from sepmat.errors import ArgumentError, NonFiniteError, UnsupportedError  # noqa: E402

pytestmark = FILTERS

# ------------------------------------------------------------------------------------------------------ several adapters


@operation("several adapters of different structure, active at once")
def test_several_at_once(method):
    """Each is given the original x (or h), so that they add up and their order does not matter."""
    model, x = three(method), torch.randn(4, 24)
    layer = model.base_model.model.up
    alone = {}
    for name in ("default", "second"):
        layer.set_adapter(name)
        alone[name] = layer(x) - layer.base_layer(x)
    for names in (["default", "second"], ["second", "default"], ["third", "default", "second"]):
        layer.set_adapter(names)
        got = layer(x) - layer.base_layer(x)
        assert difference(got, alone["default"] + alone["second"]) < 1e-5, names
    model.base_model.set_adapter(["default", "second"])
    loss(model.train()).backward()
    names = {n for n, p in model.named_parameters() if p.grad is not None}
    assert {re.search(r"\.(default|second|third)(\.|$)", n)[1] for n in names} == {"default", "second"}


@operation("set_adapter: what is active, and what is trainable")
def test_set_adapter(method, tmp_path):
    model = three(method)
    y = output(model)
    for name in ("second", "third", "default"):
        model.set_adapter(name)
        assert model.active_adapter == name
        trainable = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trainable and all(re.search(rf"\.{name}(\.|$)", n) for n in trainable)
    assert torch.equal(output(model), y)
    model.set_adapter("second", inference_mode=True)
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="missing"):
        model.set_adapter("missing")


@operation("load_adapter beside another one")
def test_load_adapter(method, tmp_path):
    torch.manual_seed(3)
    other = get_peft_model(mlp(), another(method))
    other.save_pretrained(tmp_path)
    model = adapted(method)
    y = output(model)
    result = model.load_adapter(tmp_path, adapter_name="second")
    assert not result.unexpected_keys and difference(output(model), y) < 1e-6
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".second" in n)
    model.set_adapter("second")
    assert torch.equal(output(model), output(other))


@operation("disable_adapter, enable and disable layers")
def test_disable(method):
    model, base = adapted(method), output(mlp())
    y = output(model)
    assert not torch.equal(y, base)
    with model.disable_adapter():
        assert torch.equal(output(model), base)
    assert torch.equal(output(model), y)
    model.base_model.disable_adapter_layers()
    assert torch.equal(output(model), base) and not any(p.requires_grad for p in model.parameters())
    model.base_model.enable_adapter_layers()
    assert torch.equal(output(model), y) and any(p.requires_grad for p in model.parameters())


@operation("delete_adapter leaves nothing behind")
def test_delete(method):
    model = three(method)
    y = output(model)
    model.delete_adapter("second")
    assert "second" not in model.peft_config and not any(".second" in k for k in model.state_dict())
    for layer in layers_of(model):
        for name, value in [*vars(layer).items(), *layer._modules.items()]:
            assert not (hasattr(value, "keys") and "second" in value.keys()), name  # noqa: SIM118
    assert torch.equal(output(model), y)
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("default")
    assert model.active_adapters == ["third"] and torch.equal(output(model), output(mlp()))
    model.delete_adapter("third")
    assert not any(model.prefix in k for k in model.state_dict()) and model.active_adapters == []
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("third")


@operation("unload")
def test_unload(method):
    """The base model as it was, bit by bit and key by key."""
    base = adapted(method).unload()
    assert type(base) is MLP and not layers_of(base)
    want = mlp().state_dict()
    assert base.state_dict().keys() == want.keys() and all(
        torch.equal(v, want[k]) for k, v in base.state_dict().items()
    )


# ----------------------------------------------------------------------------------------------------------------- merge


def changes_the_output(model):
    return difference(output(model), output(mlp())) > 1e-2


@operation("merge_adapter, unmerge_adapter (error ≤ 2e-6)", no=NOT_LINEAR)
def test_merge_and_unmerge(method):
    model = adapted(method, alpha=1.5)
    assert changes_the_output(model)
    y, state = output(model), {k: v.clone() for k, v in model.state_dict().items()}
    merged = []
    for training in (True, False):
        model.train(training)
        model.merge_adapter(safe_merge=not training)
        assert all(layer.merged for layer in layers_of(model))
        assert difference(output(model), y) <= MERGE
        merged.append(model.base_model.model.up.base_layer.weight.clone())
        model.unmerge_adapter()
        assert torch.equal(output(model), y) or difference(output(model), y) <= MERGE
        assert all(difference(v, state[k]) <= MERGE for k, v in model.state_dict().items())
    assert difference(merged[0], merged[1]) <= MERGE
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


@operation("merge_and_unload", no=NOT_LINEAR)
def test_merge_and_unload(method):
    for safe in (False, True):
        model = adapted(method)
        y = output(model)
        base = model.merge_and_unload(safe_merge=safe)
        assert type(base) is MLP and not layers_of(base)
        assert base.state_dict().keys() == mlp().state_dict().keys()
        assert difference(output(base), y) <= MERGE


@pytest.mark.parametrize("method", [name for name in VARIANTS if "adapter" not in name])
def test_variants_merge(method):
    model = adapted(method)
    y = output(model)
    assert changes_the_output(model) and difference(output(model.merge_and_unload()), y) <= MERGE


@operation("merges one after the other, and twice the same", no=NOT_LINEAR)
def test_sequential_merges(method):
    model = three(method)
    model.base_model.set_adapter(["default", "second"])
    y = output(model)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["default", "second"])
    assert difference(output(model), y) <= 2 * MERGE
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert difference(output(model), y) <= 2 * MERGE
    assert layers_of(model)[0].merged_adapters == ["default", "second"]
    model.unmerge_adapter()
    assert difference(output(model), y) <= 2 * MERGE and not layers_of(model)[0].merged
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.set_adapter("third")
    assert difference(output(model), output(mlp())) <= 2 * MERGE
    model.base_model.set_adapter(["default", "second"])
    model.merge_adapter()
    with model.disable_adapter():  # unmerges
        assert difference(output(model), output(mlp())) <= 2 * MERGE
    assert difference(output(model), y) <= 2 * MERGE


@operation("a merged adapter cannot be deleted", no=NOT_LINEAR)
def test_delete_merged(method):
    model = three(method)
    model.merge_adapter()
    y = output(model)
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("default")
    assert "default" in model.peft_config and torch.equal(output(model), y)
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("default")


@operation("safe_merge finds NaN and leaves the weights as they were", no=NOT_LINEAR)
def test_safe_merge(method):
    for bad in (float("nan"), float("inf")):
        model = adapted(method)
        layer = model.base_model.model.down
        with torch.no_grad():
            next(p for n, p in layer.named_parameters() if model.prefix in n).view(-1)[0] = bad
        if method not in ADDITIVE:
            model.merge_adapter(safe_merge=True)
        weight = layer.base_layer.weight.clone()
        with pytest.raises(NonFiniteError, match="default"):
            model.merge_adapter(safe_merge=True)
        assert torch.equal(layer.base_layer.weight, weight) and layer.merged_adapters == []


@operation("merge into float16 and bfloat16 on the CPU", no=NOT_LINEAR)
def test_merge_half(method):
    """W + ΔW is summed in float32 and rounded once."""
    for dtype in (torch.float16, torch.bfloat16):
        model = adapted(method, mlp(dtype))
        layer = model.base_model.model.up
        if method not in ADDITIVE:
            model.merge_adapter()
        want = (layer.base_layer.weight.float() + layer.get_delta_weight("default").float()).to(dtype)
        y = output(model, dtype)
        model.merge_adapter(safe_merge=True)
        assert layer.base_layer.weight.dtype == dtype and torch.equal(layer.base_layer.weight, want)
        assert difference(output(model, dtype), y) < 20 * torch.finfo(dtype).eps


@operation("scale_layer, unscale_layer")
def test_scale(method):
    model = adapted(method, alpha=0.5)
    layer, x = model.base_model.model.up, torch.randn(4, 24)
    start = (layer(x) - layer.base_layer(x)).detach()
    layer.scale_layer(4.0)
    assert difference(layer(x) - layer.base_layer(x), 4 * start) < 1e-5
    layer.unscale_layer(2.0)
    assert difference(layer(x) - layer.base_layer(x), 2 * start) < 1e-5
    layer.unscale_layer()
    assert torch.equal(layer(x) - layer.base_layer(x), start)


# ----------------------------------------------------------------------------------------------------------------- export


UNBOUNDED = dict.fromkeys([m for m in ADDITIVE if m not in ("lsr", "kronecker")], "rank .* is not bounded")


def as_lora(config, state):
    base = mlp()
    model = get_peft_model(base, config)
    from peft import set_peft_model_state_dict

    assert not set_peft_model_state_dict(model, state).unexpected_keys
    return model


@operation("to_lora: exact export to plain LoRA", no={**UNBOUNDED, **NOT_LINEAR})
def test_to_lora(method, tmp_path):
    model = adapted(method, alpha=0.5, modules_to_save=["head"])
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].weight.add_(0.5)
    y = output(model)
    config, state = sp.to_lora(model, path=tmp_path)
    assert config.r == 4 and config.peft_type == PeftType.LORA
    assert difference(output(as_lora(config, state)), y) <= MERGE
    assert difference(output(PeftModel.from_pretrained(mlp(), tmp_path)), y) <= MERGE


@operation("convert_to_lora of PEFT (an approximation in general)", no={"adapter": "do not support LoRA conversion"})
def test_convert_to_lora(method):
    model = adapted(method)
    rank = 4 if method in ("lsr", "kronecker") else 24
    config, state = peft.convert_to_lora(model, rank=rank)
    assert difference(output(as_lora(config, state)), output(model)) < 1e-5


NO_SUM = {"adapter": "not linear"}


@operation("add_weighted_adapter: exact sums", no=NO_SUM)
def test_add_weighted_adapter(method):
    model = adapted(method, alpha=0.5)
    torch.manual_seed(2)
    model.add_adapter("second", config_of(method, alpha=2.0))
    model.add_weighted_adapter(["default", "second"], [0.7, -1.3], "sum")
    assert model.active_adapter == "default" and "sum" in model.peft_config
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".sum." in n)
    for layer in layers_of(model):
        want = 0.7 * layer.get_delta_weight("default") - 1.3 * layer.get_delta_weight("second")
        assert difference(layer.get_delta_weight("sum"), want) < 1e-6
    model.set_adapter("sum")
    y = output(model)
    loss(model.train()).backward()
    assert torch.equal(output(model), y)


@operation("a sum, saved and loaded", no=NO_SUM)
def test_sum_is_an_adapter(method, tmp_path):
    """Its configuration says what it is."""
    model = adapted(method, bert(), target_modules=["query", "value"])
    torch.manual_seed(2)
    model.add_adapter("second", config_of(method, ["query", "value"]))
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "sum")
    model.set_adapter("sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(bert(), tmp_path / "sum", is_trainable=True)
    assert torch.equal(output(loaded), output(model))


def test_kronecker_lora_only_where_it_is_smaller():
    model = adapted("kronecker, two terms")
    with pytest.raises(UnsupportedError, match="as a LoRA more numbers than the 36×24"):
        sp.to_lora(model)
    with pytest.raises(ArgumentError, match="'missing', which no layer has"):
        sp.to_lora(model, "missing")


def test_lora_of_layers_with_other_ranks():
    model = adapted("lsr", rank_pattern={"up": 2})
    config, state = sp.to_lora(model)
    assert difference(output(as_lora(config, state)), output(model)) <= MERGE
    assert {config.r, *config.rank_pattern.values()} == {2, 4}


def test_sums_that_are_not_exact():
    for method, text in (
        ("toeplitz, two factors", "sum of products of two Toeplitz"),
        ("symmetric_toeplitz, two factors", "sum of products of two Toeplitz"),
    ):
        model = adapted(method)
        model.add_adapter("second", config_of(method))
        with pytest.raises(UnsupportedError, match=text):
            model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "sum")
        assert "sum" not in model.peft_config
    model = adapted("circulant")
    model.add_adapter("second", config_of("circulant, two factors"))
    model.add_adapter("third", config_of("ldr"))
    model.add_adapter("fourth", config_of("circulant", ["up"]))
    model.add_adapter("fifth", config_of("circulant", modules_to_save=["head"]))
    for adapters, weights, text in (
        (["default", "third"], [1, 1], "circulant and ldr; expected adapters of one structure"),
        (["default", "fourth"], [1, 1], "fourth without an update of down"),
        (["default", "fifth"], [1, 1], "modules_to_save"),
        (["default", "missing"], [1, 1], "missing"),
        (["default"], [1, 1], "2 numbers; expected 1"),
        ([], [], "expected a list"),
    ):
        with pytest.raises(ArgumentError, match=text):
            model.add_weighted_adapter(adapters, weights, "sum")
    with pytest.raises(ArgumentError, match="which exists"):
        model.add_weighted_adapter(["default"], [1.0], "second")
    with pytest.raises(ArgumentError, match="'svd'; expected 'exact'"):
        model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="svd")
    model.add_weighted_adapter(["default", "second"], [1.0, 2.0], "sum")  # one and two factors are both circulants
    layer = layers_of(model)[0]
    want = layer.get_delta_weight("default") + 2 * layer.get_delta_weight("second")
    assert difference(layer.get_delta_weight("sum"), want) < 1e-6


@pytest.mark.parametrize(
    ("ranks", "fits"), [((4, 4), True), ((2, 4), False), ((8, 8), True), ((1, 1), True), ((4, 4, 4), False)]
)
def test_sums_of_lsr(ranks, fits):
    model = adapted("lsr", r=ranks[0])
    names = ["default"]
    for k, r in enumerate(ranks[1:]):
        names.append(f"a{k}")
        model.add_adapter(names[-1], config_of("lsr", r=r, rank_pattern={"down": r}))
    if not fits:
        with pytest.raises(UnsupportedError, match="do not stand side by side"):
            model.add_weighted_adapter(names, [1.0] * len(names), "sum")
        return
    model.add_weighted_adapter(names, [1.0] * len(names), "sum")
    for layer in layers_of(model):
        assert difference(layer.get_delta_weight("sum"), sum(layer.get_delta_weight(n) for n in names)) < 1e-6
