"""The `weight` of a layer that is not its weight alone: its dtype, device and sizes can be read, its numbers cannot be used.

Some modules read the weight of a linear layer where they should call it. T5 asks for its dtype, which is harmless;
`torch.nn.TransformerEncoderLayer` hands it to a fused operator in eval mode, Mamba multiplies by it, and an update beside the
weight would be passed by in silence. torch's fused operator steps back where a tensor has a `__torch_function__`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError

# what may be asked; attributes (dtype, device, shape, T) are "__get__", and what comes of them is guarded again
ASKED = {"__get__", "__len__", "detach", "dim", "element_size", "get_device", "is_complex", "is_contiguous"}
ASKED |= {"is_floating_point", "nelement", "numel", "size", "stride"}


class GuardedWeight(torch.Tensor):
    """A tensor whose numbers nobody may use, since they are not what the layer multiplies by."""

    where = "a layer"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        where = next((a.where for a in args if isinstance(a, cls)), cls.where)
        if name in ASKED:
            found = super().__torch_function__(func, types, tuple(args), dict(kwargs or {}))
            if isinstance(found, cls):
                found.where = where
            return found
        expected = "a call of the layer, which multiplies by more, or by something else, than this weight"
        advice = "Leave the layer out, merge its update, or take its to_dense() or the weight of its base"
        raise UnsupportedError(where, "weight", f"used by {name}", expected, advice)


def guarded(weight: Tensor, where: str) -> Tensor:
    """The same memory, with its numbers out of reach; errors speak for `where`."""
    found = weight.detach().as_subclass(GuardedWeight)
    found.where = where
    return found
