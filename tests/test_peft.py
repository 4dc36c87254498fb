"""sepmat.peft: everything a user of PEFT does, for every structure, on rectangular layers.

Each test under `operation` is one row of the table, once for each method; where a method cannot do it, the same body must
raise an error that says why. `python tests/peft_models.py` prints the table.

To run these tests with another version of PEFT:
    python -m pip install --no-deps --target other peft==0.20.0
    PYTHONPATH=other python -m pytest tests/test_peft.py
"""

import copy
import gc
import io
import json
import pathlib
import pickle
import re
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")

from peft_models import (  # noqa: E402  isort: skip  (it hides a torchvision that does not load)
    ADDITIVE,
    METHODS,
    MLP,
    MLP_TARGETS,
    NOT_LINEAR,
    TABLE,
    VARIANTS,
    adapted,
    another,
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
    table,
)
import peft  # noqa: E402
from packaging.version import Version  # noqa: E402
from peft import PeftConfig, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict  # noqa: E402
from torch import nn  # noqa: E402

import sepmat.peft as sp  # noqa: E402
from sepmat.errors import ArgumentError, BackendError, DTypeError, NonFiniteError, UnsupportedError  # noqa: E402
from sepmat.peft.register import add_peft_type, register  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers and PEFT among themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),  # of a base model that came from no file
]

MERGE = 2e-6  # relative, float32
both = pytest.mark.parametrize("method", [*METHODS, *VARIANTS])


# ----------------------------------------------------------------------------------------------------------------- start


@both
def test_starts_as_the_base_model_and_with_a_gradient(method):
    """ΔW = 0 by exactly one factor: the output is that of the base, bit by bit, and the zero factor has a gradient."""
    base, model = output(mlp()), adapted(method, init_weights=True)
    assert torch.equal(output(model), base)
    loss(model).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@operation("get_peft_model, training")
def test_trains(method):
    """The loss falls, the frozen weights keep their bits, and only adapters are trainable."""
    model = adapted(method, init_weights=True)
    before = {k: v.clone() for k, v in model.state_dict().items() if "base_layer" in k or "head" in k}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert all(model.prefix in n for n, p in model.named_parameters() if p.requires_grad)
    optimizer, start = torch.optim.Adam(trainable, lr=2e-2), loss(model).item()
    for _ in range(25):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model).item() < 0.8 * start
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@operation("a large learning rate (SGD 0.5) stays finite")
def test_large_learning_rate(method):
    """Of a model with random adapters: products of up to four factors must not start so large that they explode."""
    model = adapted(method)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert torch.isfinite(output(model)).all()


@pytest.fixture
def little_garbage():
    """The Trainer collects garbage often, and the modules that these tests import are many."""
    gc.freeze()
    yield
    gc.unfreeze()


@operation("transformers' Trainer, checkpoint and resume")
def test_trainer(method, tmp_path, little_garbage):
    from transformers import Trainer, TrainingArguments

    model = get_peft_model(bert(), METHODS[method](task_type="SEQ_CLS"))
    examples = [{"input_ids": torch.arange(2, 8) + i, "labels": i % 3} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        save_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples)
    trainer.train()
    trained = output(model)
    loaded = PeftModel.from_pretrained(bert(), tmp_path / "checkpoint-2", is_trainable=True)
    assert torch.equal(output(loaded), trained)
    arguments.max_steps = 3
    trainer = Trainer(model=model, args=arguments, train_dataset=examples)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 3


@operation("gradient checkpointing")
def test_gradient_checkpointing(method):
    """The same gradients, bit by bit."""
    gradients = []
    for checkpointing in (False, True):
        model = adapted(method, bert(), target_modules=None)
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        loss(model).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None})
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(g, gradients[1][n]) for n, g in gradients[0].items())


# ------------------------------------------------------------------------------------------------------------ save, load


def saved_again(model, folder, base, **how):
    """Trainable again: where no gradient is asked for, products may take another exact route."""
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(base, folder, is_trainable=True, **how)


@both
def test_variants_save_and_load(method, tmp_path):
    model = adapted(method)
    assert torch.equal(output(saved_again(model, tmp_path, mlp())), output(model))


@operation("save_pretrained, from_pretrained (safetensors, bitwise)")
def test_save_and_load(method, tmp_path):
    """The file, the configuration and the output; only the adapter is in the file, without its name."""
    from safetensors.torch import load_file

    model = adapted(method, alpha=0.75)
    loaded = saved_again(model, tmp_path, mlp())
    assert torch.equal(output(loaded), output(model))
    want, got = model.state_dict(), loaded.state_dict()
    assert want.keys() == got.keys() and all(torch.equal(got[k], v) for k, v in want.items())
    keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert keys and all(model.prefix in key and ".default" not in key for key in keys)
    config = PeftConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.peft_config["default"]) and config.inference_mode and config.auto_mapping
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == model.prefix[:-1].upper()
    config.inference_mode, config.auto_mapping = False, None
    assert config.to_dict() == model.peft_config["default"].to_dict()


@operation("load under another adapter name, even one that is part of the keys")
def test_other_names(method, tmp_path):
    model = adapted(method)
    model.save_pretrained(tmp_path)
    for name in ("other", model.prefix[:-1], "c", "G", "up", "base_layer", "base_model", "1"):
        loaded = PeftModel.from_pretrained(mlp(), tmp_path, adapter_name=name, is_trainable=True)
        assert torch.equal(output(loaded), output(model)), name
        loaded.save_pretrained(tmp_path / "again")
        again = PeftModel.from_pretrained(mlp(), tmp_path / "again" / name, is_trainable=True)
        assert torch.equal(output(again), output(model)), name


@operation("low_cpu_mem_usage (meta device)")
def test_low_cpu_mem_usage(method, tmp_path):
    model = adapted(method)
    loaded = saved_again(model, tmp_path, mlp(), low_cpu_mem_usage=True)
    assert all(p.device.type == "cpu" for p in loaded.parameters())
    assert torch.equal(output(loaded), output(model))
    empty = get_peft_model(mlp(), config_of(method), low_cpu_mem_usage=True)
    assert {p.device.type for n, p in empty.named_parameters() if empty.prefix in n} == {"meta"}


@operation("is_trainable after loading")
def test_is_trainable(method, tmp_path):
    adapted(method).save_pretrained(tmp_path)
    for trainable in (False, True):
        loaded = PeftModel.from_pretrained(mlp(), tmp_path, is_trainable=trainable)
        assert any(p.requires_grad for p in loaded.parameters()) == trainable
        assert all(loaded.prefix in n for n, p in loaded.named_parameters() if p.requires_grad)
        assert loaded.peft_config["default"].inference_mode == (not trainable)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@operation("transformers' own load_adapter, add_adapter, set_adapter, delete_adapter")
def test_native_transformers(method, tmp_path):
    """No PeftModel: transformers derives the prefix of the keys from the type."""
    model, base = adapted(method, bert(), target_modules=None), output(bert())
    model.save_pretrained(tmp_path)
    native = bert()
    native.load_adapter(str(tmp_path), adapter_name="first")
    assert difference(output(native), output(model)) < 1e-6 < difference(output(model), base)
    native.set_adapter("first")  # trainable again: the same route of the products
    assert torch.equal(output(native), output(model))
    native.add_adapter(config_of(method, None, init_weights=True), adapter_name="second")
    native.set_adapter("second")
    assert torch.equal(output(native), base)
    native.set_adapter("first")
    assert torch.equal(output(native), output(model))
    native.disable_adapters()
    assert torch.equal(output(native), base)
    native.enable_adapters()
    state = native.get_adapter_state_dict("first")
    assert state and all(
        torch.equal(v, get_peft_model_state_dict(model)["base_model.model." + k]) for k, v in state.items()
    )
    native.save_pretrained(tmp_path / "native")
    again = bert()
    again.load_adapter(str(tmp_path / "native"))
    again.set_adapter("default")
    assert torch.equal(output(again), output(model))
    native.delete_adapter("second")
    native.delete_adapter("first")
    assert not hasattr(native, "peft_config") and all(not m.alpha for m in layers_of(native))


@operation("inject_adapter_in_model, get and set_peft_model_state_dict")
def test_inject(method):
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    config, model = config_of(method), adapted(method)
    for from_state in (False, True):
        state = get_peft_model_state_dict(model)
        injected = {k.removeprefix("base_model.model."): v for k, v in state.items()}
        plain = inject_adapter_in_model(config, mlp(), adapter_name="mine", state_dict=injected if from_state else None)
        assert isinstance(plain, MLP)
        result = set_peft_model_state_dict(plain, injected, adapter_name="mine")
        assert not result.unexpected_keys
        assert torch.equal(output(plain), output(model))
        assert get_peft_model_state_dict(plain, adapter_name="mine").keys() == injected.keys()


@operation("copy, pickle, torch.save")
def test_copies(method):
    model = adapted(method)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(output(other), output(model))
        with torch.no_grad():
            for p in other.parameters():
                p.add_(1.0)
        assert not torch.equal(output(other), output(model))


@pytest.fixture(scope="module")
def one_process():
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@operation("FSDP: state dict with and without biases")
@pytest.mark.filterwarnings("ignore")
def test_fsdp(method, one_process):
    """What is saved of a wrapped model is what a plain one loads."""
    from peft import set_peft_model_state_dict
    from torch.distributed.fsdp import FullyShardedDataParallel

    biases = ("none", "all", f"{METHODS[method]().method}_only")
    for bias in biases if Version(peft.__version__) >= Version("0.21") else biases[:1]:
        model = adapted(method, bias=bias)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.25)
        y = output(model)
        wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        with torch.no_grad():
            assert difference(wrapped(**inputs(mlp())), y) < 1e-6
        state = {k: v.clone() for k, v in get_peft_model_state_dict(wrapped).items()}
        plain = adapted(method, seed=9, bias=bias)
        assert not set_peft_model_state_dict(plain, state).unexpected_keys
        assert torch.equal(output(plain), y), bias


# ------------------------------------------------------------------------------------------------------ several adapters


def three(method):
    """Adapters "default", "second" of another structure of the same type, and "third" that does nothing yet."""
    model = adapted(method)
    torch.manual_seed(2)
    model.add_adapter("second", another(method))
    model.add_adapter("third", config_of(method, init_weights=True))
    return model


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


# --------------------------------------------------------------------------------------------- what PEFT has for LoRA only


@operation("another adapter for each sample (adapter_names)", no=dict.fromkeys(METHODS, "adapter_names"))
def test_adapter_names(method):
    model = three(method)
    model(**inputs(model), adapter_names=["default", "second", "default", "third"])


@operation("hotswap_adapter", no=dict.fromkeys(METHODS, "(?i)only supports lora|supports.*LORA"))
def test_hotswap(method, tmp_path):
    from peft.utils.hotswap import hotswap_adapter

    model = adapted(method)
    model.save_pretrained(tmp_path)
    hotswap_adapter(model, str(tmp_path), adapter_name="default")


@operation("get_peft_model(mixed=True)", no=dict.fromkeys(METHODS, "not supported|compatible"))
def test_mixed(method):
    get_peft_model(mlp(), config_of(method), mixed=True)


def test_another_type_beside():
    """PEFT has one type a model; the error is its own."""
    model = adapted("lsr")
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("second", config_of("toeplitz"))


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


# ------------------------------------------------------------------------------------------- registration, configurations


def test_members_of_the_enumeration():
    for name in ("LSR", "SURM", "STRUCTURED_ADAPTER"):
        member = PeftType[name]
        assert member is PeftType(name) is getattr(PeftType, name) and member == name and member.value == name
        assert isinstance(member, PeftType) and member in PeftType and list(PeftType).count(member) == 1
        assert copy.deepcopy(member) is member and pickle.loads(pickle.dumps(member)) is member
        assert json.loads(json.dumps(member)) == name and repr(member) == f"<PeftType.{name}: '{name}'>"
        assert add_peft_type(name) is member and len(set(PeftType)) == len(PeftType)
        prefix = peft.PEFT_TYPE_TO_PREFIX_MAPPING[member] if hasattr(peft, "PEFT_TYPE_TO_PREFIX_MAPPING") else None
        assert prefix in (None, name.lower() + "_")
    with pytest.raises(AttributeError):
        PeftType.LSR = 1


def test_registration_twice_and_a_taken_name():
    register(sp.SURMConfig, sp.SURMModel)

    class Other:
        method = "surm"

    with pytest.raises(BackendError, match=r"SURM is sepmat\.peft\.config\.SURMConfig already"):
        register(Other, sp.SURMModel)


def test_without_peft():
    """An import without PEFT says what to install."""
    code = "import sys; sys.modules['peft'] = None\nimport sepmat\ntry:\n    import sepmat.peft\nexcept Exception as e:\n    print(type(e).__name__, e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("BackendError sepmat.peft: PEFT: not installed"), run.stderr


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sp.SURMConfig(structure="hankel"), "structure: 'hankel'; expected one of circulant"),
        (lambda: sp.SURMConfig(structure="circulant", r=2), "r: 2; expected nothing: 'circulant' has factors"),
        (lambda: sp.SURMConfig(structure="ldr", factors=2), "factors: 2; expected nothing: 'ldr' has r"),
        (lambda: sp.SURMConfig(structure="toeplitz", rank_pattern={"q": 1}), "rank_pattern: .*'toeplitz' has factors"),
        (lambda: sp.StructuredAdapterConfig(structure="dense", r=2), "'dense' has no options"),
        (lambda: sp.StructuredAdapterConfig(position="lora"), "position: 'lora'; expected 'houlsby' or 'pfeiffer'"),
        (lambda: sp.LSRConfig(alpha=float("nan")), "alpha: nan; expected a finite number"),
        (lambda: sp.LSRConfig(alpha_pattern={"q": "2"}), "alpha: '2'; expected a finite number"),
        (lambda: sp.LSRConfig(bias="surm_only"), "bias: 'surm_only'; expected one of none, all, lsr_only"),
        (lambda: sp.LSRConfig(target_modules=".*q", layers_to_transform=0), "layers_to_transform"),
        (lambda: sp.LSRConfig(target_modules=["q"], layers_pattern="h"), "layers_pattern: given alone"),
    ],
)
def test_configurations_that_make_no_sense(make, text):
    with pytest.raises(ArgumentError, match=text):
        make()


def test_unknown_task_type():
    with pytest.raises(ValueError, match="Invalid task type"):
        sp.LSRConfig(task_type="nothing")


def test_shapes_survive_json(tmp_path):
    config = sp.LSRConfig(shapes=((6, 8), (6, 3)), r=3, target_modules=["up"], init_weights=False)
    model = get_peft_model(mlp(), config)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(mlp(), tmp_path, is_trainable=True)
    assert torch.equal(output(loaded), output(model))


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
        ("0", DTypeError, "a Conv2d; expected torch.nn.Linear"),
        ("1", DTypeError, "an? Embedding"),
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


def test_counts_of_the_papers():
    """3,584 for LSR, 2·768 stored for circulants with two factors as for Toeplitz pairs' circulant part, 12,288 for LoRA."""
    for config, count in (
        (sp.LSRConfig(r=4, terms=16, target_modules=["0"]), 3584),
        (sp.LSRConfig(r=16, terms=8, target_modules=["0"]), 3584),
        (sp.SURMConfig(structure="circulant", factors=2, target_modules=["0"]), 1536),
        (sp.SURMConfig(structure="symmetric_toeplitz", factors=2, target_modules=["0"]), 1536),
        (sp.SURMConfig(structure="kronecker", r=8, target_modules=["0"]), 1536),
        (sp.StructuredAdapterConfig(structure="circulant", factors=2, target_modules=["0"]), 1536 + 768),
    ):
        model = get_peft_model(nn.Sequential(nn.Linear(768, 768)), config)
        assert model.get_nb_trainable_parameters()[0] == count


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


def test_the_table_in_the_page():
    """docs/fine-tuning.md shows the table that `python tests/peft_models.py` prints."""
    assert len(TABLE) >= 35 and all(set(cells) == set(METHODS) for cells in TABLE.values())
    page = pathlib.Path(__file__).parents[1] / "docs" / "fine-tuning.md"
    assert table() in page.read_text(), "run python tests/peft_models.py and paste what it prints"


def test_versions():
    assert Version(peft.__version__) >= Version("0.20.0")
