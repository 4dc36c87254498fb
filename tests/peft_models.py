"""What the tests of sepmat.peft share: tiny models made of configurations, the methods, and the table of what works.

`operation` makes one test for each method out of one function and notes it in TABLE, module by module.
`python tests/peft_models.py` prints the table; the page on fine-tuning shows it, and a test holds the two together.
"""

import functools
import importlib
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sepmat.peft import LSRConfig, StructuredAdapterConfig, SURMConfig

METHODS = {
    "lsr": functools.partial(LSRConfig, r=4, terms=2),
    "circulant": functools.partial(SURMConfig, structure="circulant"),
    "skew_circulant": functools.partial(SURMConfig, structure="skew_circulant"),
    "toeplitz": functools.partial(SURMConfig, structure="toeplitz"),
    "symmetric_toeplitz": functools.partial(SURMConfig, structure="symmetric_toeplitz"),
    "kronecker": functools.partial(SURMConfig, structure="kronecker", r=2),
    "ldr": functools.partial(SURMConfig, structure="ldr", r=2),
    "adapter": functools.partial(StructuredAdapterConfig, structure="toeplitz", bottleneck=8),
}
VARIANTS = {
    "circulant, two factors": functools.partial(SURMConfig, structure="circulant", factors=2),
    "skew_circulant, two factors": functools.partial(SURMConfig, structure="skew_circulant", factors=2),
    "toeplitz, two factors": functools.partial(SURMConfig, structure="toeplitz", factors=2),
    "symmetric_toeplitz, two factors": functools.partial(SURMConfig, structure="symmetric_toeplitz", factors=2),
    "kronecker, two terms": functools.partial(SURMConfig, structure="kronecker", terms=2),
    "adapter, one square map": functools.partial(StructuredAdapterConfig, structure="circulant"),
    "adapter, dense": functools.partial(StructuredAdapterConfig, structure="dense", bottleneck=4, activation="relu"),
    "adapter, kronecker": functools.partial(StructuredAdapterConfig, structure="kronecker", bottleneck=6, terms=2),
}
ADDITIVE = [name for name in METHODS if name != "adapter"]
NOT_LINEAR = {"adapter": "not linear"}
MERGE = 2e-6  # relative, float32
FILTERS = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers and PEFT among themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),  # of a base model that came from no file
]
TABLE: dict[str, dict[str, dict[str, bool]]] = {"test_peft": {}, "test_peft_adapters": {}, "test_peft_layers": {}}


def operation(title, no=None, slow=None, unsupported=Exception):
    """A test for each method. no: the methods for which the same body must raise `unsupported` with a text that matches.

    slow: why the test takes so long, if it does.
    """
    no = no or {}

    def wrap(test):
        TABLE[test.__module__][title] = {method: method not in no for method in METHODS}

        @functools.wraps(test)
        def run(method, **fixtures):
            if method not in no:
                return test(method, **fixtures)
            with pytest.raises(unsupported, match=no[method]):
                test(method, **fixtures)

        marked = pytest.mark.parametrize("method", METHODS)(run)
        return pytest.mark.slow(marked) if slow else marked

    return wrap


def table():
    """TABLE as Markdown: ✓ works, – raises an error that says why."""
    rows = [["operation", *METHODS], ["---", *["---"] * len(METHODS)]]
    for module, operations in TABLE.items():
        importlib.import_module(module)  # notes its operations
        rows += [[title, *("✓" if cells[method] else "–" for method in METHODS)] for title, cells in operations.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


# models: everything rectangular somewhere, a head that is not adapted --------------------------------------------------


class MLP(nn.Module):
    """24 -> 36 -> 24 -> 4."""

    def __init__(self, n=24, m=36):
        super().__init__()
        self.up = nn.Linear(n, m)
        self.down = nn.Linear(m, n)
        self.head = nn.Linear(n, 4)

    def forward(self, x):
        return self.head(self.down(torch.relu(self.up(x))))


def mlp(dtype=torch.float32, **sizes):
    torch.manual_seed(0)
    return MLP(**sizes).to(dtype).eval()


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 40}


def bert():
    torch.manual_seed(0)
    config = BertConfig(**SIZES, max_position_embeddings=16, num_labels=3)
    return BertForSequenceClassification(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=1)
    return GPT2LMHeadModel(config).eval()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, max_position_embeddings=16)).eval()


MLP_TARGETS = ["up", "down"]


def adapted(method, model=None, seed=1, target_modules=MLP_TARGETS, init_weights=False, adapter_name="default", **more):
    """A model (the MLP by default) with an adapter that changes its output."""
    config = (METHODS | VARIANTS)[method](target_modules=target_modules, init_weights=init_weights, **more)
    torch.manual_seed(seed)
    return get_peft_model(mlp() if model is None else model, config, adapter_name=adapter_name)


def config_of(method, target_modules=MLP_TARGETS, init_weights=False, **more):
    return (METHODS | VARIANTS)[method](target_modules=target_modules, init_weights=init_weights, **more)


def another(method):
    """Another structure with the same type in PEFT."""
    return {
        "lsr": LSRConfig(r=2, terms=3, target_modules=MLP_TARGETS, init_weights=False),
        "adapter": config_of("adapter, kronecker"),
    }.get(method, config_of("ldr" if method != "ldr" else "toeplitz"))


def three(method):
    """Adapters "default", "second" of another structure of the same type, and "third" that does nothing yet."""
    model = adapted(method)
    torch.manual_seed(2)
    model.add_adapter("second", another(method))
    model.add_adapter("third", config_of(method, init_weights=True))
    return model


def saved_again(model, folder, base, **how):
    """Trainable again: where no gradient is asked for, products may take another exact route."""
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(base, folder, is_trainable=True, **how)


def inputs(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    if hasattr(getattr(model, "config", None), "vocab_size"):
        return {"input_ids": torch.randint(2, 40, (3, 9), generator=generator)}
    return {"x": torch.randn(4, model.up.in_features, generator=generator).to(dtype)}


@torch.no_grad()
def output(model, dtype=torch.float32):
    y = model.eval()(**inputs(model, dtype))
    return getattr(y, "logits", y)


def loss(model):
    y = model(**inputs(model))
    y = getattr(y, "logits", y)
    return nn.functional.cross_entropy(y.flatten(0, -2), torch.arange(y[..., 0].numel()) % y.shape[-1])


def difference(y, z):
    """The largest difference relative to the largest entry."""
    y, z = y.detach().double(), z.detach().double()
    return float((y - z).abs().max() / z.abs().max())


def layers_of(model):
    from sepmat.peft.layer import StructuredLayer

    return [m for m in model.modules() if isinstance(m, StructuredLayer)]


if __name__ == "__main__":
    sys.modules["peft_models"] = sys.modules["__main__"]
    print(table())
