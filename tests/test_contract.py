"""The laws of the contract: every case × every backend × every law, value and returned type.

A law is a function of a `Built` matrix. `LAWS` is the list; test_new_structure.py runs it on a class of its own.
"""

import copy
import pickle
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from cases import CASES, CONVERSIONS, PAIRS, Case, normal, o_dense, o_low_rank
from conftest import check, dtype_of, host, library, namespace
from reference import Oracle, displacement_constant, displacement_norm

import sepmat as sm

DTYPES = {
    "numpy": ("float32", "float64", "complex64", "complex128"),
    "array_api_strict": ("float64", "complex128"),
    "torch": ("float32", "float64", "complex128"),
}
LIMIT = 1.01  # the bounds are of first order in u; k u < 0.01 leaves room for the second

LAWS = []


def law(fn):
    LAWS.append(fn)
    return fn


class Built:
    """A matrix on a backend beside its oracle, and another one `B` of the same kind with other numbers."""

    def __init__(self, case: Case, backend: str, dtype: str, rng=None) -> None:
        self.case, self.backend, self.dtype, self.xp = case, backend, dtype, namespace(backend)
        self.rng = rng or np.random.default_rng(7)
        self.data = case.data(self.rng, dtype)  # in NumPy
        self.A, self.o = case.build(self.xp, self.data)
        self.B, self.p = case.build(self.xp, case.data(self.rng, dtype))
        self.complex = dtype.startswith("complex")

    def draw(self, *shape, dtype=None):
        """The same random numbers as an array of the backend and in NumPy."""
        x = normal(self.rng, shape, dtype or self.dtype)
        return self.xp.asarray(x, copy=True), x

    def same(self, found, expected, error, dtype=None, name=None):
        """Library, device, dtype, shape and value of an array."""
        dtype = dtype or self.dtype
        assert library(found) == self.backend
        assert tuple(found.shape) == tuple(expected.shape)
        assert dtype_of(found) == dtype
        check(np.abs(host(found) - expected), error, LIMIT, dtype, name)

    def matches(self, M, oracle, kind=None, dtype=None):
        """Class, shape, dtype and the values of a matrix: as a whole and by its product with a vector."""
        dtype = dtype or self.dtype
        assert isinstance(M, sm.StructuredMatrix)
        if kind is not None:
            assert type(M) is kind, f"{M!r} is not a {kind.__name__}"
        assert M.shape == oracle.D.shape
        assert dtype_of(M) == dtype
        self.same(M.to_dense(), oracle.D, oracle.E, dtype)
        x, xn = self.draw(M.shape[1], dtype=dtype)
        self.same(M @ x, oracle.D @ xn, oracle.E @ np.abs(xn), dtype)


@cache
def built(case: Case, backend: str, dtype: str) -> Built:
    return Built(case, backend, dtype)


def fresh(b: Built) -> Built:
    """The same again, for laws that write into arrays."""
    return Built(b.case, b.backend, b.dtype)


def modes(o, x, axis):
    """(D along `axis` of x, its error bound) in extended precision"""

    def along(M, v):
        return np.moveaxis(np.tensordot(M, v, axes=(1, axis)), 0, axis)

    return along(o.D, x), along(o.E, np.abs(x))


# --- what it is -----------------------------------------------------------------------------------------------------------


@law
def is_what_it_says(b):
    A, o = b.A, b.o
    assert type(A) is b.case.kind
    assert A.shape == o.D.shape and all(type(n) is int for n in A.shape) and A.ndim == 2
    assert dtype_of(A) == b.dtype
    assert A.num_parameters == b.case.num_parameters
    assert all(library(a) == b.backend for a in A.arrays())
    assert A.device == A.arrays()[0].device
    text = repr(A)
    assert text.startswith(type(A).__name__) and str(A.shape) in text and b.dtype in text and "\n" not in text


@law
def dense_form(b):
    b.same(b.A.to_dense(), b.o.D, b.o.E, name="to_dense")
    np.testing.assert_array_equal(np.asarray(b.A), host(b.A.to_dense()))


@law
def entries_and_blocks(b):
    A, o, (m, n) = b.A, b.o, b.A.shape
    for rows, cols in (
        (slice(None), slice(None)), (slice(1, None, 2), slice(None, -1)), (slice(None, None, -1), slice(0, 2)),
        (slice(5, 1, -2), slice(-2, None)), (slice(3, 3), slice(None)), (slice(100, 200), slice(-100, 100)),
    ):  # fmt: skip
        b.same(A[rows, cols], o.D[rows, cols], o.E[rows, cols])
    if not m * n:
        return
    for i, j in {(0, 0), (m - 1, n - 1), (-1, 0), (m // 2, -n), (m // 3, n // 2), (-m, -1)}:
        b.same(A[i, j], np.asarray(o.D[i, j]), o.E[i, j])
    b.same(A[np.int64(m - 1), :], o.D[m - 1, :], o.E[m - 1, :])
    b.same(A[:, -1], o.D[:, -1], o.E[:, -1])
    rows, cols = [m - 1, 0, m - 1], [0, -1, n // 2, 0]
    b.same(A.block(rows, cols), o.D[np.ix_(rows, cols)], o.E[np.ix_(rows, cols)])
    b.same(A.block(np.asarray(rows), range(n)), o.D[rows], o.E[rows])
    for index in ((m, 0), (0, n), (-m - 1, 0), (0, -n - 1)):
        with pytest.raises(IndexError):
            A[index]


# --- products -------------------------------------------------------------------------------------------------------------


@law
def columns(b):
    n = b.A.shape[1]
    for shape in ((n,), (n, 1), (n, 3), (2, n, 3), (2, 1, n, 2), (n, 0), (0, n, 2)):
        x, xn = b.draw(*shape)
        expected, error = modes(b.o, xn, 0 if len(shape) == 1 else len(shape) - 2)
        b.same(b.A @ x, expected, error, name=f"A @ x: {b.case.kind.__name__}")


@law
def strided(b):
    """Layouts other than C: a step of 64 bytes is what a column of a C-ordered (n, 8) float64 matrix has."""
    n = b.A.shape[1]
    for step in (2, 4, 8, -1):
        x, xn = b.draw(n, abs(step))
        expected, error = modes(b.o, np.ascontiguousarray(xn[::step, 0] if step < 0 else xn[:, 0]), 0)
        if b.backend == "numpy":
            column = np.ascontiguousarray(x)[::step, 0] if step < 0 else np.ascontiguousarray(x)[:, 0]
        elif step < 0:
            continue  # torch has no negative strides
        else:
            column = x[:, 0]
        b.same(b.A @ column, expected, error)


@law
def rows(b):
    m, n = b.A.shape
    for lead in ((), (1,), (3,), (2, 3), (0,)):
        x, xn = b.draw(*lead, n)
        b.same(b.A.apply(x), *modes(b.o, xn, len(lead)))
        x, xn = b.draw(*lead, m)
        expected, error = modes(b.o.T, xn, len(lead))
        b.same(b.A.T.apply(x), expected, error)
        if b.backend != "array_api_strict":  # its arrays refuse before they ask the other operand
            b.same(x @ b.A, expected, error)


@law
def every_axis(b):
    n = b.A.shape[1]
    for axis in range(-4, 4):
        shape = [2, 1, 3, 2]
        shape[axis] = n
        x, xn = b.draw(*shape)
        b.same(b.A.apply(x, axis=axis), *modes(b.o, xn, axis % 4))
    with pytest.raises(sm.ArgumentError):
        b.A.apply(b.draw(n)[0], axis=1)


@law
def strided_and_flipped(b):
    if b.backend != "numpy":
        return
    n = b.A.shape[1]
    x = normal(b.rng, (2 * n, 6), b.dtype)
    for view in (
        np.asfortranarray(x[:n]),
        x[::2, ::-2],
        x[n - 1 :: -1] if n else x[:0],
        np.broadcast_to(x[:1], (n, 6)),
    ):
        b.same(b.A @ view, *modes(b.o, view, 0))
        b.same(b.A.apply(view.T), *(y.T for y in modes(b.o, view, 0)))


@law
def promotion(b):
    """Mixed precision and real × complex, both ways: the dtype of NumPy's rules, and no digit or imaginary part lost."""
    n = b.A.shape[1]
    for other in ("float32", "float64", "complex64", "complex128"):
        x, xn = b.draw(n, 2, dtype=other)
        dtype = str(np.result_type(b.dtype, other))
        expected, error = modes(b.o, xn, 0)
        b.same(b.A @ x, expected, 2 * error if b.complex != other.startswith("complex") else error, dtype)
        b.same(b.A.apply(x, axis=0), expected, 2 * error, dtype)


@law
def integers_and_lists(b):
    n = b.A.shape[1]
    xn = b.rng.integers(-3, 4, n)
    dtype = str(np.result_type(b.dtype, np.float64))
    b.same(b.A @ b.xp.asarray(xn, dtype=b.xp.int32), b.o.D @ xn, b.o.E @ np.abs(xn), dtype)
    if n:
        b.same(b.A @ xn.tolist(), b.o.D @ xn, b.o.E @ np.abs(xn), dtype)


# --- transposes -------------------------------------------------------------------------------------------------------------


@law
def transposes(b):
    A, o = b.A, b.o
    b.matches(A.T, o.T, b.case.T)
    b.matches(A.H, o.conj().T, b.case.T)
    b.matches(A.conj(), o.conj(), b.case.kind)
    b.matches(A.T.T, o, b.case.kind)
    b.matches(A.H.H, o, b.case.kind)
    b.matches(A.T.conj().T, o.conj(), b.case.kind)
    assert A.T.num_parameters == A.num_parameters
    if not b.complex:
        assert A.conj() is A


@law
def adjoint(b):
    """⟨A x, y⟩ = ⟨x, Aᴴ y⟩ (B23)"""
    (x, xn), (y, yn) = b.draw(b.A.shape[1]), b.draw(b.A.shape[0])
    left, right = np.vdot(yn, host(b.A @ x)), np.vdot(host(b.A.H @ y), xn)
    inner = 3 * sum(b.A.shape) * np.abs(yn) @ b.o.G @ np.abs(xn)
    check(abs(left - right), 2 * np.abs(yn) @ b.o.E @ np.abs(xn) + inner, LIMIT, b.dtype, "B23 adjoint")


# --- algebra -----------------------------------------------------------------------------------------------------------------


@law
def multiples(b):
    A, o, kind = b.A, b.o, b.case.scaled
    for M, s in ((2 * A, 2), (A * -0.3, -0.3), (-A, -1), (np.float64(1.7) * A, 1.7)):
        rounded = np.asarray(s, b.dtype)
        b.matches(M, o.scaled(rounded), kind)
    b.matches(A / 3, o.scaled(np.longdouble(1) / 3, 14), kind)
    b.matches(b.xp.asarray(2.5, dtype=A.dtype) * A if b.backend == "numpy" else A * b.xp.asarray(2.5, dtype=A.dtype),
              o.scaled(2.5), kind)  # fmt: skip
    s = np.asarray(0.6 - 0.8j, np.result_type(b.dtype, np.complex64))
    b.matches(complex(0.6, -0.8) * A, Oracle(o.D, o.G, 3 * o.E).scaled(s, 6), kind, str(s.dtype))
    assert +A is A


@law
def sums(b):
    kind = b.case.plus
    b.matches(b.A + b.B, b.o + b.p, kind)
    b.matches(b.A - b.B, b.o - b.p, kind)
    b.matches(b.A + b.B + b.A, b.o + b.p + b.o)
    b.matches((b.A + b.B).T, (b.o + b.p).T)
    b.matches(2 * (b.A - b.B), (b.o - b.p).scaled(2))
    D, d = _dense(b, *b.A.shape)
    b.matches(b.A + D, b.o + d)
    b.matches(D - b.A, d - b.o)


@law
def products(b):
    if b.A.shape[0] == b.A.shape[1]:
        b.matches(b.A @ b.B, b.o @ b.p)
        b.matches(b.A @ b.B @ b.A, b.o @ b.p @ b.o)
    b.matches(b.A @ b.B.H, b.o @ b.p.conj().T, b.case.times)
    b.matches((b.A @ b.B.T).T, (b.o @ b.p.T).T)
    b.matches(3 * (b.A.T @ b.B), (b.o.T @ b.p).scaled(3))
    D, d = _dense(b, b.A.shape[1], 2)
    b.matches(b.A @ D, b.o @ d)
    D, d = _dense(b, 2, b.A.shape[0])
    b.matches(D @ b.A, d @ b.o)
    L, l = _low_rank(b, b.A.shape[1], 3)
    b.matches(b.A @ L, b.o @ l, None if b.case.kind is sm.Product else sm.LowRank)


def _dense(b, m, n):
    D, d = b.draw(m, n)
    return sm.Dense(D), o_dense(d)


def _low_rank(b, m, n):
    (U, u), (V, v) = b.draw(m, 1), b.draw(n, 1)
    return sm.LowRank(U, V), o_low_rank(u, v)


@law
def mixed_algebra(b):
    """A float32 (complex64) matrix and a float64 one: sums and products in the wider dtype."""
    other = {"float32": "float64", "float64": "complex128", "complex64": "complex128"}.get(b.dtype)
    if other not in DTYPES[b.backend]:
        return
    c = built(b.case, b.backend, other)
    b.matches(b.A + c.A, b.o + c.o, dtype=other)
    b.matches(c.A @ b.A.T, c.o @ b.o.T, dtype=other)
    b.matches(b.A.T @ c.A, b.o.T @ c.o, dtype=other)
    b.matches(b.A.astype(c.A.dtype), _widened(b), b.case.kind, other)


def _widened(b):
    """The oracle of the same numbers when the arithmetic is complex: √2 γ_2k for γ_k."""
    return Oracle(b.o.D, b.o.G, 3 * b.o.E)


# --- data that is frozen ------------------------------------------------------------------------------------------------------


@law
def inputs_are_copied(b):
    """Writing into the arrays that a matrix was made from (torch keeps tensors: gradients must reach them)."""
    if b.backend == "torch":
        return
    data = [b.xp.asarray(a, copy=True) for a in b.case.data(b.rng, b.dtype)]
    A = b.case.make(*data)
    before = host(A.to_dense()).copy()
    for a in data:
        a[...] = 99
    np.testing.assert_array_equal(host(A.to_dense()), before, strict=True)


@law
def results_are_new(b):
    """Writing into a result changes neither the matrix nor the argument."""
    b = fresh(b)
    A, (m, n) = b.A, b.A.shape
    before = host(A.to_dense()).copy()
    x, xn = b.draw(n, 2)
    y, yn = b.draw(2, m)
    results = [A @ x, A.T.apply(y), A.apply(x, axis=0), A.to_dense(), A[:, :], A.block([0], [0]) if m * n else A[:, :]]
    for f in (sm.diagonal, sm.trace, sm.eigvals, sm.svdvals):
        with suppress(sm.UnsupportedError, sm.ShapeError):
            results.append(f(A))
    for r in results:
        if isinstance(r, np.generic):  # NumPy gives scalars for 0-d results; they cannot be written to
            continue
        r[...] = 77
    np.testing.assert_array_equal(host(A.to_dense()), before)
    np.testing.assert_array_equal(host(x), xn)
    np.testing.assert_array_equal(host(y), yn)


@law
def spectrum_follows_the_data(b):
    """A torch tensor that is written to between two products: the second one uses the new numbers."""
    if b.backend != "torch":
        return
    arrays = b.case.data(b.rng, b.dtype)
    tensors = [b.xp.asarray(a, copy=True) for a in arrays]
    A = b.case.make(*tensors)
    ours = {t.untyped_storage().data_ptr() for t in tensors}
    if not all(a.untyped_storage().data_ptr() in ours for a in A.arrays()):
        return  # computed from the tensors when the matrix was made
    before = b.case.oracle(*arrays)
    x, xn = b.draw(A.shape[1])
    y, yn = b.draw(A.shape[0])
    b.same(A @ x, before.D @ xn, before.E @ np.abs(xn))
    b.same(A.T @ y, before.D.T @ yn, before.E.T @ np.abs(yn))
    for t in tensors:
        t *= 3
    after = b.case.oracle(*((3 * a).astype(b.dtype) for a in arrays))
    b.same(A @ x, after.D @ xn, after.E @ np.abs(xn))
    b.same(A.T @ y, after.D.T @ yn, after.E.T @ np.abs(yn))


@law
def copies(b):
    for other in (pickle.loads(pickle.dumps(b.A)), copy.copy(b.A), copy.deepcopy(b.A), b.A.map(lambda a: a)):
        assert type(other) is type(b.A) and other.equals(b.A) and b.A.equals(other)
        np.testing.assert_array_equal(host(other.to_dense()), host(b.A.to_dense()))
        assert repr(other) == repr(b.A)
    assert len({b.A, b.A, copy.copy(b.A)}) == 2  # equality is identity
    if b.A.num_parameters:
        assert not b.A.equals(b.B)
    assert not b.A.equals(None)


@law
def frozen(b):
    for name in ("shape", "T", *b.A._fields()):
        with pytest.raises((AttributeError, TypeError)):
            setattr(b.A, name, None)
    if b.backend == "numpy":
        assert not any(a.flags.writeable for a in b.A.arrays() if a.size)


@law
def casts(b):
    wide = {"float32": "float64", "complex64": "complex128"}.get(b.dtype)
    if wide:
        up = b.A.astype(wide)
        assert dtype_of(up) == wide and type(up) is type(b.A)
        down = up.astype(b.dtype)
        assert down.equals(b.A)
    assert b.A.astype(b.dtype) is b.A
    assert b.A.to_device(b.A.device).equals(b.A)
    if b.complex:
        with pytest.raises(sm.DTypeError, match="imaginary"):
            b.A.astype("float64")
    with pytest.raises(sm.DTypeError):
        b.A.astype(b.xp.int32)


# --- other libraries ------------------------------------------------------------------------------------------------------------


@law
def scipy_duck_type(b):
    if b.backend != "numpy":
        return
    from scipy.sparse.linalg import aslinearoperator

    m, n = b.A.shape
    (x, _), (y, _), (X, _), (Y, _) = b.draw(n), b.draw(m), b.draw(n, 2), b.draw(m, 2)
    b.same(b.A.matvec(x), b.o.D @ x, b.o.E @ np.abs(x))
    b.same(b.A.matvec(x[:, None]), b.o.D @ x[:, None], b.o.E @ np.abs(x[:, None]))
    b.same(b.A.matmat(X), b.o.D @ X, b.o.E @ np.abs(X))
    b.same(b.A.rmatvec(y), b.o.D.conj().T @ y, b.o.E.T @ np.abs(y))
    b.same(b.A.rmatmat(Y), b.o.D.conj().T @ Y, b.o.E.T @ np.abs(Y))
    if m * n:
        L = aslinearoperator(b.A)
        assert L.shape == b.A.shape and L.dtype == b.A.dtype
        b.same(L.H @ y, b.o.D.conj().T @ y, b.o.E.T @ np.abs(y))


@law
def numpy_functions_are_refused(b):
    if b.backend != "numpy":
        return
    for call in (lambda A: np.kron(A, np.eye(2)), lambda A: np.linalg.norm(A), lambda A: np.add(A, 1), np.exp, np.sum):
        with pytest.raises(TypeError):
            call(b.A)
    with pytest.raises(TypeError):
        b.A + np.eye(2)
    with pytest.raises(TypeError):
        np.eye(2) - b.A
    with pytest.raises(TypeError):
        b.A * np.ones(3)
    with pytest.raises(TypeError):
        b.A * b.B
    with pytest.raises(TypeError):
        2 / b.A
    with pytest.raises(TypeError):
        b.A**2


# --- NaN and infinity ---------------------------------------------------------------------------------------------------------


@law
def non_finite_stays_visible(b):
    """NaN or infinity in x never becomes a finite number in an entry that depends on it."""
    n = b.A.shape[1]
    if not n:
        return
    for bad in (np.nan, np.inf, -np.inf):
        _, xn = b.draw(n)
        xn[n // 2] = bad
        x = b.xp.asarray(xn, copy=True)
        hit = b.o.D[:, n // 2] != 0
        for y in (b.A @ x, b.A.apply(x), b.A @ x[:, None], b.A.apply(x[None, :])):
            assert not np.any(np.isfinite(host(y).reshape(-1)[hit]))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("backend", DTYPES)
def test_law(law, case, backend):
    for dtype in DTYPES[backend]:
        try:
            law(built(case, backend, dtype))
        except Exception as e:
            e.add_note(f"{law.__name__}: {case} on {backend} {dtype}")
            raise


def of_wider_class(oracle, M):
    """The oracle of a matrix that a wider class has taken up: that class is applied by longer FFTs, with their bound.

    Toeplitz: embeddings of N <= 4n (B10). LowDisplacementRank: B11 with the generators that M has.
    """
    E = 4 * oracle.E
    if type(M) is sm.LowDisplacementRank:
        G, H = host(M.g), host(M.h)
        E = E + displacement_constant(G, H) * displacement_norm(G, H)
    return Oracle(oracle.D, oracle.G, E)


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("left, op, right, kind", PAIRS, ids=lambda v: str(getattr(v, "__name__", v)))
def test_closed_sums_and_products(left, op, right, kind, backend):
    for dtype in DTYPES[backend]:
        a, b = Built(left, backend, dtype), Built(right, backend, dtype)
        M, oracle = (a.A + b.B, a.o + b.p) if op == "+" else (a.A @ b.B, a.o @ b.p)
        oracle = of_wider_class(oracle, M)
        a.matches(M, oracle, kind)
        a.matches(M.T, oracle.T)


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("case, target", CONVERSIONS, ids=lambda v: str(getattr(v, "__name__", v)))
def test_exact_conversions(case, target, backend):
    for dtype in DTYPES[backend]:
        b = built(case, backend, dtype)
        M = sm.convert(b.A, target)
        b.matches(M, of_wider_class(b.o, M), target)
        assert sm.convert(b.A, type(b.A)) is b.A


def test_conversions_that_do_not_exist():
    with pytest.raises(sm.UnsupportedError, match=r"Use .*, or "):
        sm.convert(sm.Dense(np.eye(2)), sm.Diagonal)
    with pytest.raises(sm.DTypeError):
        sm.convert(np.eye(2), sm.Dense)


# --- torch: gradients and half precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("case", [c for c in CASES if all(np.prod(s) for s in c.shapes)], ids=str)
def test_gradients(case, dtype):
    """A @ x, rows, and the dense form: exact derivatives with respect to every stored number and to x."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    arrays = [torch.asarray(a).requires_grad_() for a in case.data(rng, dtype)]
    m, n = case.make(*arrays).shape
    x, y = (torch.asarray(normal(rng, (k,), dtype)).requires_grad_() for k in (n, m))

    def products(x, y, *arrays):
        A = case.make(*arrays)
        return A @ x, A.T.apply(y), A.to_dense()

    assert torch.autograd.gradcheck(products, (x, y, *arrays))


def test_the_same_numbers_are_not_the_same_matrix():
    """equals looks at all fields: at the classes of the parts, and at what is no array."""
    c, eye = np.array([1.0, 2.0, 3.0]), np.eye(2)
    assert not sm.Kronecker(sm.Circulant(c), eye).equals(sm.Kronecker(sm.SkewCirculant(c), eye))
    assert sm.Kronecker(sm.Circulant(c), eye).equals(sm.Kronecker(sm.Circulant(c), eye))
    W = sm.LowDisplacementRank(np.ones((3, 1)), c[:, None])
    assert not W.equals(W.T) and W.equals(W.T.T) and W.equals(W.map(np.copy))


def test_gradients_of_algebra():
    """Through sums, products, multiples and conjugates, and through several products with one matrix."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    c, d, A, B, x = (torch.asarray(normal(rng, s, "complex128")).requires_grad_() for s in (4, 4, (2, 2), (2, 2), 4))

    def f(c, d, A, B, x):
        M = 2 * sm.Circulant(c) @ sm.Kronecker(A, B) - sm.Diagonal(d).H @ sm.SkewCirculant(d) / 3
        return M @ (M.T @ x) + M.conj() @ x

    assert torch.autograd.gradcheck(f, (c, d, A, B, x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", [c for c in CASES if c.half], ids=str)
def test_half_precision(case, dtype):
    """B24: torch's 16-bit numbers, sums in float32: |error| <= ((d + 1) u16 + γ_K) G |x|."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    half = getattr(torch, dtype)
    tensors = [torch.asarray(a).to(half) for a in case.data(rng, "float32")]
    A, oracle = case.make(*tensors), case.oracle(*(t.double().numpy() for t in tensors))
    n = A.shape[1]
    for shape, axis in (((n,), 0), ((n, 3), 0), ((3, n), 1)):
        x = torch.asarray(normal(rng, shape)).to(half)
        y = A @ x if axis == 0 else A.apply(x)
        assert y.dtype == half
        expected, _ = modes(oracle, x.double().numpy(), axis)
        _, scale = modes(Oracle(oracle.D, oracle.G, oracle.G), x.double().numpy(), axis)
        _, float32 = modes(oracle, x.double().numpy(), axis)
        bound = (case.half + 1) * scale + float32 * 2.0**-24 / (2.0**-11 if dtype == "float16" else 2.0**-8)
        check(np.abs(y.double().numpy() - expected), bound, LIMIT, dtype, "B24 half precision")


# --- SciPy's solvers take the matrix as it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("case", [c for c in CASES if c.kind is not sm.Product], ids=str)
def test_scipy_solvers(case, dtype):
    from scipy.sparse.linalg import cg, gmres, lsmr, svds

    b = built(case, "numpy", dtype)
    (m, n), A = b.A.shape, b.A
    M = np.asarray(b.o.D, dtype)
    if not M.any():
        return
    y, _ = b.draw(m)
    x = lsmr(A, y, atol=1e-15, btol=1e-15, conlim=0, maxiter=100 * n)[0]
    normal_residual = np.linalg.norm(M.conj().T @ (y - M @ x))
    check(
        normal_residual,
        np.linalg.norm(M, 2) * (np.linalg.norm(y) + np.linalg.norm(M, 2) * np.linalg.norm(x)),
        1e4,
        dtype,
    )
    if m == n:
        shifted = A + 4 * np.linalg.norm(M, 2) * sm.Identity(n, like=M)
        x, info = gmres(shifted, y, rtol=1e-12, atol=0)
        assert info == 0
        check(np.linalg.norm(np.asarray(shifted) @ x - y), np.linalg.norm(y), 1e-11 / 2.0**-53, dtype)
        N = A @ A.H + np.linalg.norm(M) ** 2 * sm.Identity(n, like=M)
        x, info = cg(N, y, rtol=1e-12, atol=0)
        assert info == 0
        check(np.linalg.norm(np.asarray(N) @ x - y), np.linalg.norm(y), 1e-11 / 2.0**-53, dtype)
    if min(m, n) >= 3:
        s = svds(A, k=1, return_singular_vectors=False, v0=np.ones(min(m, n)), tol=1e-12)
        check(abs(s[0] - np.linalg.norm(M, 2)), np.linalg.norm(M, 2), 1e-10 / 2.0**-53, dtype)
