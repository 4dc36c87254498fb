"""Exact export to plain LoRA, for what reads nothing else (vLLM, diffusers, PEFT's mixed batches)."""

import collections
import os
import pathlib
import re
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from ..errors import ArgumentError, UnsupportedError
from ..kronecker import Kronecker
from ..low_rank import LowRank
from ..nn import StructuredUpdate
from ..separated import Separated
from .layer import AdditiveLinear, StructuredLayer

__all__ = ["lora_factors", "to_lora"]


@torch.no_grad()
def to_lora(
    model: nn.Module, adapter_name: str = "default", path: str | os.PathLike[str] | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """An adapter as a LoRA with the same ΔW, its configuration and its state dict; saved in the directory `path` if given.

    LSR is LoRA of rank r; a sum of Kronecker products is one of rank Σ min(o1, i1) min(o2, i2), which must be less to store
    than ΔW itself. The scale is in the factors (lora_alpha = r). modules_to_save and biases come along.
    `peft.convert_to_lora(model, rank)` approximates where there is no exact form.

    Raises ArgumentError if there is no such adapter, UnsupportedError, which says why, for other structures.

    >>> import torch
    >>> from peft import get_peft_model
    >>> from sepmat.peft import LSRConfig, to_lora
    >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 48)), LSRConfig(r=4, terms=2, target_modules=["0"]))
    >>> config, state = to_lora(model)
    >>> config.r, {name: tuple(t.shape) for name, t in state.items()}
    (4, {'base_model.model.0.lora_A.weight': (4, 32), 'base_model.model.0.lora_B.weight': (48, 4)})
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, StructuredLayer) and adapter_name in layer.alpha
    }
    if not layers:
        got = f"{adapter_name!r}, which no layer has"
        raise ArgumentError(
            "to_lora", "adapter_name", got, "an LSR or SURM adapter of the model", "See model.peft_config"
        )
    factors = {}
    for name, layer in layers.items():
        if not isinstance(layer, AdditiveLinear):
            raise _unsupported(name, "a bottleneck adapter is not linear, so that it is no ΔW")
        factors[name] = lora_factors(layer.updates[adapter_name], name)

    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    prefix = next(iter(layers.values())).adapter_layer_names[0]
    state = {key: t for key, t in state.items() if f".{prefix}." not in key}
    for name, (B, A) in factors.items():
        state |= {f"{name}.lora_A.weight": A.contiguous(), f"{name}.lora_B.weight": B.contiguous()}

    ranks = {name.removeprefix("base_model.model."): A.shape[0] for name, (_, A) in factors.items()}
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    pattern = {re.escape(name): r for name, r in ranks.items() if r != rank}
    given: Any = model.peft_config[adapter_name]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=sorted(ranks),
        bias="lora_only" if given.bias.endswith("_only") else given.bias,
        modules_to_save=given.modules_to_save,
        fan_in_fan_out=any(layer.fan_in_fan_out for layer in layers.values()),
        task_type=given.task_type,
        base_model_name_or_path=given.base_model_name_or_path,
        inference_mode=True,
    )
    if path is not None:
        from safetensors.torch import save_file

        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        save_file(state, pathlib.Path(path) / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config.save_pretrained(str(path))
    return config, state


def lora_factors(update: StructuredUpdate, name: str = "the update") -> tuple[Tensor, Tensor]:
    """B (out, r) and A (r, in) with ΔW = B A, exactly but for round-off."""
    matrix, (m, n) = update.matrix(), update.parametrisation.shape
    if isinstance(matrix, LowRank):
        return matrix.U, matrix.V.mT
    if not isinstance(matrix, (Kronecker, Separated)):
        why = f"the rank of a {update.structure} matrix is not bounded, it is {min(m, n)} for nearly all of them"
        raise _unsupported(name, why)
    terms = [matrix.factors] if isinstance(matrix, Kronecker) else list(zip(*matrix.factors, strict=True))
    rank = sum(min(A.shape) * min(B.shape) for A, B in terms)
    if rank * (m + n) >= m * n:
        raise _unsupported(
            name, f"its Kronecker products have rank {rank}, and as a LoRA more numbers than the {m}×{n} of ΔW"
        )
    left, right = zip(*(_split(A, B) for A, B in terms), strict=True)
    return torch.cat(left, 1), torch.cat(right, 0)


def _split(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A ⊗ B = (A ⊗ I)(I ⊗ B) and so on: each factor goes to the side where it makes the inner size small."""
    pairs = [
        (X, torch.eye(X.shape[1]).to(X)) if X.shape[0] >= X.shape[1] else (torch.eye(X.shape[0]).to(X), X)
        for X in (A, B)
    ]
    return torch.kron(pairs[0][0], pairs[1][0]), torch.kron(pairs[0][1], pairs[1][1])


def _unsupported(name: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        "to_lora",
        "model",
        f"{name}: {why}",
        "updates of low rank: LSR, or Kronecker products with a small inner size",
        "peft.convert_to_lora(model, rank) finds the nearest LoRA, merge_and_unload needs none",
    )
