"""Every way there is to compute a timed problem: ours, the same on cuBLAS, einsum, torch, other packages.

All ways meet the same numbers. Each is compared with float64 NumPy on some rows before it is timed; one that is wrong, not
installed or refuses is written down as such.
"""

import contextlib
import functools
import importlib
import math
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sepmat.kernels.kron import laid_out, stacks_laid_out
from sepmat.kernels.reference import merged
from studies._gpu_problem import Problem, Way
from studies._gpu_routes import KERNEL, MERGED, forced, route

OURS, AGAIN = "sepmat", "sepmat again"
MATMUL, LINEAR_OPERATOR, PEFT = "cupy.matmul chain", "linear_operator", "PEFT LoKr"
TF32 = 2e-3
DENSE = 4096  # the longest row for which the dense matrix takes part


def ways(problem: Problem) -> Iterator[Way]:
    """All ways to a problem, ours first and once more at the end: what lies between the two is noise."""
    kind = problem.case.kind
    library = problem.home
    yield Way(OURS, library, lambda: ours(problem))
    yield from RIVALS[kind](problem)
    yield Way(AGAIN, library, lambda: ours(problem))


def ours(p: Problem) -> Callable[[Any], Any]:
    """What a user of the library writes."""
    import sepmat as sm

    if p.case.kind == "form":
        return lambda x: p.update(x)
    if p.case.kind == "circulant":
        C = sm.Circulant(p.factors[0])
        return lambda x: x @ C.T
    if p.case.kind == "toeplitz":
        T = sm.Toeplitz(*p.factors)
        return lambda x: x @ T.T
    if p.g is not None:
        return differentiated(p, p.factors, lambda x, factors: x @ _matrix(p, factors).T)
    A = _matrix(p, p.factors)
    return lambda x: x @ A.T


def _matrix(p: Problem, factors: Sequence[Any]) -> Any:
    import sepmat as sm

    return sm.Separated(list(factors)) if p.summed else sm.Kronecker(*factors)


def fixed(p: Problem, which: str) -> Callable[[Any], Any]:
    """A route that is forced, its factors multiplied out and laid out beforehand, as the library remembers them."""
    case = p.case
    groups = route(which, case.shapes, case.rows, case.dtype, case.terms if p.summed else 1).groups
    factors = (stacks_laid_out if p.summed else laid_out)(merged(p.factors, groups))
    return lambda x: forced(which, factors, x, -1, p.summed)


def chain(xp: Any, factors: Sequence[Any], x: Any) -> Any:
    """One GEMM, or one batch of them, for each factor, from the last to the first: nothing is merged or transposed."""
    rows, sizes = x.shape[0], [F.shape[-1] for F in factors]
    for i in reversed(range(len(factors))):
        F, after = factors[i], math.prod(sizes[i + 1 :])
        x = xp.matmul(x.reshape(-1, sizes[i]), F.T) if after == 1 else xp.matmul(F, x.reshape(-1, sizes[i], after))
        sizes[i] = F.shape[0]
    return x.reshape(rows, math.prod(sizes))


def by_terms(p: Problem, factors: Sequence[Any]) -> list[Sequence[Any]]:
    """The factors of each term."""
    return list(zip(*factors, strict=True)) if p.summed else [factors]


def added_up(xp: Any, terms: Sequence[Sequence[Any]], x: Any) -> Any:
    """The chain of each term, added up: of one term nothing but its chain."""
    first, *others = terms
    y = chain(xp, first, x)
    for term in others:
        y = y + chain(xp, term, x)
    return y


def expression(modes: int, terms: bool) -> str:
    """The einsum of a product, or of a sum of them."""
    small, big = string.ascii_lowercase[:modes], string.ascii_uppercase[:modes]
    factors = ",".join(("Z" if terms else "") + b + a for a, b in zip(small, big, strict=True))
    return f"z{small},{factors}->z{big}"


def contracted(p: Problem, einsum: Callable[..., Any], factors: Sequence[Any]) -> Callable[[Any], Any]:
    """einsum over all factors at once; the library finds the order."""
    text, shape = expression(len(factors), p.summed), tuple(F.shape[-1] for F in factors)
    return lambda x: einsum(text, x.reshape(-1, *shape), *factors).reshape(x.shape[0], -1)


def dense(xp: Any, p: Problem, factors: Sequence[Any]) -> Any:
    """The matrix itself."""
    kron = functools.partial(functools.reduce, xp.kron)
    return sum(kron(list(t)) for t in zip(*factors, strict=True)) if p.summed else kron(list(factors))


def operator(p: Problem, factors: Sequence[Any]) -> Any:
    """The matrix as an operator of linear_operator."""
    ops = importlib.import_module("linear_operator").operators

    def one(each: Sequence[Any]) -> Any:
        return ops.KroneckerProductLinearOperator(*(ops.DenseLinearOperator(F) for F in each))

    return ops.SumLinearOperator(*(one(t) for t in zip(*factors, strict=True))) if p.summed else one(factors)


def products(p: Problem) -> Iterator[Way]:
    """One Kronecker product, or a sum of them."""
    cupy, torch, terms = p.device.cupy, p.device.torch, by_terms(p, p.factors)
    for name in (KERNEL, MERGED):
        yield Way(name, "cupy", functools.partial(fixed, p, name))
    yield Way(MATMUL, "cupy", lambda: lambda x: added_up(cupy, terms, x))
    optimised = functools.partial(cupy.einsum, optimize=True)
    yield Way("cupy.einsum", "cupy", lambda: contracted(p, optimised, p.factors))
    if p.case.columns <= DENSE:
        yield Way("dense", "cupy", lambda: _times(dense(cupy, p, p.factors)))
    if torch:
        F = [p.tensor(a) for a in p.factors]
        each = by_terms(p, F)
        yield Way("torch chain", "torch", lambda: lambda x: added_up(torch, each, x))
        yield Way("torch.einsum", "torch", lambda: contracted(p, torch.einsum, F))
        if p.case.compiled:
            yield Way("torch.compile of the chain", "torch", lambda: compiled(p, lambda x: added_up(torch, each, x)))
        yield Way(LINEAR_OPERATOR, "torch", lambda: _of(operator(p, F)), columns=True)
        yield Way("sepmat on torch", "torch", lambda: _times_ours(_matrix(p, F)))


def layers(p: Problem) -> Iterator[Way]:
    """A layer of a sum of Kronecker products in bfloat16: what PEFT does, formed, in two GEMMs for each term."""
    torch, F = p.device.torch, p.factors
    yield Way(PEFT, "torch", lambda: lokr(p))
    yield Way("formed", "torch", lambda: lambda x: torch.nn.functional.linear(x, _formed(torch, F)))
    yield Way("two-GEMM chain", "torch", lambda: lambda x: two_gemms(F, x))
    yield Way("dense", "torch", lambda: _times(_formed(torch, F)))


def lokr(p: Problem) -> Callable[[Any], Any]:
    """The delta of PEFT's LoKr layer at each forward, its own function; for more terms once for each."""
    torch, kron = p.device.torch, importlib.import_module("peft.tuners.lokr.layer").make_kron
    terms = by_terms(p, p.factors)

    def call(x: Any, given: Any = None) -> Any:
        weight = sum(kron(a, b, 1.0) for a, b in (given or terms))
        return torch.nn.functional.linear(x, weight)

    return call


def _formed(torch: Any, stacks: Sequence[Any]) -> Any:
    """Σ_l K1_l ⊗ K2_l in one GEMM and a permuted copy."""
    (terms, m1, n1), (_, m2, n2) = (F.shape for F in stacks)
    W = stacks[0].reshape(terms, -1).mT @ stacks[1].reshape(terms, -1)
    return W.reshape(m1, n1, m2, n2).permute(0, 2, 1, 3).reshape(m1 * m2, n1 * n2)


def two_gemms(stacks: Sequence[Any], x: Any) -> Any:
    """All K2_l in one tall matrix, then all K1_l in one wide one."""
    (terms, m1, n1), (_, m2, n2) = (F.shape for F in stacks)
    y = x.reshape(-1, n2) @ stacks[1].reshape(terms * m2, n2).mT
    wide = stacks[0].permute(1, 2, 0).reshape(m1, n1 * terms)
    return (wide @ y.reshape(-1, n1 * terms, m2)).reshape(x.shape[0], m1 * m2)


def forms(p: Problem) -> Iterator[Way]:
    """A low-rank update whose thin factors are Kronecker sums: thin factors that are there already, the dense weight."""
    thin = p.update.matrix()
    yield Way("LoRA: two thin GEMMs", "torch", lambda: lambda x: (x @ thin.V) @ thin.U.mT)
    A, B = p.update.parametrisation.separated(dict(p.update.named_parameters()))
    yield Way("factored chain", "torch", lambda: lambda x: (x @ B.T) @ A.T)
    yield Way("dense", "torch", lambda: _times(p.update.to_dense()))


def bands(p: Problem) -> Iterator[Way]:
    """Toeplitz and circulant: FFTs of CuPy, the dense matrix in float32 and TF32."""
    cupy, torch, n = p.device.cupy, p.device.torch, p.case.size
    column = p.factors[0]
    row = p.factors[1] if p.case.kind == "toeplitz" else cupy.roll(column[::-1], 1)
    yield Way("FFT chain", "cupy", lambda: transforms(cupy, column, row, p.case.kind == "circulant"))
    index = cupy.arange(n)[:, None] - cupy.arange(n)[None, :]
    W = cupy.where(index >= 0, column[cupy.maximum(index, 0)], row[cupy.maximum(-index, 0)])
    yield Way("dense GEMM", "cupy", lambda: _times(W))
    if torch:
        yield Way("dense GEMM, TF32", "torch", lambda: _tf32(torch, p.tensor(W)), limit=TF32)


def transforms(cupy: Any, column: Any, row: Any, circulant: bool) -> Callable[[Any], Any]:
    """Pad, transform, multiply, transform back, crop."""
    n = column.shape[0]
    c = column if circulant else cupy.concatenate([column, column[:1] * 0, row[:0:-1]])
    N, spectrum = c.shape[0], cupy.fft.rfft(c)
    return lambda x: cupy.fft.irfft(cupy.fft.rfft(x, N, axis=-1) * spectrum, N, axis=-1)[:, :n]


def backwards(p: Problem) -> Iterator[Way]:
    """Forward, and the gradients of x and of every factor."""
    torch = p.device.torch
    if p.case.dtype == "bfloat16":
        with contextlib.suppress(ImportError):
            call = lokr(p)
            yield Way(PEFT, "torch", lambda: differentiated(p, p.factors, lambda x, F: call(x, [F])))
    yield Way(
        "torch chain", "torch", lambda: differentiated(p, p.factors, lambda x, F: added_up(torch, by_terms(p, F), x))
    )
    yield Way(LINEAR_OPERATOR, "torch", lambda: differentiated(p, p.factors, lambda x, F: (operator(p, F) @ x.mT).mT))
    if p.case.compiled:
        yield Way(
            "sepmat in torch.compile",
            "torch",
            lambda: differentiated(p, p.factors, compiled(p, lambda x, F: x @ _matrix(p, F).T)),
        )


def differentiated(p: Problem, factors: Sequence[Any], product: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """product(x, factors) with all its gradients; returns that of x."""
    torch, leaves = p.device.torch, [F.detach().requires_grad_() for F in factors]

    def call(x: Any) -> Any:
        with torch.enable_grad():
            return torch.autograd.grad(product(x, leaves), [x, *leaves], p.g)[0]

    return call


def compiled(p: Problem, call: Callable[..., Any]) -> Callable[..., Any]:
    """Through torch.compile, as one graph."""
    made: Callable[..., Any] = p.device.torch.compile(call, fullgraph=True)
    return made


def _times(W: Any) -> Callable[[Any], Any]:
    return lambda x: x @ W.T


def _times_ours(A: Any) -> Callable[[Any], Any]:
    return lambda x: x @ A.T


def _of(K: Any) -> Callable[[Any], Any]:
    return lambda x: K @ x


def _tf32(torch: Any, W: Any) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return x @ W.T
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return call


RIVALS = {
    "chain": products,
    "sum": products,
    "layer": layers,
    "form": forms,
    "backward": backwards,
    "toeplitz": bands,
    "circulant": bands,
}  # of each kind of case
