"""sepmat.peft: everything a user of PEFT does, for every structure, on rectangular layers. Training, saving, loading.

Each test under `operation` is one row of the table, once for each method; where a method cannot do it, the same body must
raise an error that says why. `python tests/peft_models.py` prints the table. Several adapters, merging and exports are in
test_peft_adapters.py, targets, kinds of layers and precision in test_peft_layers.py, configurations in test_peft_configs.py.

To run these tests with another version of PEFT:
    python -m pip install --no-deps --target other peft==0.20.0
    PYTHONPATH=other python -m pytest tests/test_peft*.py
"""

import copy
import gc
import io
import json
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")

from peft_models import (  # noqa: E402  isort: skip  (it hides a torchvision that does not load)
    FILTERS,
    METHODS,
    MLP,
    VARIANTS,
    adapted,
    bert,
    config_of,
    difference,
    inputs,
    layers_of,
    loss,
    mlp,
    operation,
    output,
    saved_again,
    three,
)
import peft  # noqa: E402
from packaging.version import Version  # noqa: E402
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = FILTERS
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
