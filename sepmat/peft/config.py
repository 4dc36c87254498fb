"""The configurations of the PEFT methods: what PEFT's own configurations have, and the options of the structures."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig, PeftType

from ..errors import ArgumentError
from ..nn.parametrisations import PARAMETRISATIONS

__all__ = ["LSRConfig", "SURMConfig", "StructuredAdapterConfig", "StructuredConfig"]


@dataclass
class StructuredConfig(PeftConfig):
    """What the three methods share. The names and meanings are PEFT's.

    target_modules: names of layers, a regular expression, "all-linear", or None for the usual ones of a known model.
    exclude_modules: names or a regular expression, never adapted.
    alpha: the update is multiplied by it; it is not divided by a rank.
    rank_pattern, alpha_pattern: a name or regular expression → the rank or alpha of the layers that match.
    bias: "none", "all", or "<method>_only" ("lsr_only", "surm_only", "structured_adapter_only").
    modules_to_save: layers that are trained and saved whole, such as a classifier.
    layers_to_transform, layers_pattern: the indices of the layers to adapt, and the name of their list.
    init_weights: True starts at ΔW = 0, False at random values.
    fan_in_fan_out: kept for PEFT's tools; the layout of a Conv1D is seen, not told.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    alpha: float = 1.0
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: str = "none"
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    init_weights: bool = True
    fan_in_fan_out: bool = False

    method: ClassVar[str]  # the name of the type in PEFT, in lower case
    option_names: ClassVar[tuple[str, ...]]  # fields that are options of the parametrisation, None for its default

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[self.method.upper()]
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), (list, tuple)):
                setattr(self, name, set(getattr(self, name)))
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise self._error(name, "given with target_modules as a string", "None", _LIST)
        if self.layers_pattern and self.layers_to_transform is None:
            raise self._error("layers_pattern", "given alone", "layers_to_transform beside it", _LIST)
        biases = ("none", "all", f"{self.method}_only")
        if self.bias not in biases:
            raise self._error("bias", repr(self.bias), f"one of {', '.join(biases)}", "The names are PEFT's")
        for value in (self.alpha, *self.alpha_pattern.values()):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise self._error("alpha", repr(value), "a finite number", "The update is multiplied by it")
        self._check_options()

    def _check_options(self) -> None:
        """Each option that is set is one of the structure's."""
        known = {f.name for f in dataclasses.fields(PARAMETRISATIONS[self.structure_name])}
        values = [(name, _OPTION.get(name, name), getattr(self, name)) for name in self.option_names]
        for name, option, value in [*values, ("rank_pattern", "rank", self.rank_pattern or None)]:
            if value is not None and option not in known:
                has = ", ".join(n for n, o, _ in values if o in known) or "no options"
                raise self._error(name, repr(value), f"nothing: {self.structure_name!r} has {has}", "Leave it out")

    @property
    def structure_name(self) -> str:
        """The name of the structure in sepmat.nn."""
        raise NotImplementedError

    def options(self, rank: int | None = None) -> dict[str, Any]:
        """The options of the parametrisation that are set; `rank` is one from rank_pattern."""
        options = {_OPTION.get(name, name): _tuples(getattr(self, name)) for name in self.option_names}
        if rank is not None:
            options["rank"] = rank
        return {name: value for name, value in options.items() if value is not None}

    def with_options(self, changed: Mapping[str, Mapping[str, Any]]) -> Any:
        """This configuration at alpha = 1 for the named layers with other options; only their ranks may differ."""
        ranks = {name: options["rank"] for name, options in changed.items() if "rank" in options}
        fields: dict[str, Any] = {k: v for k, v in next(iter(changed.values())).items() if k != "rank"}
        if ranks:
            r = fields["r"] = collections.Counter(ranks.values()).most_common(1)[0][0]
            fields["rank_pattern"] = {re.escape(name): rank for name, rank in ranks.items() if rank != r}
        return dataclasses.replace(
            self,
            alpha=1.0,
            alpha_pattern={},
            target_modules=sorted(changed),
            exclude_modules=None,
            layers_to_transform=None,
            layers_pattern=None,
            **fields,
        )

    def _error(self, argument: str, got: str, expected: str, advice: str) -> ArgumentError:
        return ArgumentError(type(self).__name__, argument, got, expected, advice)


_LIST = "layers_to_transform and layers_pattern belong to target_modules as a list of names"
_OPTION = {"r": "rank"}  # PEFT's name of a field → ours of an option


def _tuples(value: Any) -> Any:
    """JSON has lists where options have tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _check_structure(config: StructuredConfig, structure: Any, allowed: tuple[str, ...]) -> None:
    if structure not in allowed:
        raise config._error(
            "structure", repr(structure), f"one of {', '.join(allowed)}", "See sepmat.nn for what they are"
        )


@dataclass
class LSRConfig(StructuredConfig):
    """ΔW = alpha · (Σᵢ A1ᵢ ⊗ A2ᵢ)(Σᵢ B1ᵢ ⊗ B2ᵢ): a LoRA of rank r whose two factors are sums of Kronecker products.

    r: the inner rank, which bounds the rank of ΔW. terms: how many Kronecker products each factor has.
    shapes: the shapes of the factors, where the balanced ones are not wanted.
    Source: Li and Sarwate 2025, LSR-Adapt, (12) and (13).

    >>> from sepmat.peft import LSRConfig
    >>> LSRConfig(r=4, terms=16, target_modules=["query", "value"]).peft_type.value
    'LSR'
    """

    r: int = 4
    terms: int = 16
    shapes: Any = None

    method = "lsr"
    option_names = ("r", "terms", "shapes")

    @property
    def structure_name(self) -> str:
        return "lsr"


@dataclass
class SURMConfig(StructuredConfig):
    """ΔW = alpha · S with S of one structure: parameters grow like n, and the rank is not bounded.

    structure: "circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz", "kronecker" or "ldr".
    factors: 1 (one matrix) or 2 (a product of two, as published), for the first four.
    r: the rank of Kronecker factors (out/r × r) ⊗ (r × in/r), or of the generators of "ldr".
    shapes, terms: the shapes of the Kronecker factors and the number of products, for "kronecker".
    An option that the structure does not have is an error. Source: Sehanobish et al. 2024, SURM, section 4.

    >>> from sepmat.peft import SURMConfig
    >>> SURMConfig(structure="circulant", target_modules="all-linear").peft_type.value
    'SURM'
    """

    structure: str = "circulant"
    r: int | None = None
    factors: int | None = None
    terms: int | None = None
    shapes: Any = None

    method = "surm"
    option_names = ("r", "factors", "terms", "shapes")

    def __post_init__(self) -> None:
        surm = tuple(name for name, cls in PARAMETRISATIONS.items() if cls.peft == self.method)
        _check_structure(self, self.structure, surm)
        super().__post_init__()

    @property
    def structure_name(self) -> str:
        return self.structure


@dataclass
class StructuredAdapterConfig(StructuredConfig):
    """h + alpha · (Up act(Down h) + b) after a layer: a bottleneck adapter with structured Down and Up (sepmat.nn.Bottleneck).

    structure: any of sepmat.nn; "dense" is Houlsby's adapter. bottleneck: the width in the middle; None: one square
    matrix with the activation after it, as in SURM. activation: a name of sepmat.nn.bottleneck.ACTIVATIONS.
    dropout: of what enters Down. position: where target_modules is None, "houlsby" (after attention and
    feed-forward) or "pfeiffer" (after feed-forward only). r, factors, terms: as in SURMConfig.
    It is not linear, so that it cannot be merged.

    >>> from sepmat.peft import StructuredAdapterConfig
    >>> StructuredAdapterConfig(structure="kronecker", bottleneck=64).peft_type.value
    'STRUCTURED_ADAPTER'
    """

    structure: str = "circulant"
    bottleneck: int | None = None
    activation: str = "gelu"
    dropout: float = 0.0
    position: str = "houlsby"
    r: int | None = None
    factors: int | None = None
    terms: int | None = None

    method = "structured_adapter"
    option_names = ("r", "factors", "terms")

    def __post_init__(self) -> None:
        _check_structure(self, self.structure, tuple(PARAMETRISATIONS))
        if self.position not in ("houlsby", "pfeiffer"):
            advice = "It chooses the layers where target_modules is None"
            raise self._error("position", repr(self.position), "'houlsby' or 'pfeiffer'", advice)
        super().__post_init__()

    @property
    def structure_name(self) -> str:
        return self.structure
