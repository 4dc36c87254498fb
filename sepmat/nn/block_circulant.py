"""Block-circulant matrices, as C3A has them: what rectangular circulants are compared with."""

from typing import Any, final

from .. import _array, _check
from .._array import Array
from ..errors import DTypeError
from ..matrix import StructuredMatrix, structure


@final
@structure
class BlockCirculant(StructuredMatrix):
    """P×Q blocks that are circulants of size b: A[(p, i), (q, j)] = c[p, q, (i - j) mod b], real.

    c: (P, Q, b). A product costs Q + P real FFTs of length b a vector and P Q products of their spectra.

    >>> import torch
    >>> from sepmat.nn.block_circulant import BlockCirculant
    >>> BlockCirculant(torch.arange(4.0).reshape(1, 2, 2)).to_dense()
    tensor([[0., 1., 2., 3.],
            [1., 0., 3., 2.]])
    """

    c: Array

    def __init__(self, c: Any) -> None:
        c = _check.as_array(c, "BlockCirculant", "c", 3, keep=True)
        if _array.is_complex(c):
            raise DTypeError("BlockCirculant", "c", str(c.dtype), "real numbers", "Use real and imaginary part")
        object.__setattr__(self, "c", c)

    @property
    def shape(self) -> tuple[int, int]:
        P, Q, b = self.c.shape
        return (P * b, Q * b)

    def _apply(self, x: Array, axis: int) -> Array:
        """One GEMM over the blocks for every frequency."""
        xp = self.xp
        if axis == -2:
            return xp.matrix_transpose(self._apply(xp.matrix_transpose(x), -1))
        P, Q, b = self.c.shape
        c, z = (_array.astype(a, xp.float32) if _array.is_half(a.dtype) else a for a in (self.c, x))
        S = xp.permute_dims(xp.fft.rfft(c, axis=-1), (2, 1, 0))
        X = xp.permute_dims(xp.fft.rfft(xp.reshape(z, (-1, Q, b)), axis=-1), (2, 0, 1))
        y = xp.fft.irfft(xp.permute_dims(X @ S, (1, 2, 0)), n=b, axis=-1)
        return _array.astype(xp.reshape(y, (*x.shape[:-1], P * b)), x.dtype)

    def _transpose(self) -> StructuredMatrix:
        xp, c = self.xp, self.c
        c = xp.concat((c[:, :, :1], xp.flip(c[:, :, 1:], axis=-1)), axis=-1)
        return BlockCirculant._of(c=xp.permute_dims(c, (1, 0, 2)))

    def _scale(self, s: Array) -> StructuredMatrix:
        s, c = _array.promote(s, self.c)
        return BlockCirculant._of(c=s * c)

    def _detail(self) -> str:
        return f"blocks of {self.c.shape[2]}"
