"""Structured updates on the linear layers of a model: AdaptedLinear, adapt, merge_and_unload."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, DTypeError, NonFiniteError, UnsupportedError
from .contract import Parametrisation
from .update import StructuredUpdate
from .weights import guarded

ALL_LINEAR = "all-linear"


def is_linear(module: nn.Module) -> bool:
    """Whether a module computes x Wᵀ + b and nobody reads its weight directly: nn.Linear, Conv1D of transformers.

    The output projection of nn.MultiheadAttention is one whose weight the attention reads itself.
    """
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module.weight, "ndim", 0) == 2


def features(linear: nn.Module) -> tuple[int, int]:
    """(in, out)."""
    if _is_conv1d(linear):
        n, m = linear.weight.shape
        return (int(n), int(m))
    return (linear.in_features, linear.out_features)


class AdaptedLinear(nn.Module):
    """y = base(x) + update(x): a frozen linear layer with a trainable update. Built by `adapt`, or by hand.

    base: nn.Linear, or Conv1D of transformers; its own parameters are left as they are. update: a StructuredUpdate
    of its sizes. bias: whether a bias trains too, zero at the start. `merge` puts ΔW into the weight, `unmerge`
    brings back the very parameter that stood there before, bit by bit.

    >>> import torch
    >>> from sepmat.nn import AdaptedLinear, StructuredUpdate
    >>> base = torch.nn.Linear(48, 32)
    >>> layer = AdaptedLinear(base, StructuredUpdate(48, 32, "circulant"))
    >>> x = torch.ones(2, 48)
    >>> bool((layer(x) == base(x)).all())  # ΔW = 0 at the start
    True
    """

    delta_bias: Tensor | None

    def __init__(self, base: nn.Module, update: StructuredUpdate, bias: bool = False) -> None:
        super().__init__()
        where = "AdaptedLinear"
        if not is_linear(base):
            expected = "torch.nn.Linear or Conv1D of transformers"
            raise DTypeError(where, "base", type(base).__name__, expected, "Adapt the linear layers inside it")
        if features(base) != (update.in_features, update.out_features):
            got = f"{update.in_features} -> {update.out_features}"
            n, m = features(base)
            raise ArgumentError(where, "update", got, f"{n} -> {m} as base", "Make it with the sizes of base")
        self.base, self.update = base, update
        p = next(update.parameters())
        self.register_parameter(
            "delta_bias", nn.Parameter(torch.zeros(features(base)[1], device=p.device, dtype=p.dtype)) if bias else None
        )
        self._originals: dict[str, Any] | None = None

    @property
    def in_features(self) -> int:
        return features(self.base)[0]

    @property
    def out_features(self) -> int:
        return features(self.base)[1]

    @property
    def merged(self) -> bool:
        """Whether ΔW is part of the weight of the base now."""
        return self._originals is not None

    @property
    def weight(self) -> Tensor:
        """The weight of the base, to be asked for its dtype, device and sizes; while ΔW stands beside it, not to be used."""
        return self.base.weight if self.merged else guarded(self.base.weight, "AdaptedLinear")

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base, like `weight`."""
        bias: Tensor | None = self.base.bias
        return bias if bias is None or self.merged or self.delta_bias is None else guarded(bias, "AdaptedLinear")

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if self.merged:
            return y
        y = y + self.update(x).to(y.dtype)
        return y if self.delta_bias is None else y + self.delta_bias.to(y.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """The weight of the base becomes W + ΔW, computed in float32 or more and rounded once; twice does nothing.

        Raises NonFiniteError, before anything is changed, where ΔW is not finite, DTypeError for a quantised base.
        """
        if self.merged:
            return
        weight = self.base.weight
        if not weight.dtype.is_floating_point or tuple(weight.shape) != self._weight_shape:
            advice = "Use sepmat.peft, which unpacks and packs it"
            raise DTypeError("merge", "base", f"a weight in {weight.dtype}", "a floating point weight", advice)
        delta = self.update.to_dense()
        if not bool(torch.isfinite(delta).all()):
            raise NonFiniteError("merge", "update", "not finite", "a finite ΔW", "Train with a smaller learning rate")
        changed = {"weight": _sum(weight, delta.mT if _is_conv1d(self.base) else delta)}
        if self.delta_bias is not None:
            bias = self.base.bias
            changed["bias"] = self.delta_bias.clone() if bias is None else _sum(bias, self.delta_bias)
        self._originals = {name: getattr(self.base, name) for name in changed}
        for name, value in changed.items():
            like = self._originals[name]
            like = weight if like is None else like
            # a new parameter: what is tied to the old one does not change with it
            setattr(self.base, name, nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad))

    def unmerge(self) -> None:
        """Puts the parameters back that the base had before `merge`, the same objects with the same bits."""
        if self._originals is not None:
            for name, original in self._originals.items():
                setattr(self.base, name, original)
            self._originals = None

    @property
    def _weight_shape(self) -> tuple[int, int]:
        n, m = features(self.base)
        return (n, m) if _is_conv1d(self.base) else (m, n)

    def _apply(self, fn: Any, recurse: bool = True) -> "AdaptedLinear":
        super()._apply(fn, recurse)
        for p in (self._originals or {}).values():
            if p is not None:  # what unmerge brings back moves with the module
                p.data = fn(p.data)
        return self


def _sum(weight: Tensor, delta: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(weight.dtype, delta.dtype), torch.float32)
    return weight.detach().to(dtype) + delta.to(device=weight.device, dtype=dtype)


def update_beside(
    base: nn.Module, structure: str | Parametrisation, *, dtype: torch.dtype | None = None, **options: Any
) -> StructuredUpdate:
    """A StructuredUpdate for a linear layer: on its device, in float32 where its weight has less."""
    weight = base.weight
    narrow = not weight.dtype.is_floating_point or weight.dtype.itemsize < 4
    dtype = dtype or (torch.float32 if narrow else weight.dtype)
    return StructuredUpdate(*features(base), structure, device=weight.device, dtype=dtype, **options)


def adapt(
    model: nn.Module,
    target_modules: str | Sequence[str],
    structure: str | Parametrisation = "lsr",
    *,
    alpha: float | None = None,
    bias: bool = False,
    exclude_modules: str | Sequence[str] | None = None,
    trainable: str | Sequence[str] = (),
    dtype: Any = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> nn.Module:
    """Freezes a model, in place, and puts a StructuredUpdate beside each target; returns the model.

    target_modules: names as in PEFT: a list ("query" is every linear layer of that name, wherever it stands), one
    regular expression for whole names, or "all-linear", which leaves out the output embedding and what `trainable`
    names. exclude_modules: names or one expression again. trainable: modules that train as they are, such as a new
    head. structure, alpha, options: as for StructuredUpdate; bias: as for AdaptedLinear. dtype: of the parameters;
    by default float32 where the base has less. What a structure shares between layers ("kadaptation") is shared
    by all targets of one last name.

    Raises ArgumentError where nothing matches, listing the linear layers, and where a layer is adapted already.

    >>> import torch
    >>> from sepmat.nn import adapt
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> _ = adapt(model, ["0"], "kronecker", trainable=["2"])
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.update.A1', '0.update.A2', '2.weight', '2.bias']
    """
    heads = modules_named(model, trainable)
    targets = find_targets(model, target_modules, exclude_modules, skip=heads)
    freeze(model, heads)
    common: dict[str, dict[str, nn.Parameter]] = {}
    for name, base in targets:
        kind = common.setdefault(name.rpartition(".")[2], {})
        update = update_beside(base, structure, alpha=alpha, shared=kind, dtype=dtype, generator=generator, **options)
        kind.update({p: getattr(update, p) for p in update.parametrisation.shared})
        model = replace(model, name, AdaptedLinear(base, update, bias))
    return model


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merges every AdaptedLinear of a model and leaves its base alone in its place, in place; returns the model.

    Raises UnsupportedError where a Bottleneck stands: it is not linear, and no weight can take it in.

    >>> import torch
    >>> from sepmat.nn import adapt, merge_and_unload
    >>> model = adapt(torch.nn.Sequential(torch.nn.Linear(6, 4)), ["0"], "circulant")
    >>> _ = model[0].update.c.data.fill_(0.5)  # in place of a training
    >>> x = torch.ones(3, 6)
    >>> before, model = model(x), merge_and_unload(model)
    >>> type(model[0]).__name__, bool(torch.allclose(model(x), before, atol=1e-5))
    ('Linear', True)
    """
    nonlinear = next((name for name, m in model.named_modules() if getattr(m, "nonlinear", False)), None)
    if nonlinear is not None:
        expected = "updates that are linear"
        advice = "Keep it as it is, or save its state_dict"
        raise UnsupportedError("merge_and_unload", "model", f"a Bottleneck at {nonlinear!r}", expected, advice)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, AdaptedLinear):
            layer.merge()
            model = replace(model, name, layer.base)
    return model


# names ------------------------------------------------------------------------------------------------------------------


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The names and the linear layers of a model; an AdaptedLinear counts as one."""
    adapted: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            adapted = (*adapted, f"{name}." if name else "")
            yield name, module
        elif is_linear(module) and not name.startswith(adapted):
            yield name, module


def modules_named(model: nn.Module, names: str | Sequence[str]) -> list[nn.Module]:
    """The modules that the names mean; none for no names."""
    found = [m for name, m in model.named_modules() if name and matches(name, names)]
    if names and not found:
        nothing_matches("adapt", "trainable", names, [name for name, _ in model.named_children()])
    return found


def freeze(model: nn.Module, heads: Sequence[nn.Module]) -> None:
    """Nothing trains but the heads."""
    model.requires_grad_(False)
    for head in heads:
        head.requires_grad_(True)


def find_targets(
    model: nn.Module, targets: str | Sequence[str], exclude: str | Sequence[str] | None, skip: Sequence[nn.Module] = ()
) -> list[tuple[str, nn.Module]]:
    """The linear layers that the names mean."""
    where = "adapt"
    skipped = {id(part) for module in skip for part in module.modules()}
    if targets == ALL_LINEAR:
        output = getattr(model, "get_output_embeddings", lambda: None)()
        skipped |= {id(output)}
    found = [
        (name, m)
        for name, m in linear_layers(model)
        if id(m) not in skipped
        and (targets == ALL_LINEAR or matches(name, targets))
        and not (exclude and matches(name, exclude))
    ]
    if not found:
        nothing_matches("adapt", "target_modules", targets, [name for name, _ in linear_layers(model)])
    for name, m in found:
        if isinstance(m, AdaptedLinear):
            advice = "Call merge_and_unload(model) first, or leave it out"
            raise ArgumentError(where, "target_modules", f"{name!r}, adapted already", "layers that are not", advice)
    return found


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """One regular expression for the whole name, or last parts of it."""
    if isinstance(patterns, str):
        try:
            return re.fullmatch(patterns, name) is not None
        except re.error as error:
            expected = f"a list of names, or a regular expression ({error})"
            raise ArgumentError("adapt", "modules", repr(patterns), expected, "Mend the expression") from None
    return any(name == p or name.endswith(f".{p}") for p in patterns)


def nothing_matches(where: str, argument: str, given: Any, names: Sequence[str]) -> NoReturn:
    """Nothing matches: what there is, by last name, and what may have been meant."""
    last = Counter(name.rpartition(".")[2] or "the model itself" for name in names)
    there = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in list(last.items())[:20])
    wanted = [given] if isinstance(given, str) else list(given)
    close = [c for w in wanted for c in difflib.get_close_matches(str(w).rpartition(".")[2], list(last), n=1)]
    other = f", or {ALL_LINEAR!r}" if argument == "target_modules" else ""
    advice = f"Did you mean {close[0]!r}" if close else f"Pass a list of these names{other}"
    if argument == "model":  # nobody gave names
        advice = "Name the layers yourself, where the position is asked for"
    kind = "names of modules" if argument == "trainable" else "names of linear layers"
    raise ArgumentError(where, argument, f"{given!r} matches nothing", f"{kind}: {there or 'there are none'}", advice)


def replace(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """The model with a module of that name replaced; the new module where it is the model itself."""
    if not name:
        return new
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return model
