"""Systems with T_1 ⊕ … ⊕ T_d, T_i upper triangular: T_1 Y + Y T_2ᵀ = B for two of them, the Sylvester equation of Bartels and Stewart,
"Solution of the matrix equation AX + XB = C" (1972).
"""

from collections.abc import Callable, Sequence

from scipy.linalg import get_lapack_funcs

from .. import _array
from .._array import Array
from ._table import KernelTable

Solver = Callable[[Sequence[Array], Array, Array], Array]


def _reference(T: Sequence[Array], b: Array, shift: Array) -> Array:
    """Y of (T_1 ⊕ … ⊕ T_d + shift I) Y = b, b of shape (Π n_i, k), all of one dtype: back-substitution, N Σ n_i k multiplications."""
    xp = _array.array_namespace(b)
    if len(T) > 1:
        return _by_rows(_reference, T, b, shift)
    return xp.linalg.solve(T[0] + shift * xp.eye(b.shape[0], dtype=b.dtype, device=_array.device(b)), b)


triangular_sum_solve = KernelTable("triangular_sum_solve", _reference)


@triangular_sum_solve.row("trsyl", lambda T, b, shift: len(T) > 1 and _array.is_numpy(b))
def _trsyl(T: Sequence[Array], b: Array, shift: Array) -> Array:
    """LAPACK's trsyl for the last two factors."""
    if len(T) > 2:
        return _by_rows(_trsyl, T, b, shift)
    xp, sizes = _array.array_namespace(b), [X.shape[0] for X in T]
    first, second = T[0] + shift * xp.eye(sizes[0], dtype=b.dtype), xp.conj(T[1])  # its adjoint is T_2ᵀ
    (trsyl,) = get_lapack_funcs(("trsyl",), (first, second, b))
    columns = []
    for j in range(b.shape[1]):
        y, scale, _ = trsyl(first, second, xp.reshape(b[:, j], sizes), tranb="C")
        columns.append(xp.reshape(y / scale, (-1,)))
    return xp.stack(columns, axis=1) if columns else b


def _by_rows(inner: Solver, T: Sequence[Array], b: Array, shift: Array) -> Array:
    """By the rows of T_1 from the last one on, each a system with the other factors."""
    xp, n, (first, *rest) = _array.array_namespace(b), T[0].shape[0], T
    rows = xp.reshape(b, (n, b.shape[0] // n, b.shape[1]))
    solved: list[Array] = []
    for i in reversed(range(n)):
        right = rows[i, ...]
        if solved:
            later = xp.reshape(xp.stack(solved[::-1]), (n - 1 - i, right.shape[0] * right.shape[1]))
            right = right - xp.reshape(first[i : i + 1, i + 1 :] @ later, right.shape)
        solved.append(inner(rest, right, shift + first[i, i]))
    return xp.concat(solved[::-1], axis=0)
