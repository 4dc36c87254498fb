"""Fits of small cores: every part of the engine against dense oracles written with NumPy alone."""

import functools
import itertools
import math

import numpy as np
import pytest
from conftest import check, host

from sepmat._array import conj
from sepmat.cp import DenseCore, TrainCore, fit_core
from sepmat.cp import train as tt
from sepmat.cp.cores import balanced, scales, terms_norm, unpacked
from sepmat.cp.fit import Problem, safe
from sepmat.cp.gram import GramModel
from sepmat.cp.optimise import QRModel, _penalised, alternate, descend, point
from sepmat.cp.starts import grown, pencil_start, random_start

U = 2.0**-53
SIZES = [(4, 3, 2), (3, 2, 2, 3), (2, 3, 1, 2, 2)]
KINDS = ["float64", "complex128"]


def draw(rng, dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype == "complex128" else x).astype(dtype)


def terms(factors):
    """Σ_l f_1[:, l] ∘ … ∘ f_d[:, l], one outer product after the other."""
    total = 0
    for l in range(factors[0].shape[1]):
        total = total + functools.reduce(np.multiply.outer, [F[:, l] for F in factors])
    return total


def khatri_rao(factors):
    return np.stack([functools.reduce(np.kron, [F[:, l] for F in factors]) for l in range(factors[0].shape[1])], axis=1)


def unfolded(T, k):
    """Mode k across, the others down."""
    return np.moveaxis(T, k, -1).reshape(-1, T.shape[k])


def both(xp, factors):
    """The target with these terms as either kind of core, and as a dense array."""
    train = tt.from_terms([xp.asarray(F) for F in factors])
    return terms(factors), [DenseCore(xp.asarray(terms(factors))), TrainCore(train)]


def w_state(d):
    """Σ_k a ∘ … ∘ b ∘ … ∘ a with b in place k: rank d, border rank 2; norm √d."""
    a, b = np.eye(2)
    return [np.stack([b if l == k else a for l in range(d)], axis=1) for k in range(d)]


def near(found, expected, limit, name=None):
    expected = np.asarray(expected)
    check(np.linalg.norm(host(found) - expected), np.linalg.norm(expected), limit, "float64", name)


cases = pytest.mark.parametrize("sizes, dtype", [*itertools.product(SIZES, KINDS)])


# --- what the cores answer ---------------------------------------------------------------------------------------------


@cases
def test_cores_agree_with_dense_formulas(xp, rng, sizes, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V = [draw(rng, dtype, n, 2) for n in sizes]
    factors, weights = [xp.asarray(F) for F in V], [draw(rng, dtype, n) for n in sizes[2:]]
    scale = np.linalg.norm(C) * np.prod([np.linalg.norm(F) for F in V])
    for core in cores:
        assert core.sizes == sizes and sorted(core.order()) == list(range(len(sizes)))
        near(core.norm, np.linalg.norm(C), 40)
        near(core.residual(factors), np.linalg.norm(terms(V) - C), 200, "cp residual")
        contracted = functools.reduce(lambda T, w: T @ w, reversed(weights), C)
        check(np.abs(host(core.contract([xp.asarray(w) for w in weights])) - contracted), scale, 40, "float64")
        for k, (found, F) in enumerate(zip(core.products(factors), V, strict=True)):
            rest = khatri_rao([G.conj() for j, G in enumerate(V) if j != k])
            near(found, unfolded(C, k).T @ rest, 400, "cp products")
            assert found.shape == F.shape


@cases
def test_arranged(xp, rng, sizes, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V = [draw(rng, dtype, n, 2) for n in sizes]
    for core in cores:
        order = core.order()
        moved = core.arranged(order, 0.25)
        near(moved.residual([xp.asarray(V[k]) for k in order]), np.linalg.norm(terms(V) - C / 4), 200)


@cases
@pytest.mark.parametrize("penalty", [1e-2, 1e-10])
def test_sweep_is_a_sequence_of_least_squares(xp, rng, sizes, dtype, penalty):
    """Mode by mode min ‖KR X − C_k‖² + λ ‖X‖² with unit columns in the other modes, by lstsq on [KR; √λ I]."""
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V = [draw(rng, dtype, n, 2) for n in sizes]
    expected = [F / np.linalg.norm(F, axis=0) for F in V]
    for k in range(len(sizes)):
        A = np.vstack([khatri_rao([F for j, F in enumerate(expected) if j != k]), math.sqrt(penalty) * np.eye(2)])
        b = np.vstack([unfolded(C, k), np.zeros((2, sizes[k]))])
        X = np.linalg.lstsq(A, b, rcond=None)[0].T
        expected[k] = X if k == len(sizes) - 1 else X / np.linalg.norm(X, axis=0)
    for core in cores:
        found = core.sweep([xp.asarray(F) for F in V], penalty)
        for F, G in zip(found, expected, strict=True):
            near(F, G, 1e5, "cp sweep")  # times the condition of two to eighteen random columns


@cases
def test_jacobian_and_curvature(xp, rng, sizes, dtype):
    """Both are polynomial in the factors: products with one of them, or two, replaced by the step."""
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V, step, other = ([draw(rng, dtype, n, 2) for n in sizes] for _ in range(3))
    d = len(sizes)
    first, along = (
        sum(terms([W[k] if j == k else V[j] for j in range(d)]) for k in range(d)).ravel() for W in (step, other)
    )
    second = 2 * sum(
        terms([step[j] if j in pair else V[j] for j in range(d)]) for pair in itertools.combinations(range(d), 2)
    )
    for core in cores:
        system = core.system([xp.asarray(F) for F in V])
        x, y = (np.concatenate([F.ravel() for F in W]) for W in (step, other))
        J, r = host(system.jacobian), host(system.residual)
        bend = host(system.curvature([xp.asarray(F) for F in step]))
        size = np.linalg.norm(first) + np.linalg.norm(second) + np.linalg.norm(C) + np.linalg.norm(along)
        limit = 100 * size * size  # the coordinates are orthonormal, whichever they are: inner products tell
        for (a, b), (p, q) in [
            ((J @ x, J @ y), (first, along)),
            ((J @ x, r), (first, terms(V).ravel() - C.ravel())),
            ((J @ x, bend), (first, second.ravel())),
            ((r, bend), (terms(V).ravel() - C.ravel(), second.ravel())),
        ]:
            check(np.abs(np.vdot(a, b) - np.vdot(p, q)), 1.0, limit, "float64")


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("penalty", [0.3, 1e-4])
def test_gradient_of_the_penalised_objective(xp, rng, dtype, penalty):
    """2 Re <v, Jᴴ r> against differences of J in extended precision, for the orthogonal and for the Gram form."""
    sizes = (3, 2, 4)
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V, step = ([draw(rng, dtype, n, 2) for n in sizes] for _ in range(2))

    def objective(t):
        wide = np.clongdouble if dtype == "complex128" else np.longdouble
        W = [F.astype(wide) + np.longdouble(t) * G for F, G in zip(V, step, strict=True)]
        s = np.prod([np.sqrt(np.sum(np.abs(F) ** 2, axis=0)) for F in W], axis=0)
        return np.sum(np.abs(terms(W) - C) ** 2) + np.longdouble(penalty) * np.sum(s**2)

    h = np.longdouble(1e-5)
    expected = float((8 * (objective(h) - objective(-h)) - (objective(2 * h) - objective(-2 * h))) / (12 * h))
    factors, v = [xp.asarray(F) for F in V], np.concatenate([F.ravel() for F in step])
    for core in cores:
        system = _penalised(core.system(factors), factors, penalty)
        found = 2 * np.real(np.vdot(host(system.jacobian) @ v, host(system.residual)))
        assert abs(found - expected) <= 1e-11 * abs(objective(0))
        gram = -2 * np.real(np.vdot(v, host(GramModel(core, factors, penalty).target)))
        assert abs(gram - expected) <= 1e-11 * abs(objective(0))


@pytest.mark.parametrize("dtype", KINDS)
def test_curvature_of_the_penalty(xp, rng, dtype):
    """The second derivative of √λ s_l along a step, by differences in extended precision."""
    sizes, penalty = (3, 2, 4), 0.7
    _, (core, _) = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    V, step = ([draw(rng, dtype, n, 2) for n in sizes] for _ in range(2))

    def weights(t):
        wide = np.clongdouble if dtype == "complex128" else np.longdouble
        W = [F.astype(wide) + np.longdouble(t) * G for F, G in zip(V, step, strict=True)]
        return np.sqrt(np.longdouble(penalty)) * np.prod([np.sqrt(np.sum(np.abs(F) ** 2, axis=0)) for F in W], axis=0)

    h = np.longdouble(1e-4)
    near_, far = ((weights(t) - 2 * weights(0) + weights(-t)) / t**2 for t in (h, 2 * h))
    expected = np.asarray((4 * near_ - far) / 3, float)
    factors = [xp.asarray(F) for F in V]
    found = host(_penalised(core.system(factors), factors, penalty).curvature([xp.asarray(F) for F in step]))[-2:]
    assert np.max(np.abs(found - expected)) <= 1e-9 * np.max(np.abs(expected))


@pytest.mark.parametrize("sizes, dtype", [(SIZES[0], "float64"), (SIZES[1], "complex128"), (SIZES[1], "float64")])
def test_both_models_propose_the_same_step(xp, rng, sizes, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    factors = balanced([xp.asarray(draw(rng, dtype, n, 2)) for n in sizes])
    for core in cores:
        models = QRModel(core, factors, 1e-3), GramModel(core, factors, 1e-3)
        for damping in (1.0, 1e-3):
            (a, bend_a, promise_a), (b, bend_b, promise_b) = (m.step(damping) for m in models)
            a, b = (np.concatenate([host(F).ravel() for F in x]) for x in (a, b))
            bound = 1e4 * U * np.linalg.norm(C) ** 2 / damping
            assert np.linalg.norm(a - b) <= bound * np.linalg.norm(a)
            assert abs(bend_a - bend_b) <= bound * bend_a and abs(promise_a - promise_b) <= bound * promise_a


def test_unpacked(xp):
    factors = [xp.asarray(np.zeros((n, 2))) for n in (3, 1, 2)]
    parts = unpacked(xp.reshape(xp.asarray(np.arange(12.0)), (12, 1)), factors)
    assert [host(p).tolist() for p in parts] == [[[0, 1], [2, 3], [4, 5]], [[6, 7]], [[8, 9], [10, 11]]]


# --- iterations --------------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("penalty", [1e-1, 1e-5])
def test_sweeps_and_steps_never_raise_the_objective(xp, rng, sizes, dtype, penalty):
    """J of a target of norm 1 falls in every sweep and in every step, and κ_A = (Σ s_l²)^½ <= ½ λ^(-1/2) after a sweep."""
    C, cores = both(xp, [draw(rng, dtype, n, 4) for n in sizes])
    for core in cores:
        core = core.arranged(range(len(sizes)), 1 / float(np.linalg.norm(C)))
        p = point(core, random_start(core, 3, rng), penalty)
        start = p.objective
        for _ in range(6):
            before, p = p, point(core, core.sweep(p.factors, penalty), penalty)
            assert p.objective <= before.objective + 1e-12 * start
            assert p.size <= 0.5 / math.sqrt(penalty) * (1 + 1e-12)
        for _ in range(3):
            before, p = p, descend(core, p, penalty, 2)
            assert p.objective <= before.objective + 1e-12 * start
        assert p.objective == pytest.approx(p.residual**2 + penalty * p.size**2, rel=1e-15)
        assert p.size == pytest.approx(float(np.linalg.norm(host(scales(p.factors)))), rel=1e-14)


@pytest.mark.parametrize("dtype", KINDS)
def test_alternate_and_descend_come_to_the_same_minimiser(xp, rng, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 2) for n in (4, 3, 3)])
    found = []
    for core in cores:
        core = core.arranged(range(3), 1 / float(np.linalg.norm(C)))
        near_ = [xp.asarray(F) for F in unit_terms(rng, C, core, dtype)]
        swept, stepped = alternate(core, near_, 1e-3, 200, 1e-13), descend(core, point(core, near_, 1e-3), 1e-3, 60)
        assert swept.settled and stepped.settled
        found += [swept.objective, stepped.objective]
        # stationary: <C, Ĉ> = ‖Ĉ‖² + λ Σ s²
        model, target = terms([host(F) for F in stepped.factors]), C / np.linalg.norm(C)
        gap = np.real(np.vdot(target, model)) - np.linalg.norm(model) ** 2 - 1e-3 * stepped.size**2
        assert abs(gap) <= 1e-5
    assert max(found) - min(found) <= 1e-8 * max(found)


def unit_terms(rng, C, core, dtype):
    return [host(F) for F in fit_core(core, rank=2, rng=np.random.default_rng(0)).factors]


# --- starts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes, dtype", [((5, 4, 3), "float64"), ((4, 4, 2, 3), "complex128"), ((4, 5, 2, 2), "float64")]
)
def test_pencil_is_exact_for_exact_data(xp, rng, sizes, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    for core in cores:
        found = pencil_start(core, 3, np.random.default_rng(1))
        assert alternate(core, found, 0.0, 1).residual <= 1e-11 * np.linalg.norm(C)


def test_pencil_declines(xp, rng):
    def start(C, count):
        return pencil_start(DenseCore(xp.asarray(C)), count, np.random.default_rng(0))

    factors = [draw(rng, "float64", n, 2) for n in (4, 4, 3)]
    for scale in (1.0, 2.0**-60, 2.0**60):
        assert start(scale * terms(factors), 2) is not None
    assert start(terms(factors), 3) is None  # singular
    assert start(terms(factors), 5) is None  # shorter than the number of terms
    assert start(rng.standard_normal((4, 4)), 2) is None  # no third mode
    rotation = np.stack([np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])], axis=2)
    assert start(rotation, 2) is None  # the eigenvalues of every pencil are complex, the data is real
    assert start(rotation.astype(complex), 2) is not None


@pytest.mark.parametrize("dtype", KINDS)
def test_random_starts(xp, dtype):
    core = DenseCore(xp.asarray(np.ones((3, 4, 2), dtype)))
    a, b = (random_start(core, 5, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(host(F), host(G)) for F, G in zip(a, b, strict=True))
    near(np.linalg.norm(host(scales(a))), 1.0, 10)
    more = grown(core, a, 7, np.random.default_rng(0))
    assert [F.shape for F in more] == [(3, 7), (4, 7), (2, 7)]
    assert all(np.array_equal(host(F)[:, :5], host(G)) for F, G in zip(more, a, strict=True))


@cases
def test_the_last_resort_is_orthonormal(xp, rng, sizes, dtype):
    C, cores = both(xp, [draw(rng, dtype, n, 3) for n in sizes])
    for core in cores:
        core = core.arranged(range(len(sizes)), 1 / float(np.linalg.norm(C)))
        p = safe(Problem(core, 0.0, 0.0, 1.0, U**2, False, rng), 3)
        near(p.size / terms_norm(p.factors), 1.0, 20)
        assert p.residual < 1 and [F.shape for F in p.factors] == [(n, 3) for n in sizes]


# --- trains ------------------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("count", [1, 3, 20])
def test_trains(xp, rng, sizes, dtype, count):
    """from_terms, norm, dense, rounded, mode_vectors and difference against the dense array and its SVDs."""
    F = [draw(rng, dtype, n, count) for n in sizes]
    C, train = terms(F), tt.from_terms([xp.asarray(G) for G in F])
    size = np.linalg.norm(C)
    near(tt.dense(train), C, 40, "train")
    near(tt.norm(train), size, 40, "train norm")
    for T in train[:-1]:
        Q = host(T).reshape(-1, T.shape[2])
        near(Q.conj().T @ Q, np.eye(T.shape[2]), 40)
    splits = [np.linalg.svd(C.reshape(math.prod(sizes[:k]), -1), compute_uv=False) for k in range(1, len(sizes))]
    for error in (0.0, 1e-2, 0.3, math.inf):
        short = tt.rounded(train, error * size)
        assert np.linalg.norm(host(tt.dense(short)) - C) <= error * size + 100 * U * size
        ranks, share = [T.shape[2] for T in short[:-1]], error * size / math.sqrt(len(sizes) - 1)
        if 0 < error < 1:  # each rank at most what the split of the array itself asks for
            assert all(r <= max(1, np.sum(tails(s)[:-1] > share)) for r, s in zip(ranks, splits, strict=True))
        for T in short[1:]:
            Q = host(T).reshape(T.shape[0], -1)
            near(Q @ Q.conj().T, np.eye(T.shape[0]), 40)
    exact = tt.rounded(train, 0.0)
    bases, spectra, core = tt.mode_vectors(exact, None)
    for k, (Q, found) in enumerate(zip(bases, spectra, strict=True)):
        expected = tails(np.linalg.svd(unfolded(C, k), compute_uv=False))
        length = min(len(found), len(expected))
        check(np.asarray(found[:length]) - expected[:length], size, 60, "float64", "train spectra")
        near(host(Q).conj().T @ host(Q), np.eye(Q.shape[1]), 40)
    assert [T.shape[1] for T in core] == [Q.shape[1] for Q in bases]
    lost = 0.2 * size
    bases, _, core = tt.mode_vectors(exact, lost)
    projected = C
    for k, Q in enumerate(bases):
        projected = np.moveaxis(np.tensordot(host(Q).conj().T, projected, axes=(1, k)), 0, k)
    near(tt.dense(core), projected, 100, "train in bases")
    assert size**2 - np.linalg.norm(projected) ** 2 <= len(sizes) * lost**2 + 1e-12 * size**2
    near(tt.norm(core), np.linalg.norm(projected), 60)


def test_mode_vectors_are_as_many_as_the_rank(xp, rng):
    """a ∘ b ∘ c + d ∘ b ∘ e: mode 1 has one direction, between neighbours with two."""
    a, b, c = (draw(rng, "float64", n, 2) for n in (4, 3, 4))
    b[:, 1] = b[:, 0]
    train = tt.rounded(tt.from_terms([xp.asarray(F) for F in (a, b, c)]), 0.0)
    assert [Q.shape[1] for Q in tt.mode_vectors(train, None)[0]] == [2, 1, 2]


def tails(s):
    return np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0))


@pytest.mark.parametrize("power", range(1, 15, 3))
def test_difference_has_no_floor(xp, rng, power):
    F = [rng.standard_normal((n, 3)) for n in (4, 3, 3, 2)]
    G = [A + 10.0**-power * rng.standard_normal(A.shape) for A in F]
    train = tt.from_terms([xp.asarray(A) for A in F])
    wide = [[A.astype(np.longdouble) for A in X] for X in (F, G)]
    expected = float(np.sqrt(np.sum((terms(wide[0]) - terms(wide[1])) ** 2)))
    found = tt.difference(train, [xp.asarray(A) for A in G])
    assert abs(found - expected) <= 1e-2 * expected and abs(found - expected) <= 40 * U * np.linalg.norm(terms(F))


# --- fits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("cosine", [0.0, 0.9])
def test_exact_data_is_recovered(rng, dtype, cosine):
    """Five terms in 64³, met as the 5³ core of an orthogonal reduction."""
    root = np.linalg.cholesky((1 - cosine) * np.eye(5) + cosine * np.ones((5, 5))).T
    for seed in range(3):
        V = [np.linalg.qr(draw(rng, dtype, 64, 5))[0] @ root for _ in range(3)]
        T = terms(V)
        Q = [np.linalg.svd(unfolded(T, k).T, full_matrices=False)[0][:, :5] for k in range(3)]
        C = functools.reduce(lambda X, k: np.moveaxis(np.tensordot(Q[k].conj().T, X, (1, k)), 0, k), range(3), T)
        fit = fit_core(DenseCore(C), rank=5, rng=np.random.default_rng(seed))
        model = terms([fit.weights * fit.factors[0], *fit.factors[1:]])
        assert fit.residual <= 1e-14 and fit.converged
        assert np.linalg.norm(model - C) <= 1e-14 * np.linalg.norm(C)


@pytest.mark.parametrize("d", [3, 4])
def test_border_rank(d):
    """κ(λ) = (2c²/λ)^(1/6) and err(λ) = c / κ², c = √((d−1)(d−2)/6) / (2d), for the terms that tend to W_d."""
    c = math.sqrt((d - 1) * (d - 2) / 6) / (2 * d)
    core = DenseCore(terms(w_state(d)))
    for penalty in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12) if d == 3 else (1e-5, 1e-9):
        fit = fit_core(core, rank=2, penalty=penalty, rng=np.random.default_rng(0))
        kappa = (2 * c**2 / penalty) ** (1 / 6)
        assert np.linalg.norm(fit.weights) / math.sqrt(d) == pytest.approx(kappa, rel=0.05)
        assert fit.residual == pytest.approx(c / kappa**2, rel=0.05)


@pytest.mark.parametrize("cap", [1.0, 1.5, 5.0, 20.0])
def test_bound_on_the_condition_number(cap):
    """κ <= cap, close to it where the target asks for more, and err · κ² tends to c = 1/(6√3) for W_3."""
    C, cores = both(np, w_state(3))
    for core in cores:
        fit = fit_core(core, rank=2, max_condition=cap, rng=np.random.default_rng(0))
        model = terms([fit.weights * fit.factors[0], *fit.factors[1:]])
        kappa = np.linalg.norm(fit.weights) / np.linalg.norm(model)
        assert kappa <= cap * (1 + 4 * U) and np.all(np.isfinite(model))
        assert np.linalg.norm(model - C) == pytest.approx(fit.residual * np.linalg.norm(C), rel=1e-9)
        if cap >= 5:
            assert kappa >= 0.95 * cap and fit.residual * kappa**2 == pytest.approx(1 / (6 * math.sqrt(3)), rel=0.05)


@pytest.mark.parametrize("dtype", KINDS)
def test_smallest_rank(xp, rng, dtype):
    _, cores = both(xp, [draw(rng, dtype, n, 3) for n in (4, 4, 3)])
    for core in cores[: 1 if xp.__name__ == "array_api_strict" else 2]:
        fit = fit_core(core, tol=1e-8, rng=np.random.default_rng(0), least=3)
        assert fit.residual <= 1e-8 and fit.weights.shape[0] == 3
        assert np.all(np.diff(host(fit.weights)) <= 0)
    few = fit_core(cores[0], tol=1e-8, least=2, most=2, rng=np.random.default_rng(0))
    assert few.weights.shape[0] == 2 and few.residual > 1e-8
    one = fit_core(cores[0], tol=0.999, rng=np.random.default_rng(0))
    assert one.weights.shape[0] == 1


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 4), (3, 1, 1), (5, 1, 4, 1)])
def test_a_matrix_in_disguise_has_its_singular_triplets(xp, rng, sizes):
    C = rng.standard_normal(sizes)
    s = np.linalg.svd(
        C.reshape([n for n in sizes if n > 1] or [1]) if np.sum(np.array(sizes) > 1) == 2 else C.reshape(-1, 1),
        compute_uv=False,
    )
    for rank in range(1, len(s) + 1):
        fit = fit_core(DenseCore(xp.asarray(C)), rank=rank, rng=rng)
        near(host(fit.weights), s[:rank], 100)
        check(fit.residual - tails(s)[rank] / np.linalg.norm(s), 1.0, 100, "float64")


def test_a_target_that_is_zero():
    for sizes in [(3, 2, 2), (1, 1, 1)]:
        fit = fit_core(DenseCore(np.zeros(sizes)), rank=2, rng=np.random.default_rng(0))
        assert fit.residual == 0 and fit.weights.shape[0] == 0


def test_repeats_and_starts(rng):
    C = rng.standard_normal((4, 3, 3))
    a, b = (fit_core(DenseCore(C), rank=2, rng=np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a.weights, b.weights) and a.iterations == b.iterations
    assert all(np.array_equal(F, G) for F, G in zip(a.factors, b.factors, strict=True))
    start = [a.factors[0] * a.weights, *a.factors[1:]]
    again = fit_core(DenseCore(C), rank=2, rng=np.random.default_rng(6), start=start)
    assert again.residual <= a.residual * (1 + 1e-9)
    assert conj(C) is C


def test_normal_equations_of_huge_terms(rng):
    """Terms that cancel to 1e-8 of their size: ‖J‖² is 1e12, and its round-off above any fixed damping."""
    a, b = np.eye(2)
    h = 1e-4
    factors = [np.stack([a + h * b, a - h * b], axis=1) / np.sqrt(1 + h * h) for _ in range(4)]
    factors[0] = factors[0] * np.array([1, -1]) / (2 * h) ** 2
    core = DenseCore(terms(w_state(4)))
    for damping in (1e-2, 1e-18):
        step, bend, _ = GramModel(core, balanced(factors), U**2).step(damping)
        assert all(np.all(np.isfinite(F)) for F in step) and math.isfinite(bend)
