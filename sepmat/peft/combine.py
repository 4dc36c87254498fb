"""Weighted sums of adapters that are exact, because they stay in the class: Σ wᵢ ΔWᵢ = ΔW of one adapter.

Parameters add where ΔW is linear in all of them, terms stand side by side where ΔW is a sum of terms. There is no
approximation: what has no such form raises an error.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ArgumentError, UnsupportedError
from ..nn import StructuredUpdate
from ..nn.contract import split

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
    return _RULES[structures.pop()](updates, parameters)


def _circulants(updates: Sequence[StructuredUpdate], parameters: list[Parameters]) -> tuple[dict[str, Any], Parameters]:
    c = [p["c"] if "c" in p else p["a"] * p["b"] for p in parameters]
    return {"factors": 1}, {"c": sum(c[1:], c[0])}


def _toeplitz(updates: Sequence[StructuredUpdate], parameters: list[Parameters]) -> tuple[dict[str, Any], Parameters]:
    if any(u.parametrisation.options["factors"] != 1 for u in updates):
        raise _unsupported("a sum of products of two Toeplitz matrices is not one such product (factors=2)")
    return {}, {name: sum((p[name] for p in parameters[1:]), parameters[0][name]) for name in parameters[0]}


def _ldr(updates: Sequence[StructuredUpdate], parameters: list[Parameters]) -> tuple[dict[str, Any], Parameters]:
    tensors = {name: torch.cat([p[name] for p in parameters], 1) for name in ("G", "H")}
    rank, most = tensors["G"].shape[1], max(updates[0].parametrisation.shape)
    if rank > most:
        raise _unsupported(f"the sum has {rank} columns of generators, and {most} is the most")
    return {"rank": rank}, tensors


def _kronecker(updates: Sequence[StructuredUpdate], parameters: list[Parameters]) -> tuple[dict[str, Any], Parameters]:
    _same_shapes(updates)
    tensors = {name: torch.cat([p[name] for p in parameters]) for name in ("A1", "A2")}
    return {"terms": tensors["A1"].shape[0]}, tensors


def _lsr(updates: Sequence[StructuredUpdate], parameters: list[Parameters]) -> tuple[dict[str, Any], Parameters]:
    """[L1 L2] [R1; R2] with the thin factors side by side: one of the two inner sizes adds up, the terms do."""
    _same_shapes(updates)
    inner = {k: [p[f"A{k}"].shape[2] for p in parameters] for k in (1, 2)}
    rank = sum(a * b for a, b in zip(inner[1], inner[2], strict=True))
    for k, other in ((1, 2), (2, 1)):
        sizes = {k: sum(inner[k]), other: inner[other][0]}
        if len(set(inner[other])) == 1 and (sizes[1], sizes[2]) == split(rank):
            break
    else:
        pairs = ", ".join(f"{a}×{b}" for a, b in zip(inner[1], inner[2], strict=True))
        a, b = split(rank)
        raise _unsupported(f"inner ranks {pairs} do not stand side by side in the {a}×{b} of an inner rank {rank}")
    placed: dict[str, list[Tensor]] = {name: [] for name in parameters[0]}
    before = 0
    for p, size in zip(parameters, inner[k], strict=True):
        after = sizes[k] - before - size
        p = {**p, f"A{k}": pad(p[f"A{k}"], (before, after)), f"B{k}": pad(p[f"B{k}"], (0, 0, before, after))}
        before += size
        for name, tensor in p.items():
            placed[name].append(tensor)
    tensors = {name: torch.cat(parts) for name, parts in placed.items()}
    return {"rank": rank, "terms": tensors["A1"].shape[0]}, tensors


def _same_shapes(updates: Sequence[StructuredUpdate]) -> None:
    shapes = {update.parametrisation.options["shapes"] for update in updates}
    if len(shapes) > 1:
        raise _unsupported(
            f"Kronecker factors of different shapes, {' and '.join(map(str, shapes))}, are no terms of one sum"
        )


def _unsupported(why: str) -> UnsupportedError:
    return UnsupportedError(
        "add_weighted_adapter",
        "adapters",
        why,
        "an exact sum in the same class",
        "set_adapter with a list of names sums them in the forward pass, merge_adapter in the weight",
    )


_RULES = {
    "circulant": _circulants,
    "skew_circulant": _circulants,
    "toeplitz": _toeplitz,
    "symmetric_toeplitz": _toeplitz,
    "ldr": _ldr,
    "kronecker": _kronecker,
    "lsr": _lsr,
}
