"""f-circulants and sums of products of two of them on rows of real tensors, by real FFTs, with a backward of their own.

Rows are taken a few at a time: the transforms of a chunk stay in the cache, whatever the number of rows, and nothing
complex but the spectra outlives it. The backward keeps x and transforms it anew. With X, G and V the transforms of a row, of
the gradient of its result and of the generator, and weights w = 1/n (2/n for a frequency that stands for its conjugate too)

    y = F⁻¹(V X)      ∂x = F⁻¹(conj(V) G)      ∂V = w Σ_rows conj(X) G

so `convolve` and `correlate` are each other's derivatives, of any order. Conjugates are formed, because lazy ones are lost
inside an operator that compiled code calls.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import derivative, operator

# Bytes of the complex coefficients of the rows that are transformed together: with fewer the calls count, with more than L2 holds the
# memory does; on the CPU half and twice as many do as well.
CHUNK = {"cpu": 2**19, "cuda": 2**26}
SAFE = {torch.float32: 32, torch.float64: 256}  # rows with norms from 2^-SAFE to 2^SAFE need no scaling


class _Basis:
    """The eigenvectors of the n×n f-circulants as a transform of rows; see `sepmat.kernels.fourier`."""

    def __init__(self, twist: Tensor | None, n: int) -> None:
        self.twist, self.n = twist, n
        self.folded = twist is not None and n % 2 == 0
        self.back = torch.conj_physical(twist) if self.folded else twist

    def forward(self, x: Tensor, at: int = 0) -> Tensor:
        """The coefficients of the rows of x, which stand from `at` on in rows of n zeros."""
        if at:
            x = torch.nn.functional.pad(x, (at, self.n - at - x.shape[1]))
        if self.twist is None:
            return torch.fft.rfft(x, n=self.n)
        if x.shape[1] < self.n:
            x = torch.nn.functional.pad(x, (0, self.n - x.shape[1]))
        if not self.folded:
            return torch.fft.rfft(x * self.twist)
        half = self.n // 2
        return torch.fft.fft(torch.complex(x[:, :half], x[:, half:]).mul_(self.twist))

    def inverse(self, X: Tensor, out: Tensor, at: int = 0) -> Tensor:
        """Entries from `at` on of the rows with these coefficients, into out."""
        stop = at + out.shape[1]
        if self.twist is None:
            return out.copy_(torch.fft.irfft(X, n=self.n)[:, at:stop])
        if not self.folded:
            return out.copy_(torch.fft.irfft(X, n=self.n).mul_(self.back)[:, at:stop])
        z, half = torch.fft.ifft(X).mul_(self.back), self.n // 2
        first, last = z.real[:, at:stop], z.imag[:, max(0, at - half) : max(0, stop - half)]
        out[:, : first.shape[1]] = first
        out[:, first.shape[1] :] = last  # out may be in half precision
        return out

    def weighted(self, total: Tensor) -> Tensor:
        """The gradient of the spectrum from Σ conj(X) G: times w, in place."""
        if self.folded:
            return total.mul_(2.0 / self.n)
        total.mul_(1.0 / self.n)[..., 1 : (self.n + 1) // 2].mul_(2.0)
        return total


def _chunks(x: Tensor, n: int) -> Iterator[slice]:
    """Slices of the rows of x that are transformed together."""
    step = max(8, CHUNK.get(x.device.type, CHUNK["cuda"]) // (4 * n))
    for i in range(0, x.shape[0], step):
        yield slice(i, i + step)


def _near_one(x: Tensor) -> tuple[Tensor, float]:
    """x / s in a precision that has transforms, and s: a power of two where x is far from 1, else 1."""
    x = x.detach()
    x = x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    if x.device.type != "cpu":  # looking would make the host wait
        return x, 1.0
    limit = SAFE[x.dtype]
    if 2.0**-limit < float(torch.linalg.vector_norm(x)) < 2.0**limit:
        return x, 1.0
    top = float(x.abs().amax())
    if not 0 < top < math.inf:
        return x, 1.0
    s = 2.0 ** max(-3 * limit, min(3 * limit, math.frexp(top)[1]))
    return x / s, s


# one f-circulant --------------------------------------------------------------------------------------------------------


@operator(lambda values, x, twist, n, at, start, stop: x.new_empty(x.shape[0], stop - start))
def convolve(values: Tensor, x: Tensor, twist: Tensor | None, n: int, at: int, start: int, stop: int) -> Tensor:
    """Entries start to stop of A x for the f-circulant A with the spectrum `values` and the rows of x, which stand from
    `at` on in n zeros. Two FFTs of length n a row."""
    basis, y = _Basis(twist, n), x.new_empty(x.shape[0], stop - start)
    for rows in _chunks(x, n):
        part, s = _near_one(x[rows])
        out = basis.inverse(basis.forward(part, at).mul_(values), y[rows], start)
        if s != 1.0:
            out.mul_(s)
    return y


def _spectrum_like(x: Tensor, g: Tensor, twist: Tensor | None, n: int, at: int, start: int) -> Tensor:
    length = n // 2 if twist is not None and n % 2 == 0 else n // 2 + 1
    return x.new_empty(length, dtype=torch.complex128 if x.dtype == torch.float64 else torch.complex64)


@operator(_spectrum_like)
def correlate(x: Tensor, g: Tensor, twist: Tensor | None, n: int, at: int, start: int) -> Tensor:
    """The gradient of the spectrum of `convolve` from that of its result, g: Σ_rows w conj(X) G. Two FFTs a row."""
    basis, total = _Basis(twist, n), None
    for rows in _chunks(x, n):
        (part, s), (grad, t) = _near_one(x[rows]), _near_one(g[rows])
        total = _added(total, basis.forward(part, at), basis.forward(grad, start), s, t)
    return basis.weighted(total)


@operator(lambda values, x, g, twist, n, at, start: (torch.empty_like(x), torch.empty_like(values)))
def convolve_backward(
    values: Tensor, x: Tensor, g: Tensor, twist: Tensor | None, n: int, at: int, start: int
) -> tuple[Tensor, Tensor]:
    """(∂x, ∂values) of `convolve` together: three FFTs a row in place of four."""
    basis, conjugate, dx, total = _Basis(twist, n), torch.conj_physical(values), torch.empty_like(x), None
    for rows in _chunks(x, n):
        (part, s), (grad, t) = _near_one(x[rows]), _near_one(g[rows])
        G = basis.forward(grad, start)
        total = _added(total, basis.forward(part, at), G, s, t)
        out = basis.inverse(G.mul_(conjugate), dx[rows], at)
        if t != 1.0:
            out.mul_(t)
    return dx, basis.weighted(total)


def _added(total: Tensor | None, X: Tensor, G: Tensor, s: float, t: float) -> Tensor:
    """total + s t Σ_rows conj(X) G; overwrites X."""
    part = torch.conj_physical_(X).mul_(G).sum(dim=0)
    if s != 1.0 or t != 1.0:
        part = part * s * t
    return part if total is None else total.add_(part)


def _keep_convolve(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, x, twist, ctx.n, ctx.at, ctx.start, _ = inputs
    ctx.stop = ctx.at + x.shape[1]
    ctx.save_for_backward(values, x if ctx.needs_input_grad[0] else None, twist)


@derivative(convolve, _keep_convolve)
def _convolve_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (values, x, twist), n, at, start = ctx.saved_tensors, ctx.n, ctx.at, ctx.start
    needs_values, needs_x = ctx.needs_input_grad[:2]
    dx = total = None
    if needs_values and needs_x and not torch.is_grad_enabled():
        dx, total = convolve_backward(values, x, g, twist, n, at, start)
    else:
        if needs_x:
            dx = convolve(torch.conj_physical(values), g, twist, n, start, at, ctx.stop)
        if needs_values:
            total = correlate(x, g, twist, n, at, start)
    return total, dx, None, None, None, None, None


def _keep_correlate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, g, twist, ctx.n, ctx.at, ctx.start = inputs
    ctx.save_for_backward(x, g, twist)


@derivative(correlate, _keep_correlate)
def _correlate_gradients(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    (x, g, twist), n, at, start = ctx.saved_tensors, ctx.n, ctx.at, ctx.start
    dx = dg = None
    if ctx.needs_input_grad[0]:
        dx = convolve(torch.conj_physical(u), g, twist, n, start, at, at + x.shape[1])
    if ctx.needs_input_grad[1]:
        dg = convolve(u.resolve_conj(), x, twist, n, at, start, start + g.shape[1])
    return dx, dg, None, None, None, None


# sums of products of two --------------------------------------------------------------------------------------------------


@operator(lambda outer, inner, x, outer_twist, inner_twist, n, stop: x.new_empty(x.shape[0], stop))
def convolve_twice(
    outer: Tensor, inner: Tensor, x: Tensor, outer_twist: Tensor | None, inner_twist: Tensor | None, n: int, stop: int
) -> Tensor:
    """The first `stop` entries of Σ_i A_i B_i x, A_i and B_i the f-circulants of two spectra (terms, K), for the rows of x,
    padded by zeros. 2 + 2 terms FFTs of length n a row."""
    first, last, y = _Basis(inner_twist, n), _Basis(outer_twist, n), x.new_empty(x.shape[0], stop)
    for rows in _chunks(x, n):
        part, s = _near_one(x[rows])
        X, u, total = first.forward(part), part.new_empty(part.shape[0], n), None
        for V, W in zip(inner, outer, strict=True):
            Y = last.forward(first.inverse(X * V, u)).mul_(W)
            total = Y if total is None else total.add_(Y)
        out = last.inverse(total, y[rows])
        if s != 1.0:
            out.mul_(s)
    return y


@operator(lambda outer, inner, x, *rest: tuple(map(torch.empty_like, (outer, inner, x))))
def convolve_twice_backward(
    outer: Tensor, inner: Tensor, x: Tensor, g: Tensor, outer_twist: Tensor | None, inner_twist: Tensor | None, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(∂outer, ∂inner, ∂x) of `convolve_twice`: 3 + 4 terms FFTs a row."""
    first, last = _Basis(inner_twist, n), _Basis(outer_twist, n)
    dx, d_outer, d_inner = torch.empty_like(x), torch.zeros_like(outer), torch.zeros_like(inner)
    for rows in _chunks(x, n):
        (part, s), (grad, t) = _near_one(x[rows]), _near_one(g[rows])
        X, G, total = first.forward(part), last.forward(grad), None
        u = part.new_empty(part.shape[0], n)
        for i in range(outer.shape[0]):
            U = last.forward(first.inverse(X * inner[i], u))
            _added(d_outer[i], U, G, s, t)
            Z = first.forward(last.inverse(G * torch.conj_physical(outer[i]), u))
            _added(d_inner[i], X.clone(), Z, s, t)
            Z.mul_(torch.conj_physical(inner[i]))
            total = Z if total is None else total.add_(Z)
        out = first.inverse(total, dx[rows])
        if t != 1.0:
            out.mul_(t)
    return last.weighted(d_outer), first.weighted(d_inner), dx


def _keep_twice(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    outer, inner, x, outer_twist, inner_twist, ctx.n, ctx.stop = inputs
    ctx.save_for_backward(outer, inner, x if any(ctx.needs_input_grad[:2]) else None, outer_twist, inner_twist)
    ctx.length = x.shape[1]


@derivative(convolve_twice, _keep_twice)
def _twice_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (outer, inner, x, outer_twist, inner_twist), n = ctx.saved_tensors, ctx.n
    needs_outer, needs_inner, _ = ctx.needs_input_grad[:3]
    if not (needs_outer or needs_inner):  # the transpose
        back = torch.conj_physical(inner), torch.conj_physical(outer)
        dx = convolve_twice(*back, g, inner_twist, outer_twist, n, ctx.length)
        return None, None, dx, None, None, None, None
    if not torch.is_grad_enabled():
        d_outer, d_inner, dx = convolve_twice_backward(outer, inner, x, g, outer_twist, inner_twist, n)
        return d_outer, d_inner, dx, None, None, None, None
    d_outers, d_inners, dx = [], [], None  # one after the other, each of them differentiable again
    for V, W in zip(inner, outer, strict=True):
        u = convolve(V, x, inner_twist, n, 0, 0, n)
        z = convolve(torch.conj_physical(W), g, outer_twist, n, 0, 0, n)
        d_outers.append(correlate(u, g, outer_twist, n, 0, 0))
        d_inners.append(correlate(x, z, inner_twist, n, 0, 0))
        part = convolve(torch.conj_physical(V), z, inner_twist, n, 0, 0, ctx.length)
        dx = part if dx is None else dx + part
    return torch.stack(d_outers), torch.stack(d_inners), dx, None, None, None, None
