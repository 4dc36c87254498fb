"""An update that starts at a given ΔW: the parameters of the nearest matrix of a structure, with the true error.

A full fine-tune or a LoRA becomes an update of any structure; how much of it is lost is a number. The nearest matrices are
those of the core (`nearest_circulant`, `nearest_kronecker`, …); the structure says which parameters they are.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check
from ..errors import ArgumentError, DTypeError, ShapeError
from ..fit import Fit
from ..matrix import StructuredMatrix
from .contract import Parametrisation
from .update import StructuredLinear, StructuredUpdate

__all__ = ["from_delta", "load_delta", "load_deltas"]


def from_delta(
    M: Any, structure: str | Parametrisation, *, alpha: float | None = None, seed: Any = 0, **options: Any
) -> tuple[StructuredUpdate, Fit]:
    """A StructuredUpdate near a given ΔW, and how near: (update, Fit).

    M: ΔW (out, in), a tensor, an array or a structured matrix. structure, alpha and options as for StructuredUpdate; its
    parameters have the dtype and the device of a tensor M, else float32. Fit.relative_error is ‖M − ΔW‖_F / ‖M‖_F
    of the parameters as they are stored; it is `optimal` for the structures with a closed nearest matrix.

    Computed in float64. Costs what the nearest matrix costs: one SVD for "lora" and "lsr" (and 100 steps of L-BFGS there),
    O(m n) for the FFT classes, alternating least squares for "ldr". Raises UnsupportedError for
    "kadaptation", whose factors are shared by layers, NonFiniteError, ShapeError.

    >>> import torch
    >>> from sepmat.nn import from_delta
    >>> delta = torch.outer(torch.arange(1.0, 7.0), torch.ones(4))  # of rank one
    >>> update, fit = from_delta(delta, "lora", rank=1)
    >>> fit.relative_error < 1e-6, fit.num_parameters
    (True, 10)
    """
    delta = as_delta(M, "from_delta")
    dtype = M.dtype if isinstance(M, Tensor) and M.dtype.is_floating_point else torch.float32
    m, n = delta.shape
    update = StructuredUpdate(n, m, structure, alpha=alpha, device=delta.device, dtype=dtype, **options)
    return update, load_delta(update, delta, seed)


def load_delta(update: StructuredUpdate | StructuredLinear, M: Any, seed: Any = 0) -> Fit:
    """Sets the parameters of an update, in place, to those of the matrix of its structure nearest to M; see `from_delta`.

    A StructuredLinear gets the nearest W; its bias is left as it is.

    >>> import torch
    >>> from sepmat.nn import StructuredLinear, load_delta
    >>> dense = torch.nn.Linear(6, 4)
    >>> layer = StructuredLinear(6, 4, "kronecker", shapes=((2, 2), (2, 3)), terms=4)  # as many terms as it takes
    >>> fit = load_delta(layer, dense.weight)
    >>> layer.bias.data.copy_(dense.bias).shape, fit.relative_error < 1e-6
    (torch.Size([4]), True)
    """
    where = "load_delta"
    if not isinstance(update, (StructuredUpdate, StructuredLinear)):
        expected = "a StructuredUpdate or a StructuredLinear"
        raise DTypeError(where, "update", type(update).__name__, expected, "load_deltas sets those inside a model")
    delta, p = as_delta(M, where), update.parametrisation
    if tuple(delta.shape) != p.shape:
        raise ShapeError(where, "M", f"shape {tuple(delta.shape)}", f"{p.shape}, that of the update", "Transpose it")
    scale = update.scale if isinstance(update, StructuredUpdate) else 1.0
    if not scale:
        raise ArgumentError(where, "update", "a scale of 0", "any other", "Make the update with alpha != 0")
    norm = torch.linalg.norm(delta)
    if not bool(norm) and isinstance(
        update, StructuredUpdate
    ):  # the start of any update, which can be trained: one factor is zero, and not all are
        draw = int(_check.as_generator(seed, where).integers(2**63))
        update.reset_parameters(torch.Generator(delta.device).manual_seed(draw))
        return Fit(update.matrix().map(torch.detach), 0.0, p.num_parameters, optimal=True)
    if not bool(norm):
        raise ArgumentError(where, "M", "zeros", "a matrix that is not", "A layer of zeros would hardly train")
    found, optimal = p.nearest(delta / scale, seed)
    with torch.no_grad():
        for name, value in found.items():
            getattr(update, name).copy_(value)
        error = torch.linalg.norm(delta - update.to_dense().to(delta)) / norm
    return Fit(update.matrix().map(torch.detach), float(error), p.num_parameters, optimal=optimal)


def load_deltas(
    model: nn.Module, deltas: Mapping[str, Any], adapter: str | None = None, seed: Any = 0
) -> dict[str, Fit]:
    """`load_delta` for every update in a model: of `sepmat.nn.adapt` or of a PEFT model.

    deltas: the name of a linear layer, as in the model before it was adapted → its ΔW, in the layout (out, in).
    adapter: where a PEFT model has several adapters, the one to set. Layers without a ΔW are left as they are.
    Returns the name of the layer → Fit. Raises ArgumentError where no update has a name given.

    >>> import torch
    >>> from sepmat.nn import adapt, load_deltas
    >>> model = adapt(torch.nn.Sequential(torch.nn.Linear(4, 4)), ["0"], "circulant")
    >>> fits = load_deltas(model, {"0": torch.eye(4)})
    >>> fits["0"].relative_error < 1e-6, model[0].update.c.data.round(decimals=3)
    (True, tensor([1., 0., 0., 0.]))
    """
    where, fits, seen = "load_deltas", {}, []
    for path, module in model.named_modules():
        if isinstance(module, StructuredUpdate) and (adapter is None or path.rpartition(".")[2] == adapter):
            seen.append(path)
            near = [name for name in deltas if f".{name}." in f".{path}"]
            if near:
                name = max(near, key=len)
                fits[name] = load_delta(module, deltas[name], seed)
    if missing := sorted(set(deltas) - set(fits)):
        expected = f"layers with an update: {', '.join(seen) or 'there are none'}"
        raise ArgumentError(where, "deltas", f"no update for {', '.join(missing)}", expected, "Check the names")
    return fits


def as_delta(M: Any, where: str) -> Tensor:
    """ΔW as a float64 tensor without a gradient."""
    if isinstance(M, StructuredMatrix):
        M = M.to_dense()
    delta = M.detach() if isinstance(M, Tensor) else torch.from_numpy(_check.as_array(M, where, "M", 2))
    if delta.ndim != 2 or 0 in delta.shape:
        raise ShapeError(where, "M", f"shape {tuple(delta.shape)}", "a matrix (out, in)", "Pass the ΔW of one layer")
    return _check.check_finite(delta.to(torch.float64), where, "M")
