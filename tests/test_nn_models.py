"""sepmat.nn in whole models: adapted layers, merging, bottlenecks, the models of transformers."""

import math
import re

import pytest
from nn_cases import ALL, STRUCTURES, gaussian

import sepmat as sm

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from sepmat import nn as snn  # noqa: E402

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
    with pytest.raises(sm.DTypeError, match="base: Tanh;"):
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
