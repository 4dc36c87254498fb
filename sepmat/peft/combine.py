"""Weighted sums of adapters that are exact, because they stay in the class: Σ wᵢ ΔWᵢ = ΔW of one adapter.

Parameters add where ΔW is linear in all of them, terms stand side by side where ΔW is a sum of terms: each structure of
sepmat.nn says what its sums are (`summed`). There is no approximation: what has no such form raises an error.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..nn import StructuredUpdate

__all__ = ["combine"]

Parameters = dict[str, Tensor]


@torch.no_grad()
def combine(updates: Sequence[StructuredUpdate], weights: Sequence[float]) -> tuple[dict[str, Any], Parameters]:
    """The options that change, and the parameters at scale 1, of the update Σ weight · update.

    Raises ArgumentError for updates of different structures, UnsupportedError where the sum is not in the class.
    """
    structures = {update.structure for update in updates}
    if len(structures) > 1:
        got, advice = (
            " and ".join(sorted(structures)),
            "Export low-rank ones with to_lora, or merge one after the other",
        )
        raise ArgumentError("add_weighted_adapter", "adapters", got, "adapters of one structure", advice)
    parameters = [u._tensors(w * u.scale) for u, w in zip(updates, weights, strict=True)]
    parts = [update.parametrisation for update in updates]
    options, summed = type(parts[0]).summed(parts, parameters)
    return options, dict(summed)
