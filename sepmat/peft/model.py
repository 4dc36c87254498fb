"""The tuners: which layers of a model are replaced by which."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from peft.tuners import tuners_utils
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import nn

from ..errors import ArgumentError, UnsupportedError
from ..nn.bottleneck import ATTENTION, FEED_FORWARD
from .combine import combine
from .config import StructuredConfig
from .layer import LSRLinear, StructuredAdapterLinear, StructuredLayer, SURMLinear, merged_error, not_mergeable

__all__ = ["LSRModel", "SURMModel", "StructuredAdapterModel", "StructuredModel"]


class StructuredModel(BaseTuner):
    """What the three tuners share; PEFT's BaseTuner does the rest."""

    target_module_mapping: ClassVar[dict[str, Any]] = {
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "vit": ["query", "value"],
    }
    tuner_layer_cls: type[StructuredLayer]

    def _create_and_replace(
        self,
        config: StructuredConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        def pattern(name: str, default: Any) -> Any:
            patterns = getattr(config, name)
            return patterns.get(get_pattern_key(patterns, current_key), default)

        options = {"rank": pattern("rank_pattern", None), "alpha": pattern("alpha_pattern", config.alpha)}
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config, **options)
            return
        layer = self.tuner_layer_cls(
            target, adapter_name, config=config, **options, get_apply_tensor_subclass=_torchao(self.model)
        )
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        if config.bias != "none" and not hasattr(BaseTuner, "_get_learnable_bias_state_dict"):
            advice = "Upgrade PEFT, or leave bias at 'none'"
            raise UnsupportedError(
                type(config).__name__,
                "bias",
                f"{config.bias!r}, which PEFT 0.20 would not save",
                "peft >= 0.21",
                advice,
            )

    def delete_adapter(self, adapter_name: str) -> None:
        """PEFT's; a merged one raises an error and stays, also where PEFT 0.20 would not ask."""
        merged = any(isinstance(m, StructuredLayer) and adapter_name in m.merged_adapters for m in self.model.modules())
        if merged and not hasattr(tuners_utils, "_check_adapters_not_merged"):
            raise merged_error(adapter_name)
        super().delete_adapter(adapter_name)

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, combination_type: str = "exact"
    ) -> None:
        """Add the adapter Σ weight · adapter, exactly; it is not active. All must be of one structure on the same layers.

        Circulant and Toeplitz matrices add up, Kronecker products and displacement generators stand side by side, LSR's
        inner ranks do where they fit. Raises UnsupportedError, which says why, for what has no exact sum.
        """
        where = "add_weighted_adapter"
        if combination_type != "exact":
            got, advice = (
                repr(combination_type),
                "LoRA's other ways are approximations; export with to_lora to use them",
            )
            raise ArgumentError(where, "combination_type", got, "'exact'", advice)
        _check_names(adapters, weights, adapter_name, self.peft_config)
        configs = [self.peft_config[name] for name in adapters]
        if any(c.modules_to_save or c.bias != "none" for c in configs):
            got = "one with modules_to_save or biases of its own"
            advice = "Weigh those by hand and set them in the new adapter"
            raise ArgumentError(where, "adapters", got, "adapters that are updates of weights only", advice)
        layers = {
            name: layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, self.tuner_layer_cls) and any(a in layer.updates for a in adapters)
        }
        for name, layer in layers.items():
            if missing := [a for a in adapters if a not in layer.updates]:
                got = f"{', '.join(missing)} without an update of {name}"
                raise ArgumentError(
                    where, "adapters", got, "adapters of the same layers", "Give them the same target_modules"
                )
        sums = {name: combine([layer.updates[a] for a in adapters], weights) for name, layer in layers.items()}
        options = {name: changed for name, (changed, _) in sums.items()}
        self.peft_config[adapter_name] = configs[0].with_options(options)
        self.inject_adapter(self.model, adapter_name)
        for name, layer in layers.items():
            for parameter, value in sums[name][1].items():
                getattr(layer.updates[adapter_name], parameter).data = value

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT's way to another adapter for each sample, which only LoRA has: PEFT would pass it by in silence."""
        if kwargs.get("adapter_names") is not None:
            raise UnsupportedError(
                type(self).__name__,
                "adapter_names",
                "one for each sample",
                "all samples by the active adapters",
                "Call set_adapter for each group of samples, or export to LoRA with sepmat.peft.to_lora",
            )
        yield


def _check_names(adapters: Sequence[str], weights: Sequence[float], new: str, known: Mapping[str, Any]) -> None:
    def error(argument: str, got: str, expected: str, advice: str) -> ArgumentError:
        return ArgumentError("add_weighted_adapter", argument, got, expected, advice)

    if not adapters or isinstance(adapters, str) or any(name not in known for name in adapters):
        raise error("adapters", repr(adapters), f"a list of some of {sorted(known)}", "Load the missing ones first")
    if len(weights) != len(adapters):
        raise error(
            "weights", f"{len(weights)} numbers", f"{len(adapters)}, one for each adapter", "Give each a weight"
        )
    if new in known:
        raise error("adapter_name", f"{new!r}, which exists", "a new name", "Delete the old one first")


def _torchao(model: nn.Module) -> Any:
    """What torchao needs to quantise a merged weight again, None for other models."""
    try:
        return model.hf_quantizer.quantization_config.get_apply_tensor_subclass
    except AttributeError:
        return None


class LSRModel(StructuredModel):
    """LSR-Adapt for PEFT, see LSRConfig."""

    prefix = "lsr_"
    tuner_layer_cls = LSRLinear


class SURMModel(StructuredModel):
    """SURM for PEFT, see SURMConfig."""

    prefix = "surm_"
    tuner_layer_cls = SURMLinear


class StructuredAdapterModel(StructuredModel):
    """Bottleneck adapters for PEFT, see StructuredAdapterConfig."""

    prefix = "structured_adapter_"
    tuner_layer_cls = StructuredAdapterLinear

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        """No target_modules: those of the position, by the names that the models of transformers have."""
        if peft_config.target_modules is None and peft_config.position == "houlsby":
            peft_config.target_modules = {*ATTENTION, *FEED_FORWARD}
        elif peft_config.target_modules is None:
            attention, feed_forward = ("|".join(map(re.escape, names)) for names in (ATTENTION, FEED_FORWARD))
            peft_config.target_modules = rf"(?!.*(^|\.)({attention})$)(.*\.)?({feed_forward})"
        return peft_config

    def _check_merge_allowed(self) -> None:
        raise not_mergeable()

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        got, advice = "bottleneck adapters, which are not linear", "set_adapter with a list of names sums their outputs"
        raise UnsupportedError("add_weighted_adapter", "adapters", got, "updates that are matrices", advice)
