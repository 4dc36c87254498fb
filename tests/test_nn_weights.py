"""Modules that read the weight of a layer in place of calling it never pass an update by: they get a right result or an error."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from sepmat.errors import UnsupportedError  # noqa: E402
from sepmat.nn import StructuredLinear, adapt, add_bottlenecks, merge_and_unload  # noqa: E402

FEED_FORWARD = ["linear1", "linear2"]


def surm(model):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    from sepmat.peft import SURMConfig

    return peft.get_peft_model(model, SURMConfig(structure="toeplitz", target_modules=FEED_FORWARD))


def structured(model):
    for block in model.layers:
        block.linear1, block.linear2 = StructuredLinear(16, 32, "toeplitz"), StructuredLinear(32, 16, "toeplitz")
    return model.requires_grad_(False)


MAKERS = {
    "adapt": lambda model: adapt(model, FEED_FORWARD, "toeplitz"),
    "adapt with a bias": lambda model: adapt(model, FEED_FORWARD, "toeplitz", bias=True),
    "add_bottlenecks": lambda model: add_bottlenecks(model, position=FEED_FORWARD),
    "StructuredLinear": structured,
    "peft": surm,
}


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.data.normal_(0, 0.3, generator=generator)
    return model


def encoder():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(block, 2)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_operator_of_torchs_encoder(name, masked):
    """In eval mode without gradients it multiplies by what `weight` gives."""
    model = randomised(MAKERS[name](encoder()))
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0] * 5]).bool() if masked else None
    wanted = model.train()(x, src_key_padding_mask=mask)
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=mask)
    kept = slice(None) if mask is None else ~mask
    assert torch.allclose(found[kept], wanted[kept], atol=1e-5)


def test_the_fused_operator_comes_back_after_a_merge():
    model = randomised(MAKERS["adapt"](encoder())).eval()
    x = torch.randn(3, 5, 16)
    with torch.no_grad():
        wanted = model(x)
        merged = merge_and_unload(model)
        assert torch.allclose(merged(x), wanted, atol=1e-5)
    assert type(merged.layers[0].linear1.weight) is nn.Parameter


class Reader(nn.Module):
    """Asks a layer for what it needs to know, or multiplies by its weight, as Mamba does."""

    def __init__(self, uses=False):
        super().__init__()
        self.lin, self.uses = nn.Linear(8, 6), uses

    def forward(self, x):
        w = self.lin.weight
        assert isinstance(w, torch.Tensor) and w.shape == (6, 8) and w.size(0) == 6 and w.numel() == 48
        assert w.device.type == "cpu" and w.is_floating_point() and self.lin.bias.shape == (6,)
        return x.to(w.dtype) @ w.T if self.uses else self.lin(x.to(w.dtype))


def test_what_is_asked_is_answered_and_what_is_used_is_an_error():
    x = torch.ones(2, 8, dtype=torch.float64)
    for make in (lambda m: adapt(m, ["lin"], "circulant"), lambda m: add_bottlenecks(m, position=["lin"])):
        assert make(Reader())(x).shape == (2, 6)
        with pytest.raises(UnsupportedError, match="weight: used by"):
            make(Reader(uses=True))(x)
    reader = Reader()
    reader.lin = StructuredLinear(8, 6, "ldr")
    assert reader(x).shape == (2, 6)
    with pytest.raises(UnsupportedError, match=r"StructuredLinear: weight: used by .*to_dense\(\)"):
        nn.init.xavier_uniform_(reader.lin.weight)


def test_peft_layers_answer_and_refuse_too():
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    from sepmat.peft import LSRConfig

    def make(uses):
        return randomised(peft.get_peft_model(Reader(uses), LSRConfig(r=2, terms=1, target_modules=["lin"])))

    x = torch.ones(2, 8)
    assert make(False)(x).shape == (2, 6)
    model = make(True)
    with pytest.raises(UnsupportedError, match="LSRLinear: weight: used by"):
        model(x)
    with model.disable_adapter():  # then the weight is all there is
        lin = model.base_model.model.lin.base_layer
        assert torch.allclose(model(x), x @ lin.weight.T)
    model.merge_adapter()
    assert torch.allclose(model(x), x @ lin.weight.T)


def test_an_adapter_on_an_adapter_of_another_method_is_an_error():
    """A merge writes to the one weight there is and takes the outer layer away, and the inner one with it."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    from sepmat.peft import LSRConfig, SURMConfig

    inner = peft.get_peft_model(Reader(), SURMConfig(target_modules=["lin"]))
    config = LSRConfig(r=2, terms=1, target_modules=["lin"])
    with pytest.warns(UserWarning), pytest.raises(UnsupportedError, match="has an adapter already, a SURMLinear"):
        peft.get_peft_model(inner.get_base_model(), config)
    assert peft.get_peft_model(copy.deepcopy(inner).unload(), config)(torch.ones(2, 8)).shape == (2, 6)


def test_t5_asks_for_the_dtype_of_wo():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
    ids = torch.arange(8)[None]
    for make in (lambda m: adapt(m, ["wo", "q"], "circulant"), add_bottlenecks):
        torch.manual_seed(0)
        base = transformers.T5ForConditionalGeneration(config).eval()
        plain = base(input_ids=ids, decoder_input_ids=ids).logits
        model = make(base)
        assert torch.allclose(
            model(input_ids=ids, decoder_input_ids=ids).logits, plain, atol=1e-5
        )  # ΔW = 0 at the start
        changed = randomised(model)(input_ids=ids, decoder_input_ids=ids).logits
        assert not torch.allclose(changed, plain, atol=1e-3)
