"""The adapted layers: y = W x + Σ ΔW x over the active adapters, each ΔW a StructuredUpdate.

The updates of a layer are a ModuleDict under one name that starts with the prefix of the method, `surm_update`, and have
flat parameters: PEFT strips the adapter's name from a key only where it is the last part but one, and transformers
finds the keys of a method by their prefix.
"""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import ArgumentError, DTypeError, NonFiniteError, UnsupportedError
from ..nn import Bottleneck, StructuredUpdate
from ..nn.bottleneck import ACTIVATIONS
from ..nn.weights import guarded
from .config import StructuredConfig

__all__ = ["AdditiveLinear", "LSRLinear", "SURMLinear", "StructuredAdapterLinear", "StructuredLayer"]


class StructuredLayer(nn.Module, BaseTunerLayer):
    """What additive and bottleneck layers share: the base layer and PEFT's bookkeeping.

    `alpha[adapter]` is the scale of the configuration; the one in force is the update's own.
    """

    method: str  # the name of the type in PEFT, in lower case
    other_param_names: tuple[str, ...] = ("alpha",)

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: StructuredConfig,
        rank: int | None,
        alpha: float,
        **kwargs: Any,
    ) -> None:
        if isinstance(base_layer, BaseTunerLayer):
            raise UnsupportedError(
                type(self).__name__,
                "target_modules",
                f"a layer that has an adapter already, a {type(base_layer).__name__}",
                "one without: the weight that a merge writes to belongs to the adapter next to it, and the other would be lost",
                "Merge or unload the first adapter, or add one of its own method by add_adapter",
            )
        super().__init__()
        self.base_layer = base_layer
        self.alpha: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        base = self.get_base_layer()
        self.quantization_backend = resolve_quantization_backend(base, **kwargs)
        self._check_base(base)
        self.in_features, self.out_features = _get_in_out_features(base)
        self.fan_in_fan_out = isinstance(base, Conv1D)
        self._containers()
        self.update_layer(adapter_name, config, rank, alpha)

    def update_layer(self, adapter_name: str, config: StructuredConfig, rank: int | None, alpha: float) -> None:
        """Add an adapter; rank: that of rank_pattern."""
        self.alpha[adapter_name] = float(alpha)
        self._add(adapter_name, config, rank, float(alpha))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _containers(self) -> None:
        """Make the containers of the adapters' modules."""
        raise NotImplementedError

    def _add(self, name: str, config: Any, rank: int | None, alpha: float) -> None:
        """Make the modules of a new adapter."""
        raise NotImplementedError

    def _rescale(self, name: str, factor: float | None) -> None:
        """Multiply the scale of an adapter, or set it back to alpha."""
        raise NotImplementedError

    def scale_layer(self, scale: float) -> None:
        """Multiply the scales of the active adapters."""
        for name in set(self.active_adapters) & set(self.alpha):
            self._rescale(name, scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scales of the active adapters, or set them back to alpha."""
        for name in set(self.active_adapters) & set(self.alpha):
            self._rescale(name, None if scale is None else 1 / scale)

    def _check_base(self, base: nn.Module) -> None:
        """Linear layers, those of GPT-2, and quantised ones."""
        if isinstance(base, nn.modules.linear.NonDynamicallyQuantizableLinear):
            raise UnsupportedError(
                type(self).__name__,
                "target_modules",
                "the out_proj of a torch.nn.MultiheadAttention",
                "a layer whose forward is called",
                "That module reads the weight and would pass the adapter by; exclude_modules=['out_proj'] leaves it out",
            )
        quantised = self.quantization_backend is not None and self.quantization_backend.layer_type == "linear"
        if not (quantised or isinstance(base, (nn.Linear, Conv1D))):
            raise DTypeError(
                type(self).__name__,
                "target_modules",
                f"{type(base).__name__}",
                "torch.nn.Linear, transformers' Conv1D or a quantised linear layer",
                "Name only such layers in target_modules",
            )

    @property
    def weight(self) -> Tensor:
        """The weight of the base layer; while adapters stand beside it, to be asked for its dtype, device and sizes only."""
        base = self.get_base_layer()
        weight: Tensor = base.qweight if hasattr(base, "qweight") else base.weight
        return weight if self.merged != self.disable_adapters else guarded(weight, type(self).__name__)

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name in self.merged_adapters:
            raise merged_error(adapter_name)
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return f"{self.method}.{super().__repr__()}"


class AdditiveLinear(StructuredLayer):
    """W + Σ ΔW."""

    @property
    def updates(self) -> Any:
        """The StructuredUpdates by the names of their adapters."""
        return getattr(self, self.adapter_layer_names[0])

    def _containers(self) -> None:
        self.add_module(self.adapter_layer_names[0], nn.ModuleDict())

    def _add(self, name: str, config: Any, rank: int | None, alpha: float) -> None:
        structure, options = config.structure_name, config.options(rank)
        self.updates[name] = StructuredUpdate(self.in_features, self.out_features, structure, alpha=alpha, **options)
        if not config.init_weights:
            self.updates[name].reset_parameters(zero=False)

    def _rescale(self, name: str, factor: float | None) -> None:
        update = self.updates[name]
        update.scale = self.alpha[name] if factor is None else update.scale * factor

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.updates:  # of the x that came, whatever other adapters there are
                result = result + self.updates[name](x).to(result.dtype)
        return result

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW as a dense tensor in the layout of the base layer's weight."""
        if adapter not in self.updates:
            expected = f"one of {sorted(self.updates)}"
            raise ArgumentError(type(self).__name__, "adapter", repr(adapter), expected, "Add it first")
        delta = self.updates[adapter].to_dense()
        return delta.T if self.fan_in_fan_out else delta

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters to the weight; safe_merge: only if W + ΔW is finite, else the weight stays as it was."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.updates:
                self._add_to_weight(name, 1, safe_merge)
                self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the merged adapters from the weight."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.updates:
                self._add_to_weight(name, -1, False)

    def _add_to_weight(self, name: str, sign: int, check: bool) -> None:
        """In float32 at least, rounded once."""
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise UnsupportedError(
                type(self).__name__,
                "merge",
                f"a weight quantised by {backend.backend_name}",
                "one that can be read and written",
                "Keep the adapter beside the layer, or merge into the weights before they are quantised",
            )
        if backend is not None:
            # the first forward in eval mode packs a 4-bit weight for some CPUs, and PEFT would read the packed
            # numbers as if they were not; taking the state dict unpacks it
            self.get_base_layer().state_dict()
        weight, delta = self.get_base_weight(), self.get_delta_weight(name)
        wide = torch.promote_types(torch.promote_types(weight.dtype, delta.dtype), torch.float32)
        merged = (weight.to(wide) + sign * delta.to(weight.device, wide)).to(weight.dtype)
        if check and not torch.isfinite(merged).all():
            got, advice = f"NaN or infinity in the adapter {name!r} or the weight", "The weight is as it was"
            raise NonFiniteError(type(self).__name__, "safe_merge", got, "a finite W + ΔW", advice)
        self.set_base_weight(merged)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class LSRLinear(AdditiveLinear):
    """A linear layer with LSR updates."""

    method = "lsr"
    adapter_layer_names = ("lsr_update",)


class SURMLinear(AdditiveLinear):
    """A linear layer with SURM updates."""

    method = "surm"
    adapter_layer_names = ("surm_update",)


class StructuredAdapterLinear(StructuredLayer):
    """A linear layer and after it h + Σ alpha · Up(act(Down h)), see sepmat.nn.Bottleneck, whose parts are kept flat."""

    method = "structured_adapter"
    adapter_layer_names = ("structured_adapter_down", "structured_adapter_up", "structured_adapter_bias")
    other_param_names = ("alpha", "scaling", "activation", "structured_adapter_dropout")

    def _containers(self) -> None:
        self.structured_adapter_down, self.structured_adapter_up = nn.ModuleDict(), nn.ModuleDict()
        self.structured_adapter_bias = nn.ParameterDict()
        self.structured_adapter_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.activation: dict[str, str] = {}

    def _add(self, name: str, config: Any, rank: int | None, alpha: float) -> None:
        sizes = (self.out_features, config.structure_name, config.bottleneck, config.activation)
        parts = Bottleneck(*sizes, dropout=config.dropout, **config.options(rank))
        if not config.init_weights:
            parts.up.reset_parameters(zero=False)
        if parts.down is not None:
            self.structured_adapter_down[name] = parts.down
        self.structured_adapter_up[name] = parts.up
        self.structured_adapter_bias[name] = parts.bias
        self.structured_adapter_dropout[name] = parts.dropout
        self.scaling[name], self.activation[name] = alpha, config.activation

    def _rescale(self, name: str, factor: float | None) -> None:
        self.scaling[name] = self.alpha[name] if factor is None else self.scaling[name] * factor

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        h = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return h
        result = h
        for name in self.active_adapters:
            if name in self.structured_adapter_up:  # of the h of the layer, whatever other adapters there are
                result = result + (self.scaling[name] * self._bottleneck(name, h)).to(h.dtype)
        return result

    def _bottleneck(self, name: str, h: Tensor) -> Tensor:
        act, up = ACTIVATIONS[self.activation[name]], self.structured_adapter_up[name]
        z = self.structured_adapter_dropout[name](h)
        down = self.structured_adapter_down
        z = up(act(down[name](z))) if name in down else act(up(z))
        return z + self.structured_adapter_bias[name].to(z.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise not_mergeable()

    def unmerge(self) -> None:
        raise not_mergeable()


def merged_error(adapter_name: str) -> ArgumentError:
    got = f"{adapter_name!r}, which is merged"
    return ArgumentError("delete_adapter", "adapter_name", got, "one that is not", "Call unmerge_adapter first")


def not_mergeable() -> UnsupportedError:
    return UnsupportedError(
        "merge",
        "adapter",
        "a bottleneck adapter, which is not linear",
        "an update that is a matrix",
        "Keep the adapter in the model; save_pretrained saves it, unload() leaves it out",
    )
