"""Kernels for tensors, with a backward of their own. Imported by the rows that need them, when they meet a tensor.

Each is an operator of torch's library, so that autograd, torch.compile and vmap know it without looking inside.
"""

from collections.abc import Callable
from typing import Any

import torch


def operator(fake: Callable[..., Any], vmap: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: torch.ops.sepmat.<name of the function>, for all devices; fake: the same for shapes and dtypes alone.

    What torch.library.custom_op makes, without importing the compiler at the first call, which takes seconds, and with a third of
    the time of a call. vmap(op): its rule, as torch.library.register_vmap wants it; without one the slices are taken one after
    the other.
    """

    def define(run: Callable[..., Any]) -> Any:
        name = f"sepmat::{run.__name__.strip('_')}"
        torch.library.define(name, torch.library.infer_schema(run, mutates_args=()))
        torch.library.impl(name, "default")(run)
        torch.library.register_fake(name)(fake)
        op = getattr(torch.ops.sepmat, name.partition("::")[2]).default
        torch.library.register_vmap(name, (vmap or one_by_one)(op))
        return op

    return define


def derivative(op: Any, keep: Callable[..., None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the backward of an operator; keep(ctx, inputs, output) saves what it needs."""

    def register(backward: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.register_autograd(op._name.partition(".")[0], backward, setup_context=keep)
        return backward

    return register


def one_by_one(op: Any) -> Callable[..., Any]:
    """vmap of an operator by its slices."""

    def run(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        def sliced(a: Any, dim: Any, i: int) -> Any:
            if isinstance(a, (list, tuple)) and isinstance(dim, (list, tuple)):
                return [sliced(b, d, i) for b, d in zip(a, dim, strict=True)]
            return a if dim is None else a.select(dim, i)

        found = [op(*map(sliced, args, in_dims, [i] * len(args))) for i in range(info.batch_size)]
        if isinstance(found[0], torch.Tensor):
            return torch.stack(found), 0
        stacked = [torch.stack(parts) for parts in zip(*found, strict=True)]
        return type(found[0])(stacked), type(found[0])([0] * len(stacked))

    return run
