"""Laws of parts that no public call shows one by one: what searches count, try and promise, and what plans count."""

import itertools
import math
import sys

import numpy as np
import pytest
from cases import CASES

import sepmat as sm
from sepmat import _array, errors, io, woodbury
from sepmat.cp import DenseCore, fit_core
from sepmat.cp import fit as search
from sepmat.cp.optimise import _penalised, alternate, descend, point
from sepmat.cp.starts import random_start
from sepmat.kernels import limits, plan_fft, terms
from sepmat.sources.operator import FromOperator

# the functions have the names of their files
nearest, selftest = sys.modules["sepmat.nearest_separated"], sys.modules["sepmat.selftest"]
displacement = sys.modules["sepmat.nearest_displacement"]
U = 2.0**-53


def tensor(seed, sizes=(4, 4, 4)):
    C = np.random.default_rng(seed).standard_normal(sizes)
    return C / np.linalg.norm(C)


def steep(n=3, h=0.0, seed=0):
    """A tensor of border rank two: sums of two terms come as near as κ allows."""
    W = np.zeros((n, n, n))
    W[1, 0, 0] = W[0, 1, 0] = W[0, 0, 1] = 1 / math.sqrt(3)
    return W + h * tensor(seed, (n, n, n))


# --- fits of small cores --------------------------------------------------------------------------------------------------


class Counting(DenseCore):
    """A core that counts what is asked of it."""

    sweeps = systems = 0

    def sweep(self, factors, penalty):
        self.sweeps += 1
        return super().sweep(factors, penalty)

    def system(self, factors):
        self.systems += 1
        return super().system(factors)


@pytest.mark.parametrize("limit", [1, 3, 7, 400])
def test_steps_are_what_was_done(limit):
    core = Counting(tensor(0))
    start = random_start(core, 2, np.random.default_rng(0))
    assert alternate(core, start, 1e-3, limit).steps == core.sweeps <= limit
    assert descend(core, point(core, start, 1e-3), 1e-3, limit).steps == core.systems <= limit


@pytest.fixture
def walked(monkeypatch):
    """The results of all searches that a fit makes, and the number of its starts."""
    found, starts = [], []
    for name in ("alternate", "descend"):
        run = getattr(search, name)
        monkeypatch.setattr(search, name, lambda *args, run=run: found.append(run(*args)) or found[-1])
    anneal = search.anneal
    monkeypatch.setattr(search, "anneal", lambda *args: starts.append(args) or anneal(*args))
    return found, starts


@pytest.mark.parametrize("seed", range(3))
def test_iterations_are_all_steps_of_all_searches(seed, walked):
    for asked in ({"rank": 2}, {"rank": 2, "tol": 1e-6}, {"rank": 2, "penalty": 1e-2}):
        walked[0].clear()
        fit = fit_core(DenseCore(tensor(seed)), rng=np.random.default_rng(0), **asked)
        assert fit.iterations == sum(p.steps for p in walked[0])


def test_as_many_starts_as_are_worth_their_time(walked):
    """Five; two for each rank that a tolerance tries, and where one step takes long; none after one that is good."""
    core, starts = DenseCore(tensor(1)), walked[1]
    for asked, count in (({}, len(search.FIRST)), ({"tol": 1e-6}, 2)):
        starts.clear()
        fit_core(core, rank=2, rng=np.random.default_rng(0), **asked)
        assert len(starts) == count
        assert [first for _, _, first in starts] == list(search.FIRST[:count])
    exact = np.einsum("ia,ja,ka->ijk", *np.random.default_rng(0).standard_normal((3, 4, 2)))
    starts.clear()
    assert fit_core(DenseCore(exact), rank=2, rng=np.random.default_rng(0)).residual <= 300 * U
    assert len(starts) <= 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("asked", [{}, {"tol": 1e-6}, {"penalty": 1e-3}], ids=str)
def test_no_descent_is_left_at_what_a_fit_returns(seed, asked):
    """Also where a tolerance is out of reach: 100 more steps gain less than 1e-4 of J."""
    C = tensor(seed, (5, 5, 5))
    fit, core = fit_core(DenseCore(C), rank=2, rng=np.random.default_rng(0), **asked), DenseCore(C)
    penalty = asked.get("penalty", U**2)
    here = point(core, [fit.factors[0] * fit.weights, *fit.factors[1:]], penalty)
    assert here.residual == pytest.approx(fit.residual, rel=1e-12)
    assert here.objective - descend(core, here, penalty, 100).objective <= 1e-4 * here.objective


@pytest.mark.parametrize("seed", range(2))
def test_a_fit_is_no_worse_than_its_start(seed):
    """Nor is one under a larger bound on κ, of which CLOSE is used; the error of a degenerate target goes like κ⁻²."""
    for C in (tensor(seed), steep(4, 1e-2, seed)):
        last = math.inf
        for bound in (1.01, 1.3, 3.0, None):
            fit = fit_core(DenseCore(C), rank=2, max_condition=bound, rng=np.random.default_rng(0))
            model = np.einsum("l,il,jl,kl->ijk", fit.weights, *fit.factors)
            assert np.linalg.norm(fit.weights) <= (bound or math.inf) * np.linalg.norm(model) * (1 + 8 * U)
            assert fit.residual <= last / search.CLOSE**2
            last = fit.residual
        start = [fit.factors[0] * fit.weights, *fit.factors[1:]]
        again = fit_core(DenseCore(C), rank=2, rng=np.random.default_rng(1), start=start)
        assert again.residual <= fit.residual * (1 + 1e-6)


def test_a_term_that_is_zero_bends_nothing():
    core, factors = DenseCore(tensor(0)), list(np.random.default_rng(0).standard_normal((3, 4, 3)))
    for F in factors:
        F[:, 1] = 0
    system = _penalised(core.system(factors), factors, 1e-2)
    assert np.all(np.isfinite(system.jacobian))
    assert np.all(np.isfinite(system.curvature(list(np.random.default_rng(1).standard_normal((3, 4, 3))))))
    found = descend(core, point(core, factors, 1e-2), 1e-2, 50)
    assert found.steps > 1 and found.objective < point(core, factors, 1e-2).objective


# --- fits of matrices ------------------------------------------------------------------------------------------------------


def as_matrix(C):
    """The tensor as a matrix of columns, so that shapes (n, 1) see its entries."""
    return C.reshape(-1, 1), tuple((n, 1) for n in C.shape)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("n", [5, 7, 8])
def test_bounds_hold_whatever_is_outside_the_core(n, noise):
    """Arrays that are their own core, that are compressed first, and that are swept in the end."""
    M, shapes = as_matrix(steep(n, noise))
    for cap in (1.0, 2.0, 20.0):
        fit = sm.nearest_separated(M, shapes, rank=2, max_condition=cap)
        assert fit.condition_number <= cap
        assert fit.relative_error == pytest.approx(
            np.linalg.norm(fit.matrix.to_dense() - M) / np.linalg.norm(M), abs=1e-12
        )


def test_ranks_under_a_tolerance_are_tried_from_below(monkeypatch):
    """A quarter more each time: what needs r terms is never fitted by more than 5/4 r + 1, however many a tree takes."""
    tried, fit_of = [], nearest._of_rank
    monkeypatch.setattr(nearest, "_of_rank", lambda T, rank, *rest: tried.append(rank) or fit_of(T, rank, *rest))
    for terms_ in (3, 5):
        rng = np.random.default_rng(terms_)
        C = np.einsum("il,jl,kl->ijk", *rng.standard_normal((3, 7, terms_)))
        M, shapes = as_matrix(C + 1e-3 * np.linalg.norm(C) * tensor(0, (7, 7, 7)))
        fit = sm.nearest_separated(M, shapes, tol=2e-3)
        assert fit.matrix.terms == terms_ and max(tried) <= 1.25 * terms_ + 1
        tried.clear()


def test_an_inverse_keeps_its_bound_when_it_is_made_hermitian(monkeypatch):
    asked, fit = [], sm.compress
    module = sys.modules["sepmat.preconditioners"]
    monkeypatch.setattr(module, "compress", lambda X, **given: asked.append(given) or fit(X, **given))
    A = sm.KroneckerSum(*[2.2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)] * 3)
    assert sm.separated_inverse(A, tol=0.1, max_condition=1.5, seed=1).condition_number <= 1.5
    assert asked == [{"tol": 0.1 / 10, "max_condition": 1.5, "seed": 1}]


def test_a_fit_of_nothing_has_the_parameters_of_its_matrix():
    A = sm.Separated((np.zeros((2, 0, 0)), np.zeros((2, 0, 0))))
    fits = [f(A, tol=1e-6) for f in (sm.schulz_inverse, sm.expm, sm.sign)]
    fits += [sm.nearest_separated(np.zeros((0, 0)), ((0, 0), (2, 2)), rank=1), sm.compress(A, rank=1)]
    for fit in fits:
        assert fit.num_parameters == fit.matrix.num_parameters and str(fit)


def test_as_many_columns_as_there_are_show_all_of_an_operator():
    see = object.__new__(FromOperator)
    see.like = np.zeros(0)
    for count in (4, 5):
        assert np.array_equal(see._vectors(np.random.default_rng(0), 4, count), np.eye(4))
    assert see._vectors(np.random.default_rng(0), 4, 3).shape == (4, 3)


def test_inner_products_of_any_two_that_convert():
    rng = np.random.default_rng(0)
    D, A = rng.standard_normal((2, 2)), sm.Separated((rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 2, 2))))
    others = [A, sm.Kronecker(sm.Toeplitz(np.arange(3.0)), D), sm.KroneckerSum(rng.standard_normal((3, 3)), D)]
    for X, Y in itertools.product(others, others):
        assert float(sm.inner(X, Y)) == pytest.approx(np.sum(X.to_dense() * Y.to_dense()), rel=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [c for c in CASES if max(max(s, default=0) for s in c.shapes) <= 30], ids=str)
def test_what_can_be_solved_can_be_factorized(case):
    A = case.make(*case.data(np.random.default_rng(0), "float64"))
    if A.shape[0] == A.shape[1] and type(A) in sm.factorize.rules:
        b = np.random.default_rng(1).standard_normal((A.shape[0], 2))
        try:
            x = sm.solve(A, b)
        except sm.SepmatError:  # singular, or no rule
            return
        assert np.allclose(sm.factorize(A).solve(b), x, rtol=1e-9, atol=1e-9 * np.max(np.abs(x), initial=0.0))


def test_parallel_terms_of_many_modes():
    """A hundred angles of just under the tolerance: what they move a key by adds up, over all modes."""
    tol, rng, d = 1e-3, np.random.default_rng(0), 100
    F = rng.standard_normal((d, 12, 3, 1))
    F /= np.linalg.norm(F, axis=2, keepdims=True)
    Q = rng.standard_normal(F.shape)
    Q -= np.sum(F * Q, axis=2, keepdims=True) * F
    other = F + 0.9 * tol * Q / np.linalg.norm(Q, axis=2, keepdims=True)
    factors = [np.concatenate((a, b)) for a, b in zip(F, other, strict=True)]
    assert len(terms.parallel(factors, np.ones(24), tol)) == 12


# --- plans -----------------------------------------------------------------------------------------------------------------


def test_good_lengths_are_the_smallest_of_their_kind():
    kinds = sorted(q * 2**k for k in range(20) for q in (1, 3, 5))
    for n in [*range(1, 1200), 5000, 10**5]:
        assert plan_fft._good_length(n) == next(c for c in kinds if c >= n)


@pytest.mark.parametrize("route", ["fft", "dense"])
@pytest.mark.parametrize("kind, numbers", [("d", 1), ("f", 1), ("D", 4), ("F", 4)])
def test_operations_of_transforms_are_counted(route, kind, numbers):
    """Real data have half the frequencies; a complex product is six operations, of dense matrices four real ones."""
    for m, n, length, vectors, transforms in itertools.product((5, 8), (6, 9), (16, 30), (1, 4), (2, 3)):
        p = plan_fft.transform(m, n, length, vectors, kind, transforms)._replace(route=route)
        frequencies = length if numbers == 4 else length // 2
        fft = transforms * plan_fft.fft_flops(length, kind) + 6 * frequencies * (transforms - 1)
        assert p.flops == round(vectors * fft if route == "fft" else 2 * m * n * vectors * numbers)
        stored = m * n if route == "dense" else length * max(1, transforms - 2)
        assert p.bytes == np.dtype(kind).itemsize * ((m + n) * vectors + stored)


def test_real_transforms_cost_half_of_complex_ones():
    for n in (1, 60, 240, 1021, 4096):
        assert 2 * plan_fft.fft_cost(n, "d") == plan_fft.fft_cost(n, "D") == 2 * plan_fft.fft_cost(n, "f")


@pytest.mark.parametrize("shape, axis", [((64, 30), -1), ((30, 64), -2), ((5, 30, 7), -2), ((30,), -1)])
def test_one_factor_is_explained_as_the_dense_matrix_it_is(shape, axis):
    A, x = np.ones((40, 30)), np.ones(shape)
    dense, one = sm.explain(sm.Dense(A), x, axis=axis), sm.explain(sm.Kronecker(A), x, axis=axis)
    assert (dense.flops, dense.bytes, dense.seconds) == (one.flops, one.bytes, one.seconds)


def test_every_factor_is_explained_once():
    """Also on slabs that stay in the cache, in which some factors are for the rows and the others for the columns."""
    for d, rows in ((4, 64), (4, 1), (3, 64)):
        A = sm.Kronecker(*[np.ones((16, 16))] * d)
        said = str(sm.explain(A, np.broadcast_to(1.0, (rows, 16**d)), axis=-1))
        assert [said.count(f"factor {i}:") for i in range(d)] == [1] * d, said


def test_rates_are_measured_in_their_precision(monkeypatch):
    seen = []
    monkeypatch.setattr(np, "matmul", lambda A, B, out=None: seen.append((A.dtype.name, out.dtype.name)))
    limits.Limits.measured()
    assert seen == [("float32", "float32")] * 5 + [("float64", "float64")] * 5


def test_times_for_people():
    from sepmat.explain import _time

    assert [_time(x) for x in (2.5, 1.0, 0.25, 1e-3, 2e-5, 4e-7)] == [
        "2.5 s",
        "1 s",
        "250 ms",
        "1 ms",
        "20 µs",
        "400 ns",
    ]


# --- numbers far from 1 ---------------------------------------------------------------------------------------------------


def test_uneven_factors_leave_room_for_small_vectors():
    """Terms with factors of 2^76 and 2^-48, and the other way round: no partial product leaves the range."""
    rng = np.random.default_rng(0)
    F, G, x = rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 3, 3)), rng.standard_normal(9)
    a, b = (2.0 ** np.asarray([[-76, 76], [48, -48]]))[:, :, None, None]
    A = sm.Separated((F * b, G * a))
    for k in (-952, 900):
        y = A @ (x * 2.0**k)
        assert np.array_equal(y * 2.0**-k, A @ x)
        for l in range(2):
            one = sm.Separated((F[l : l + 1], G[l : l + 1])) @ x
            alone = sm.Separated(((F * b)[l : l + 1], (G * a)[l : l + 1])) @ (x * 2.0**k)
            assert np.array_equal(alone * 2.0 ** -(k + (-28 if l == 0 else 28)), one)


def test_columns_may_lie_on_either_side():
    """U D and V / D make the same matrix, and the same separated one, bit for bit."""
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((12, 2)), rng.standard_normal((12, 2))
    for shapes in (((3, 3), (4, 4)), ((3, 3), (2, 2), (2, 2))):
        plain = sm.separated_from_low_rank(U, V, shapes)
        D = 2.0 ** np.asarray([30, -30])
        other = sm.separated_from_low_rank(U * D, V / D, shapes)
        assert other.terms == plain.terms
        assert np.max(np.abs(other.to_dense() - U @ V.T)) <= 2.0**-44 * np.max(np.abs(U @ V.T))


def test_the_ridge_keeps_normal_matrices_definite():
    rng = np.random.default_rng(0)
    H = np.repeat(rng.standard_normal((5, 1)) + 1j * rng.standard_normal((5, 1)), 3, axis=1)
    found = displacement._normal_matrices(np, rng.standard_normal((4, 5)) + 0j, H)
    assert np.all(np.linalg.eigvalsh(found)[:, 0] > 0)


# --- names -----------------------------------------------------------------------------------------------------------------


def test_dtypes_of_torch_are_known_by_name():
    torch = pytest.importorskip("torch")
    for name in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128"):
        assert _array.as_dtype(torch, name) is getattr(torch, name)
    assert all(_array.as_dtype(np, name) is None for name in ("float16", "bfloat16", "int64"))


def test_hopeless_terms_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(woodbury, "LIMIT", -1.0)
    with pytest.raises(
        sm.UnsupportedError, match=r"^solve: A: the term Diagonal\S* is so ill-conditioned that a residual of"
    ):
        sm.solve(sm.Diagonal(np.arange(1.0, 5)) + sm.LowRank(np.ones((4, 1)), np.ones((4, 1))), np.ones(4))


def test_what_is_singular_is_said():
    A = sm.Diagonal(np.ones(2)) + sm.LowRank(np.asarray([[-1.0], [0]]), np.asarray([[1.0], [0]]))
    with pytest.raises(sm.SingularMatrixError, match="its capacitance matrix is"):
        sm.inverse(A)
    B = sm.Toeplitz(np.arange(1.0, 4), np.ones(5)) @ sm.Toeplitz(np.arange(1.0, 6), np.ones(3))
    assert isinstance(B, sm.Product)
    with pytest.raises(sm.UnsupportedError, match="a product of rectangular factors has no rule"):
        sm.inverse(B)


@pytest.mark.parametrize("answer", [np.ones(9), "none"], ids=["a vector", "words"])
def test_operators_that_answer_nonsense_are_named(answer):
    class Odd:
        shape, dtype = (9, 9), np.dtype(float)

        def matmat(self, X):
            return answer

    with pytest.raises(errors.SepmatError, match=r"^nearest_separated: M @ x"):
        sm.nearest_separated(Odd(), ((3, 3), (3, 3)), rank=1)


def test_scalars_of_no_level_are_named():
    with pytest.raises(sm.ShapeError, match=r"^MultilevelToeplitz: t: "):
        sm.MultilevelToeplitz(np.asarray(1.0))


def test_fields_that_do_not_fit_are_named():
    with pytest.raises(errors.FormatError, match=r"field A\.U: fields that do not fit.*a LowRank"):
        io._checked(sm.LowRank, {"U": np.ones((3, 2)), "V": np.ones((3, 1))}, "field A.U")


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_bounds_of_the_self_test_exist(dtype):
    named = {name for s in selftest._samples(np.random.default_rng(0), dtype) for name in (s.bound, s.solve) if name}
    assert named <= {f"B{k}" for k in range(1, 27)} and len(named) > 5


def test_signs_of_determinants_keep_their_dtype_with_a_gradient():
    torch = pytest.importorskip("torch")
    c = torch.tensor([3.0 + 1j, 1, 2], dtype=torch.complex64, requires_grad=True)
    r = torch.tensor([3.0 + 1j, 1j, 1], dtype=torch.complex64)
    for A in (sm.Toeplitz(c, r), sm.Hankel(c, c[[2, 1, 0]])):
        found = sm.slogdet(A)
        assert (found.sign.dtype, found.logabsdet.dtype) == (torch.complex64, torch.float32)


def test_a_complex_operator_of_a_real_right_hand_side():
    rng = np.random.default_rng(0)
    A = sm.Separated(
        tuple(np.eye(3) * 4 + rng.standard_normal((2, 3, 3)) + 1j * rng.standard_normal((2, 3, 3)) for _ in "ab")
    )
    F = sm.Separated(tuple(rng.standard_normal((1, 3, 1)) for _ in "ab"))
    fit = sm.als_solve(A, F, rank=3)
    x = np.linalg.solve(A.to_dense(), F.to_dense())
    assert np.linalg.norm(fit.matrix.to_dense() - x) <= 1e-10 * np.linalg.norm(x)
