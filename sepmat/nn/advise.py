"""Which structure fits a layer, and with how many parameters: from what a fine-tune changed, or from first gradients.

`approximate` knows how near every class of the core comes to a given ΔW. Over the layers of a model that is a table of
errors against parameters, and a budget is then spent where it takes most error away.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check
from ..approximate import approximate
from ..errors import ArgumentError
from ..fit import progress_bar
from .adapted import AdaptedLinear, features, freeze, is_linear, linear_layers, modules_named, replace, update_beside
from .contract import Parametrisation
from .from_delta import as_delta
from .parametrisations import PARAMETRISATIONS, parametrisation

__all__ = ["Advice", "Layer", "advise", "deltas", "gradients"]

SHARES = (0.5, 1.0, 2.0)  # of an even share of the budget, for which every layer is fitted


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is advised for one layer: a structure, and what it leaves of ΔW.

    relative_error: ‖ΔW − nearest‖_F / ‖ΔW‖_F. low_rank_error: that of the best LoRA with no more parameters, 1 where not even
    rank one fits. norm: ‖ΔW‖_F.
    """

    name: str
    parametrisation: Parametrisation
    relative_error: float
    low_rank_error: float
    norm: float

    @property
    def num_parameters(self) -> int:
        return self.parametrisation.num_parameters


@dataclasses.dataclass(frozen=True)
class Advice:
    """A structure and a size for every layer; prints as a table. `adapt(model)` puts them in.

    >>> import torch
    >>> from sepmat.nn import advise
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> advice = advise({"0": torch.eye(8)}, max_parameters=20, structures=["lora", "circulant"])
    >>> advice.parametrisations["0"].name, advice.num_parameters, advice.relative_error < 1e-6
    ('circulant', 8, True)
    >>> advice.adapt(model)[0].update
    StructuredUpdate(in_features=8, out_features=8, structure='circulant', factors=1, scale=1)
    """

    layers: tuple[Layer, ...]

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def relative_error(self) -> float:
        """√(Σ ‖ΔW − nearest‖² / Σ ‖ΔW‖²) over the layers."""
        return _together((layer.relative_error, layer.norm) for layer in self.layers)

    @property
    def parametrisations(self) -> dict[str, Parametrisation]:
        """The name of the layer → its structure."""
        return {layer.name: layer.parametrisation for layer in self.layers}

    def adapt(
        self, model: nn.Module, *, alpha: float | None = None, trainable: str | Sequence[str] = (), **options: Any
    ) -> nn.Module:
        """`sepmat.nn.adapt`, with the structure advised for each layer; the layers keep their names.

        trainable, alpha, dtype, generator: as there. Returns the model, changed in place. Raises ArgumentError where it
        has no linear layer of a name.
        """
        freeze(model, modules_named(model, trainable))
        there = dict(linear_layers(model))
        for layer in self.layers:
            base = there.get(layer.name)
            if base is None or isinstance(base, AdaptedLinear) or features(base) != layer.parametrisation.shape[::-1]:
                expected = (
                    f"linear layers of a model with the sizes advised for: {', '.join(there) or 'there are none'}"
                )
                raise ArgumentError("Advice.adapt", "model", f"no layer {layer.name!r} to adapt", expected, "Check it")
            update = update_beside(base, layer.parametrisation, alpha=alpha, **options)
            model = replace(model, layer.name, AdaptedLinear(base, update))
        return model

    def __str__(self) -> str:
        width = max([len("together"), *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':<{width}}  {'structure':<52} {'parameters':>10}  {'error':>6}  {'LoRA':>6}  {'‖ΔW‖':>9}"]
        for layer in self.layers:
            lines.append(
                f"{layer.name:<{width}}  {_in_words(layer.parametrisation):<52} {layer.num_parameters:>10,}  "
                f"{layer.relative_error:>6.3f}  {layer.low_rank_error:>6.3f}  {layer.norm:>9.3g}"
            )
        low_rank = _together((layer.low_rank_error, layer.norm) for layer in self.layers)
        rest = f"{self.num_parameters:>10,}  {self.relative_error:>6.3f}  {low_rank:>6.3f}"
        return "\n".join([*lines, f"{'together':<{width}}  {'':<52} {rest}"])


def _together(errors: Iterable[tuple[float, float]]) -> float:
    pairs = list(errors)
    total = sum(norm**2 for _, norm in pairs)
    return (sum((e * norm) ** 2 for e, norm in pairs) / total) ** 0.5 if total else 0.0


def _in_words(p: Parametrisation) -> str:
    """The name with the options that are not the defaults."""
    default = {f.name: f.default for f in dataclasses.fields(p)}
    options = [f"{name}={value}" for name, value in p.options.items() if value != default[name]]
    return f"{p.name}({', '.join(options)})" if options else p.name


# what to approximate ------------------------------------------------------------------------------------------------------


def deltas(tuned: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """W_tuned − W_base of every linear layer that both models have under one name, as (out, in), if they differ.

    Of a model with adapters, pass a copy after merge_and_unload: beside the weights they are not looked for. Raises ArgumentError
    where the models have no such layer.

    >>> import torch, copy
    >>> from sepmat.nn import deltas
    >>> base = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    >>> tuned = copy.deepcopy(base)
    >>> _ = tuned[0].weight.data.add_(1.0)
    >>> [(name, tuple(d.shape)) for name, d in deltas(tuned, base).items()]
    [('0', (4, 4))]
    """
    others = dict(base.named_modules())
    found, common = {}, False
    for name, module in tuned.named_modules():
        other = others.get(name)
        if is_linear(module) and other is not None and is_linear(other) and features(module) == features(other):
            common = True
            change = module.weight.detach().to(torch.float32) - other.weight.detach().to(torch.float32)
            if bool(torch.any(change != 0)):
                found[name] = _out_in(module, change)
    if not common:
        got = "models that have no linear layer of one name and size in common"
        advice = "Of a model with adapters, pass a copy after merge_and_unload"
        raise ArgumentError("deltas", "tuned", got, "two of one architecture", advice)
    return found


def _out_in(linear: nn.Module, weight: Tensor) -> Tensor:
    n, m = features(linear)
    return weight.mT if tuple(weight.shape) != (m, n) or type(linear).__name__ == "Conv1D" else weight


def gradients(
    model: nn.Module, batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor] | None = None
) -> dict[str, Tensor]:
    """−(mean gradient) of the weights of all linear layers over some batches: the first step of a full fine-tune.

    batches: what the model takes: mappings go in as keyword arguments, anything else as the one argument. loss(model,
    batch): a scalar; None: `model(batch).loss`, as models of transformers have it. Modes and `requires_grad` are as they
    were afterwards, and so are stored gradients.

    >>> import torch
    >>> from sepmat.nn import gradients
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(2, 1)), torch.tensor([[1.0, 2.0]])
    >>> gradients(model, [x, 3 * x], loss=lambda model, batch: model(batch).sum())
    {'0': tensor([[-2., -4.]])}
    """
    linear = {name: module for name, module in model.named_modules() if is_linear(module)}
    weights = {name: module.weight for name, module in linear.items()}
    wanted = {name: w.requires_grad for name, w in weights.items()}
    total = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    compute, count = loss or _own_loss, 0
    try:
        for w in weights.values():
            w.requires_grad_(True)
        for batch in batches:
            found = torch.autograd.grad(compute(model, batch), list(weights.values()), allow_unused=True)
            for name, g in zip(weights, found, strict=True):
                if g is not None:
                    total[name] -= g.to(torch.float32)
            count += 1
    finally:
        for name, w in weights.items():
            w.requires_grad_(wanted[name])
    if not count:
        raise ArgumentError("gradients", "batches", "empty", "at least one batch", "An iterator can be used up once")
    return {name: _out_in(linear[name], g / count) for name, g in total.items() if bool(torch.any(g != 0))}


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    output = model(**batch) if isinstance(batch, Mapping) else model(batch)
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if found is None:
        expected = "an output with a loss"
        raise ArgumentError("gradients", "loss", "None", expected, "Pass loss=lambda model, batch: …, or give labels")
    return found


# advice -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Candidate:
    parametrisation: Parametrisation
    error: float

    @property
    def size(self) -> int:
        return self.parametrisation.num_parameters


def advise(
    source: Any,
    max_parameters: int,
    structures: Iterable[str] | str | None = None,
    seed: Any = 0,
    progress: bool = False,
) -> Advice:
    """The structures, and sizes, that come nearest to ΔW with at most so many parameters over all layers.

    source: one ΔW (out, in), or a mapping from names of layers to theirs, such as `deltas(tuned, base)` of a full
    fine-tune, or `gradients(model, batches)` where there is none yet; only what is in proportion matters. structures: of
    "lora", "circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz", "kronecker" (every pair of factor shapes),
    "ldr", "lsr"; None: all. progress: a bar on stderr (needs tqdm).

    Each layer is fitted by `sepmat.approximate` with a half, one and two even shares of the budget; "lsr" with inner
    ranks 4, 8, 16 and as many terms as fit. The budget is spent greedily along the lower convex hulls of (parameters, ‖ΔW − nearest‖²),
    the best for every budget that it ends at. A layer that gets none is left out. About 8 s a share
    for 768×768 on one core, 5 of them for "ldr", 2 for "kronecker".

    Raises ArgumentError where the budget is too small for any layer, and for an unknown structure.

    >>> import torch
    >>> from sepmat.nn import advise
    >>> T = torch.tensor([[4.0, 1.0, 7.0, 5.0], [2.0, 4.0, 1.0, 7.0], [3.0, 2.0, 4.0, 1.0], [8.0, 3.0, 2.0, 4.0]])
    >>> print(advise(T, max_parameters=7))
    layer     structure                                            parameters   error    LoRA       ‖ΔW‖
    ΔW        toeplitz                                                      7   0.000   1.000       16.9
    together                                                                7   0.000   1.000
    """
    where = "advise"
    budget = _check.as_integer(max_parameters, where, "max_parameters", 1)
    known = [name for name, cls in PARAMETRISATIONS.items() if cls.advised]
    names = known if structures is None else [structures] if isinstance(structures, str) else list(structures)
    tried = [PARAMETRISATIONS[_check.as_choice(name, known, where, "structures")] for name in dict.fromkeys(names)]
    given = source if isinstance(source, Mapping) else {"ΔW": source}
    if not given:
        raise ArgumentError(where, "source", "empty", "at least one ΔW", "Name the layers and their ΔW")
    changes = {name: as_delta(M, where) for name, M in given.items()}
    share = budget / len(changes)
    found = {}
    for name, M in progress_bar(where, "layer", changes.items()) if progress else changes.items():
        found[name] = [c for k in SHARES for c in _candidates(M, int(k * share), tried, seed)]
    norms = {name: float(torch.linalg.norm(M)) for name, M in changes.items()}
    layers = []
    for name, best in _spend(found, norms, budget).items():
        p = best.parametrisation
        layers.append(Layer(name, p, best.error, _low_rank_error(changes[name], p.num_parameters), norms[name]))
    if not layers:
        smallest = min(
            (c.size for cs in found.values() for c in cs), default=min(sum(M.shape) for M in changes.values())
        )
        expected = "enough for the smallest structure of one layer"
        raise ArgumentError(where, "max_parameters", str(budget), expected, f"Try {max(smallest, budget + 1)} or more")
    return Advice(tuple(layers))


def _candidates(M: Tensor, budget: int, tried: list[type[Parametrisation]], seed: Any) -> list[_Candidate]:
    """The best fit of every structure that is to be tried within a budget; a ΔW of zeros needs none."""
    if not bool(torch.any(M != 0)):
        return []
    ranked: dict[str, _Candidate] = {}
    structures = list(dict.fromkeys(cls.ranked for cls in tried if cls.ranked))
    for fit in approximate(M, max_parameters=max(1, budget), structures=structures, seed=seed) if structures else []:
        for p in (cls.of(fit.matrix) for cls in tried if cls.ranked):
            if p is not None and p.num_parameters <= budget:
                ranked.setdefault(p.name, _Candidate(p, fit.relative_error))
    fitted = [p for cls in tried for p in cls.trials((M.shape[0], M.shape[1]), budget) if p.num_parameters <= budget]
    return [*ranked.values(), *(_Candidate(p, _error(p, M, seed)) for p in fitted)]


def _error(p: Parametrisation, M: Tensor, seed: Any) -> float:
    parameters, _ = p.nearest(M, seed)
    return float(torch.linalg.norm(M - p.matrix(parameters).to_dense()) / torch.linalg.norm(M))


def _low_rank_error(M: Tensor, parameters: int) -> float:
    rank = min(parameters // sum(M.shape), *M.shape)
    return _error(parametrisation("lora", tuple(M.shape), rank=rank), M, 0) if rank else 1.0


def _spend(found: Mapping[str, list[_Candidate]], norms: Mapping[str, float], budget: int) -> dict[str, _Candidate]:
    """Steps along the lower convex hulls, the one that takes most away for a parameter first, as long as they fit."""
    steps = []
    for name, candidates in found.items():
        size, error = 0, 1.0
        for c in _hull(candidates):
            steps.append(((error**2 - c.error**2) * norms[name] ** 2 / (c.size - size), name, c))
            size, error = c.size, c.error
    chosen: dict[str, _Candidate] = {}
    spent, closed = 0, set()
    for _, name, c in sorted(steps, key=lambda step: -step[0]):
        more = c.size - (chosen[name].size if name in chosen else 0)
        if name in closed or spent + more > budget:
            closed.add(name)  # a later step of a layer stands on the earlier ones
            continue
        chosen[name] = c
        spent += more
    return {name: chosen[name] for name in found if name in chosen}


def _hull(candidates: list[_Candidate]) -> list[_Candidate]:
    """The lower convex hull of (size, error²) from (0, 1) on, as far as it falls."""
    hull: list[_Candidate] = []
    size, error = 0, 1.0
    rest = [c for c in candidates if c.error < 1]
    while rest:
        best = max(rest, key=lambda c: ((error**2 - c.error**2) / (c.size - size), c.size))
        hull.append(best)
        size, error = best.size, best.error
        rest = [c for c in rest if c.size > size and c.error < error]
    return hull
