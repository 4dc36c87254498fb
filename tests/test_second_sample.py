"""What a second sample of mutants showed to be untested: each test fails for one that every other test let live."""

import inspect
import sys

import numpy as np
import pytest
import scipy.sparse

import sepmat as sm
from sepmat import _array, _check, _container, cauchy_like, generators, inverses, kernels
from sepmat.kernels import cauchy, fourier, fourier_nd, kron, unrolled
from sepmat.kernels._table import KernelTable

displacement = sys.modules["sepmat.displacement"]  # the function has its name
EYE3, PAIRS = np.eye(3), ((2, 2), (3, 3))
rng = np.random.default_rng


def test_seeds_are_zero_unless_given():
    seeded = {name: inspect.signature(f).parameters for name, f in vars(sm).items() if inspect.isfunction(f)}
    found = {name: parameters["seed"].default for name, parameters in seeded.items() if "seed" in parameters}
    assert len(found) > 10 and set(found.values()) == {0}


def test_rcond_is_that_of_the_one_norm():
    A = np.asarray([[1.0, 100, 100], [0, 1, 0], [0, 0, 1]])
    assert _array.lu_factor(A).rcond == pytest.approx(1 / 101**2)  # by rows: 1 / (201 · 101)


def test_sizes_at_the_edge():
    n, like = _check.sizes.LARGEST_INDEX, np.ones(1)
    with pytest.raises(sm.ShapeError, match=f"expected length {n}"):
        sm.Identity(n, like=like) @ np.ones(3)
    with pytest.raises(sm.SizeLimitError, match="more than any array can have"):
        sm.Identity(n + 1, like=like) @ np.ones(3)


def test_a_manifest_of_another_kind():
    with pytest.raises(sm.FormatError, match=r": manifest: format version None; expected a manifest of version"):
        _container._tree({_container.FORMAT: "{}"})


def test_a_rank_of_one_is_a_candidate():
    M = rng(0).standard_normal((6, 6))
    (found,) = sm.approximate(M, 12, structures=["low_rank"])
    assert type(found.matrix) is sm.LowRank and found.matrix.U.shape == (6, 1)


def test_no_columns_at_all():
    A = sm.LowDisplacementRank(np.zeros((5, 0)), np.zeros((5, 0)), shape=(5, 0))
    assert A._dense_transpose().shape == A.T.to_dense().shape == (0, 5)


@pytest.mark.parametrize("left", [1e-6, 1e-9, 1e-12])
def test_no_gram_norm_where_terms_cancel(left):
    u, v, e = rng(1).standard_normal((3, 7, 1))
    for h in (1.0, 0.1, 10.0):
        A = sm.LowDisplacementRank(np.hstack([u, u + left * e]), h * np.hstack([v, -v]))
        assert displacement._gram_norm(A) is None
        one = sm.LowDisplacementRank(e, v)
        assert float(sm.norm(A)) == pytest.approx(h * left * float(sm.norm(one)), rel=1e-15 / left)


def test_one_column_of_all_counts():
    for j in range(5):
        D = np.eye(5)
        D[j, j] = 100.0
        assert cauchy_like._one_norm(sm.nearest_displacement(D, rank=5).matrix) == pytest.approx(100)


def test_generators_of_complex_terms_that_cancel_are_orthogonal():
    r = rng(2)
    g = np.asarray([[1, 1j], [1j, 1], [1e-3, 2], [0, 1]], complex)  # gᵀ g nearly vanishes
    h = r.standard_normal((4, 2)) + 0j
    found = generators.uncancelled(
        sm.LowDisplacementRank(np.hstack([g, -g + 1e-8 * r.standard_normal((4, 2))]), np.hstack([h, h]))
    )
    gram = np.conj(found.g.T) @ found.g
    assert np.max(np.abs(gram - np.diag(np.diag(gram)))) < 1e-6


def test_words_of_refusals():
    with pytest.raises(sm.SepmatError, match=r"^Inverse: matrix: a int; expected a structured matrix"):
        inverses.Inverse(3)
    with pytest.raises(sm.ShapeError, match=r"Divisors of 6: 1, 2, 3, 6\.$"):
        sm.nearest_kronecker(np.ones((6, 6)), ((2, 2), (3, 4)))
    wide = scipy.sparse.csr_matrix(np.eye(6)).astype(np.longdouble)
    with pytest.raises(
        sm.SepmatError, match=r"^nearest_kronecker: M\.data: dtype float128|^nearest_kronecker: M\.data: "
    ):
        sm.nearest_kronecker(wide, PAIRS, 1)
    with pytest.raises(sm.SepmatError, match=r"^load: path: "):
        sm.load(3)


def test_names_of_the_tables():
    """A table is called like the name that it has in its module."""
    count = 0
    for module in (cauchy, fourier, fourier_nd, kron, unrolled, kernels):
        for name, thing in vars(module).items():
            if type(thing) is KernelTable:
                count += 1
                assert thing.__name__ == name, (module, name)
    assert count > 8


def test_a_structured_factor_at_the_end():
    """Each factor is explained on what it multiplies."""
    A, B = sm.Circulant(np.arange(3.0)), sm.Circulant(np.arange(8.0))
    on_rows, on_columns = sm.explain(B, np.ones((3, 8)), axis=-1), sm.explain(A, np.ones((3, 8)), axis=-2)
    assert sm.explain(sm.Kronecker(A, B), np.ones(24)).flops == on_rows.flops + on_columns.flops
    assert sm.explain(sm.KroneckerSum(A, B), np.ones(24)).flops == on_rows.flops + on_columns.flops + 24


def test_factors_of_a_multiple():
    A = sm.Scaled._of(scale=np.asarray(4.0), matrix=sm.Dense(EYE3 + 1))
    b = np.arange(3.0)
    np.testing.assert_allclose(sm.factorize(A).solve(b), np.linalg.solve(4 * (EYE3 + 1), b), rtol=1e-14)


def test_no_rows_at_all():
    S = sm.Separated([np.zeros((1, 0, 0))])
    assert sm.solve(S, np.zeros(0)).shape == (0,) and sm.inverse(S).shape == (0, 0)
    assert float(sm.slogdet(S).logabsdet) == 0.0


def test_a_product_that_is_one_matrix_is_that_matrix():
    A, D = sm.Circulant(np.arange(1.0, 4)), sm.Diagonal(np.arange(1.0, 4))
    one = sm.Product._of(factors=(A,))
    assert type(one._rtimes(A)) is sm.Circulant
    assert type(one._rtimes(D)) is sm.Product
