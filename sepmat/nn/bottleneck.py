"""Bottleneck adapters with structured maps, at Houlsby's and at Pfeiffer's positions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check
from ..errors import ArgumentError
from .adapted import features, find_targets, freeze, linear_layers, matches, modules_named, nothing_matches, replace
from .contract import Parametrisation
from .update import StructuredLinear, StructuredUpdate
from .weights import guarded

ACTIVATIONS = {
    "gelu": nn.functional.gelu,
    "identity": lambda x: x,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}

# the last linear layers of the attention and of the feed-forward part, by the names of transformers
ATTENTION = (
    "attention.output.dense",
    "attention.o_proj",
    "attn.c_proj",
    "self_attn.o_proj",
    "self_attn.out_proj",
    "encoder_attn.out_proj",
    "attention.out_lin",
    "SelfAttention.o",
    "EncDecAttention.o",
)
FEED_FORWARD = ("output.dense", "mlp.c_proj", "mlp.down_proj", "fc2", "ffn.lin2", "DenseReluDense.wo")


class Bottleneck(nn.Module):
    """h + scale · Up(act(Down h)), the identity at the start; with one square map h + scale · (act(M h) + b).

    Houlsby et al. (2019): Down: d -> bottleneck with a bias, Up: bottleneck -> d, zero at the start, with a zero bias. Both
    are of the structure, with its options. bottleneck=None: the form of SURM (Sehanobish et al. 2024): one d×d matrix M,
    zero at the start, the activation after it and a zero bias. Its gradient at the start is that of the activation at
    0, so one that is flat there (relu) raises ArgumentError: it would never train.
    activation: a name of ACTIVATIONS. dropout: of h on its way into Down (M). Up and M, not the rest, are zero.

    >>> import torch
    >>> from sepmat.nn import Bottleneck
    >>> adapter = Bottleneck(768, "circulant", factors=2)
    >>> sum(p.numel() for p in adapter.parameters()), sum(p.numel() for p in Bottleneck(768, "dense", 48).parameters())
    (2304, 74544)
    """

    nonlinear = True
    down: StructuredLinear | None

    def __init__(
        self,
        d: int,
        structure: str | Parametrisation = "circulant",
        bottleneck: int | None = None,
        activation: str = "gelu",
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        where = "Bottleneck"
        self.activation = _check.as_choice(activation, list(ACTIVATIONS), where, "activation")
        if bottleneck is None and activation == "relu":
            expected = "one that is not flat at 0, where a square map starts"
            raise ArgumentError(where, "activation", "'relu'", expected, "Use 'gelu', or a bottleneck")
        self.d, self.scale = _check.as_integer(d, where, "d", 1), float(scale)
        k = self.d if bottleneck is None else _check.as_integer(bottleneck, where, "bottleneck", 1)
        place: dict[str, Any] = {"device": device, "dtype": dtype, "generator": generator}
        self.down = StructuredLinear(self.d, k, structure, **place, **options) if bottleneck is not None else None
        self.up = StructuredUpdate(k, self.d, structure, **place, **options)
        self.bias = nn.Parameter(torch.zeros(self.d, device=device, dtype=dtype))
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """The identity again."""
        if self.down is not None:
            self.down.reset_parameters(generator)
        self.up.reset_parameters(generator)
        nn.init.zeros_(self.bias)

    def forward(self, h: Tensor) -> Tensor:
        act, z = ACTIVATIONS[self.activation], self.dropout(h)
        z = act(self.up(z)) if self.down is None else self.up(act(self.down(z)))
        z = z + self.bias.to(z.dtype)
        return h + (z if self.scale == 1.0 else self.scale * z).to(h.dtype)

    def extra_repr(self) -> str:
        return f"{self.d}, activation={self.activation!r}, scale={self.scale:g}"


class WithBottleneck(nn.Module):
    """adapter(base(x))."""

    def __init__(self, base: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    @property
    def weight(self) -> Tensor:
        """The weight of the base, to be asked for its dtype, device and sizes, not to be used."""
        return guarded(self.base.weight, "add_bottlenecks")

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.adapter(self.base(x))


def positions(model: nn.Module, kind: str = "houlsby") -> list[str]:
    """The names of the linear layers after which adapters stand.

    "houlsby": after the attention and after the feed-forward part of each block; "pfeiffer": after the latter only. Both
    come before the dropout, the residual sum and the normalisation. The names are those of the models of transformers
    (BERT, RoBERTa, DeBERTa, DistilBERT, ViT, DINOv2, CLIP, GPT-2, OPT, Llama, Qwen, BART, T5). Raises ArgumentError where none is
    found, listing the linear layers.

    >>> import torch
    >>> from sepmat.nn import positions
    >>> mlp = torch.nn.ModuleDict({"up_proj": torch.nn.Linear(4, 8), "down_proj": torch.nn.Linear(8, 4)})
    >>> positions(torch.nn.ModuleDict({"mlp": mlp}), "pfeiffer")
    ['mlp.down_proj']
    """
    _check.as_choice(kind, ["houlsby", "pfeiffer"], "positions", "kind")
    names = [name for name, _ in linear_layers(model)]
    attention = {name for name in names if matches(name, ATTENTION)}
    found = [name for name in names if name not in attention and matches(name, FEED_FORWARD)]
    if not found:
        nothing_matches("positions", "model", FEED_FORWARD, names)
    return [name for name in names if name in attention or name in found] if kind == "houlsby" else found


def add_bottlenecks(
    model: nn.Module,
    structure: str | Parametrisation = "circulant",
    bottleneck: int | None = None,
    position: str | Sequence[str] = "houlsby",
    *,
    trainable: str | Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Freezes a model, in place, and puts a Bottleneck after the layers of a position; returns the model.

    position: "houlsby", "pfeiffer", or the names of linear layers as in `adapt`. trainable: as in `adapt`. The rest
    is as for Bottleneck; d is the output size of each layer.

    >>> import torch
    >>> from sepmat.nn import add_bottlenecks
    >>> model = add_bottlenecks(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)), position=["0"])
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.adapter.bias', '0.adapter.up.c']
    """
    names = positions(model, position) if position in ("houlsby", "pfeiffer") else position
    heads = modules_named(model, trainable)
    targets = find_targets(model, names, None, skip=heads)
    freeze(model, heads)
    for name, base in targets:
        weight = base.weight
        place = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32)}
        adapter = Bottleneck(features(base)[1], structure, bottleneck, **{**place, **options})
        model = replace(model, name, WithBottleneck(base, adapter))
    return model
