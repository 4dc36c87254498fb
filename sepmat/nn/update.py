"""The two modules around a parametrisation: StructuredUpdate adds to a frozen layer, StructuredLinear is one itself."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check
from ..errors import ArgumentError, DTypeError, ShapeError
from ..matrix import StructuredMatrix
from .contract import GAIN, Parametrisation
from .parametrisations import parametrisation
from .weights import guarded


class _Structured(nn.Module):
    """What both share: flat parameters, the matrix on them, and products with it in the right precision."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: str | Parametrisation,
        options: Mapping[str, Any],
        shared: Mapping[str, nn.Parameter],
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.in_features = _check.as_integer(in_features, where, "in_features", 1)
        self.out_features = _check.as_integer(out_features, where, "out_features", 1)
        self.parametrisation = parametrisation(structure, (self.out_features, self.in_features), **options)
        self._names = tuple(self.parametrisation.parameter_shapes())
        self._own = tuple(name for name in self._names if name not in shared)
        for name, shape in self.parametrisation.parameter_shapes().items():
            p = shared.get(name)
            if p is None:
                p = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            elif tuple(p.shape) != shape:
                raise ShapeError(
                    where, f"shared[{name!r}]", f"shape {tuple(p.shape)}", f"{shape}", "Share among equals"
                )
            self.register_parameter(name, p)
        if not (dtype := getattr(self, self._names[0]).dtype).is_floating_point:
            raise DTypeError(where, "dtype", str(dtype), "a real floating point dtype", "Use torch.float32")

    @property
    def structure(self) -> str:
        """The name of the structure, a key of PARAMETRISATIONS."""
        return self.parametrisation.name

    def _tensors(self, scale: float = 1.0) -> dict[str, Tensor]:
        """The parameters by name; a scale goes into the factor that the matrix is linear in, the smallest there is."""
        tensors = {name: getattr(self, name) for name in self._names}
        if scale != 1.0:
            for name in self.parametrisation.moved:
                tensors[name] = tensors[name] * scale
        return tensors

    def _initialise(self, zero: bool, gain: float, generator: torch.Generator | None) -> None:
        own = {name: getattr(self, name) for name in self._own}
        self.parametrisation.initialise(own, zero=zero, gain=gain, generator=generator)

    def _multiply(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """x Wᵀ, in the dtype that `torch.nn.Linear` would give, of W in the precision of its parameters.

        Where FFTs run, that is float32 or more: half precision has none, and autocast leaves them alone.
        """
        if not isinstance(x, Tensor):
            raise DTypeError(type(self).__name__, "x", type(x).__name__, "a torch tensor", "Use torch.as_tensor(x)")
        if x.shape[-1:] != (self.in_features,):
            expected = f"(..., {self.in_features})"
            raise ShapeError(type(self).__name__, "x", f"shape {tuple(x.shape)}", expected, "Check the sizes")
        if not x.dtype.is_floating_point:
            raise DTypeError(type(self).__name__, "x", str(x.dtype), "real floating point numbers", "Convert it first")
        kind, result = x.device.type, x.dtype
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if cast and result != torch.float64:
            result = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False) if cast else contextlib.nullcontext():
            tensors = self._tensors(scale)
            dtype = torch.promote_types(x.dtype, tensors[self._names[0]].dtype)
            if self.parametrisation.transforms:
                dtype = torch.promote_types(dtype, torch.float32)
            W = self.parametrisation.matrix({name: p.to(dtype) for name, p in tensors.items()})
            if cast and not self.parametrisation.transforms and dtype != result:  # thin factors are formed before that
                dtype, W = result, W.map(lambda a: a.to(result))
            if not (self.parametrisation.transforms and x.dtype.itemsize == 2 and not W._remembers):
                x = x.to(dtype)  # else the transforms widen it, a few rows at a time
            return W._once()._apply(x, -1).to(result)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """The name of the structure beside the version, in what torch calls the metadata: shapes tell no circulant from a skew one."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {})["structure"] = self.structure

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        saved = local_metadata.get("structure", self.structure)
        if saved == self.structure:
            return super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing, unexpected, errors
            )
        got, expected = f"parameters of {saved!r}", f"those of {self.structure!r}"
        advice = f"Build it with structure={saved!r}, or use sepmat.nn.load_delta with the dense matrix"
        errors.append(str(ArgumentError("load_state_dict", prefix[:-1] or "state_dict", got, expected, advice)))

    def to_dense(self) -> Tensor:
        """The dense matrix (out, in) as a new tensor. Raises SizeLimitError above 1 GiB."""
        return self.matrix().to_dense()

    def matrix(self) -> StructuredMatrix:
        """The matrix (out, in) as an object of the core, on the parameters themselves."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        options = {k: v for k, v in self.parametrisation.options.items() if v is not None}
        parts = [
            f"in_features={self.in_features}",
            f"out_features={self.out_features}",
            f"structure={self.structure!r}",
        ]
        return ", ".join([*parts, *(f"{name}={value}" for name, value in options.items())])


class StructuredUpdate(_Structured):
    """x ↦ scale · x Wᵀ, an additive update ΔW = scale · W of a linear layer, zero at the start.

    structure: a name of PARAMETRISATIONS, with its options, or a Parametrisation. alpha: the scale (for "lora" alpha / rank);
    None: 1. The parameters are attributes of their names. shared: parameters of other updates to use in
    place of own ones ("u1" and "v1" of "kadaptation"); they are not initialised again.
    The input may be of any floating point dtype, the output has its dtype, or that of autocast.

    >>> import torch
    >>> from sepmat.nn import StructuredUpdate
    >>> update = StructuredUpdate(768, 768, "lsr", rank=4, terms=16, alpha=2.0)
    >>> sum(p.numel() for p in update.parameters()), bool((update(torch.ones(3, 768)) == 0).all())
    (3584, True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: str | Parametrisation,
        *,
        alpha: float | None = None,
        shared: Mapping[str, nn.Parameter] | None = None,
        device: Any = None,
        dtype: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, structure, options, shared or {}, device, dtype)
        self.scale = self.parametrisation.scale(alpha)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None, zero: bool = True) -> None:
        """ΔW = 0 by exactly one zero factor; zero=False: a random ΔW, as a layer starts."""
        self._initialise(zero, GAIN, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(x, self.scale)

    def matrix(self) -> StructuredMatrix:
        """ΔW with its scale."""
        return self.parametrisation.matrix(self._tensors(self.scale))

    def to_dense(self) -> Tensor:
        """ΔW as a new tensor, without a limit: the weight that it is added to has this size already."""
        return self.matrix().to_dense(max_bytes=_check.LARGEST_INDEX)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale:g}"


class StructuredLinear(_Structured):
    """y = x Wᵀ + b with a structured W: `torch.nn.Linear` with another weight.

    Arguments as of `torch.nn.Linear`, and the structure with its options. Starts with Var(x Wᵀ) = gain Var(x);
    the default is what `torch.nn.Linear` has, and b is drawn as there. gain=2: for a ReLU before or after it.

    >>> import torch
    >>> from sepmat.nn import StructuredLinear
    >>> layer = StructuredLinear(48, 32, "toeplitz")
    >>> layer, layer(torch.ones(5, 48)).shape
    (StructuredLinear(in_features=48, out_features=32, structure='toeplitz', factors=1, bias=True), torch.Size([5, 32]))
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: str | Parametrisation,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        gain: float = GAIN,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, structure, options, {}, device, dtype)
        self.gain = _check.as_positive(gain, type(self).__name__, "gain")
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self._initialise(False, self.gain, generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            with torch.no_grad():
                self.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        y = self._multiply(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """To be asked for dtype, device and sizes, as that of `torch.nn.Linear`; `to_dense` forms the numbers."""
        first = getattr(self, self._names[0]).detach()
        return guarded(first.reshape(-1)[:1].expand(self.out_features, self.in_features), type(self).__name__)

    def matrix(self) -> StructuredMatrix:
        """W."""
        return self.parametrisation.matrix(self._tensors())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bias={self.bias is not None}"
