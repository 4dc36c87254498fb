"""What the tests of sepmat.nn share: every trainable structure with its options and its definition in extended precision."""

import numpy as np
import pytest
import reference as ref
from cases import o_dense, o_low_rank, o_separated
from conftest import host
from reference import Oracle, displacement_constant, displacement_norm

torch = pytest.importorskip("torch", reason="torch is not installed")
from sepmat import nn as snn  # noqa: E402

SIZES = ((12, 12), (12, 8), (8, 12))


# the definitions ----------------------------------------------------------------------------------------------------------


def vector_oracle(build, norm):
    return ref.normwise(build, lambda *a: ref.fft_constant(2 * ref.embedding(*a)), norm)


def circulant(build):
    def make(p, shape):
        c = p["c"] if "c" in p else p["a"] * p["b"]
        o = ref.normwise(lambda c: build(c, shape), lambda c: ref.fft_constant(len(c)), ref.circulant_norm)(c)
        return Oracle(o.D, o.G, o.E + o.G)  # one rounding for a ∘ b

    return make


o_toeplitz = vector_oracle(ref.toeplitz, ref.embedding_norm)


def symmetric(p, shape):
    (m, n), N = shape, max(shape)
    if "c" in p:
        return o_toeplitz(p["c"][:m], p["c"][:n])
    return o_toeplitz(p["b"][:m], p["b"]) @ o_toeplitz(p["a"][:N], p["a"][:n])


def toeplitz(p, shape):
    def T(c, r):
        return o_toeplitz(p[c], np.concatenate((p[c][:1], p[r])))

    return T("c", "r") if "c" in p else T("b_c", "b_r") @ T("a_c", "a_r")


def kronecker(p, shape):
    return o_separated(p["A1"], p["A2"])


def ldr(p, shape):
    build = ref.normwise(lambda G, H: ref.low_displacement_rank(G, H, shape), displacement_constant, displacement_norm)
    return build(p["G"], p["H"])


def lsr(p, shape):
    L, R = o_separated(p["A1"], p["A2"]), o_separated(p["B1"], p["B2"])
    o = L @ R
    return Oracle(o.D, o.G, o.E + (shape[1] + L.D.shape[1] + 2) * o.G)


def lora(p, shape):
    return o_low_rank(p["B"], np.ascontiguousarray(p["A"].T))


def kadaptation(p, shape):
    """Σ_i (u1_i v1_iᵀ) ⊗ (u2_i v2_iᵀ)"""
    A, B = (np.einsum("ia,ib->iab", *map(ref.wide, (p[f"u{k}"], p[f"v{k}"]))) for k in (1, 2))
    o = o_separated(A, B)
    return Oracle(o.D, o.G, (sum(shape) + 8) * o.G)


def block_circulant(p, shape):
    c = ref.wide(p["c"])
    P, Q, b = c.shape
    D = np.block([[ref.circulant(c[i, j]) for j in range(Q)] for i in range(P)])
    size = np.sqrt(np.longdouble(b)) * np.sqrt(np.sum(c**2))
    return Oracle(D, np.full(D.shape, size), np.full(D.shape, (ref.fft_constant(b) + 4 * Q) * size))


STRUCTURES = {
    "circulant": ("circulant", {}, circulant(ref.circulant)),
    "circulant pair": ("circulant", {"factors": 2}, circulant(ref.circulant)),
    "skew_circulant": ("skew_circulant", {}, circulant(ref.skew_circulant)),
    "skew_circulant pair": ("skew_circulant", {"factors": 2}, circulant(ref.skew_circulant)),
    "toeplitz": ("toeplitz", {}, toeplitz),
    "toeplitz pair": ("toeplitz", {"factors": 2}, toeplitz),
    "symmetric_toeplitz": ("symmetric_toeplitz", {}, symmetric),
    "symmetric_toeplitz pair": ("symmetric_toeplitz", {"factors": 2}, symmetric),
    "kronecker": ("kronecker", {}, kronecker),
    "kronecker rank 2": ("kronecker", {"rank": 2}, kronecker),
    "kronecker 3 terms": ("kronecker", {"terms": 3}, kronecker),
    "ldr": ("ldr", {}, ldr),
    "ldr 2": ("ldr", {"rank": 2}, ldr),
    "lsr": ("lsr", {"terms": 3}, lsr),
    "lsr rank 6": ("lsr", {"rank": 6, "terms": 2}, lsr),
    "lora": ("lora", {"rank": 2}, lora),
    "krona": ("krona", {}, kronecker),
    "kadaptation": ("kadaptation", {"terms": 4}, kadaptation),
    "block_circulant": ("block_circulant", {}, block_circulant),
    "block_circulant 2": ("block_circulant", {"block": 2}, block_circulant),
    "dense": ("dense", {}, lambda p, shape: o_dense(p["W"])),
}
ALL = pytest.mark.parametrize("key", STRUCTURES)


def update(key, shape=(12, 12), zero=False, cls=snn.StructuredUpdate, seed=0, **more):
    name, options, _ = STRUCTURES[key]
    made = cls(shape[1], shape[0], name, generator=torch.Generator().manual_seed(seed), **options, **more)
    if cls is snn.StructuredUpdate and not zero:
        made.reset_parameters(torch.Generator().manual_seed(seed), zero=False)
    return made


def numbers(module):
    return {name: host(p) for name, p in module.named_parameters() if name != "bias"}


def oracle(key, module, scale=1.0):
    o = STRUCTURES[key][2](numbers(module), module.parametrisation.shape)
    return Oracle(scale * o.D, scale * o.G, scale * (o.E + o.G))


def gaussian(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
