"""A case of the behaviour table, and the one function that runs it and says what came out.

A case holds when it gives what it promises: a `Value` (numbers, shape, dtype, library), a `Refusal` (the class of the error,
and a message in five parts with argument, value and advice), or `TRUE` (a statement about the library that is True). In every
case the inputs must be untouched, the result must share no memory with them, no warning may leak, and random states, error
states, warning filters, print options and thread counts must be as they were.

Nothing here is an `assert`: the table runs under `python -O` as well.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import random
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import sepmat as sm

ROUNDOFF = {"float64": 2.0**-53, "complex128": 2.0**-53, "float32": 2.0**-24, "complex64": 2.0**-24,
            "float16": 2.0**-11, "bfloat16": 2.0**-8}  # fmt: skip
NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "array_api_strict": "array_api_strict",
    "torch": "array_api_compat.torch",
    "cupy": "array_api_compat.cupy",
}
EVERYWHERE = tuple(NAMESPACES)
HANDLED = ("right", "propagated", "refused clearly")
OUTCOMES = (
    *HANDLED,
    "right but warns",
    "refused wrongly",
    "obscure",
    "unclear",
    "wrong and warns",
    "silently wrong",
    "hang",
)
PATIENCE = 20  # seconds


class Skip(Exception):
    """The backend, or what a case needs, is not here; the message says why."""


class Wrong(Exception):
    """What came out is not what was promised."""


class Hang(BaseException):
    """No answer in time."""


# what a case promises -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Value:
    """The numbers `want` up to limit · scale · u (both by default as in the comparison of libraries: 60 n and max|want|).

    NaN and infinities must stand where they stand in `want`. scale = 0: exactly.
    """

    want: Any
    dtype: str | None = "float64"
    scale: Any = None
    limit: float | None = None
    library: str | None = None  # of the backend by default


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An error of a class, with regular expressions for argument, value and advice (or for Python's own message)."""

    kind: Any
    argument: str | None = None
    got: str = "."
    advice: str = "."


TRUE = "the call returns True"


@dataclasses.dataclass(frozen=True)
class Case:
    """row: where the promise stands ("6.12": row 12 of the expected behaviour, "7.57": of the catalogue). operation and kind
    group the figures. warns: the warning that belongs to the result."""

    row: str
    what: str
    call: Callable[["Backend"], Any]
    promise: Any
    operation: str = "other"
    kind: str = "other"
    on: tuple[str, ...] = EVERYWHERE
    warns: Any = None

    @property
    def name(self) -> str:
        return f"{self.row} {self.what}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    kind: str
    detail: str = ""
    digest: str = ""
    message: bool = False  # whether the five parts of a message were read
    leaked: int = 0
    seconds: float = 0.0

    @property
    def handled(self) -> bool:
        return self.kind in HANDLED


# backends -----------------------------------------------------------------------------------------------------------------


class Backend:
    """Makes arrays of one library, and remembers what their bytes were."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "cupy":
            with contextlib.suppress(ImportError):
                cupy = importlib.import_module("cupy")
                if not cupy.cuda.is_available():
                    raise Skip("no CUDA device")
        try:
            self.xp = importlib.import_module(NAMESPACES[name])
        except ImportError:
            raise Skip(f"{name} is not installed") from None
        if name == "torch":  # imports on its first use here what changes the filters of warnings
            self.xp.ones((1, 1), device="meta") @ self.xp.ones(1, device="meta")
        self.inputs: list[tuple[Any, Any]] = []

    def __call__(self, x: Any, dtype: Any = None) -> Any:
        """x as a new array of this library, in float64 unless it is complex or a dtype is named."""
        x = np.asarray(x)
        if dtype is None:
            dtype = np.result_type(x, float) if x.dtype.kind in "biuf" else x.dtype
        return self.watch(self.xp.asarray(np.array(x, dtype=dtype)))

    def watch(self, x: Any) -> Any:
        """x, which nobody may change from here on."""
        self.inputs.append((x, fingerprint(x)))
        return x

    def dtype(self, name: str) -> Any:
        return getattr(self.xp, name)

    def changed(self) -> bool:
        return any(fingerprint(x) != before for x, before in self.inputs)


def plain(x: Any) -> Any:
    """Any array or matrix as a NumPy array, without going through the library where it is one."""
    if isinstance(x, sm.StructuredMatrix):
        return plain(x.to_dense())
    if hasattr(x, "detach"):
        x = x.detach().resolve_conj().resolve_neg()
        return x.float().numpy() if x.dtype.itemsize == 2 and x.is_floating_point() else x.numpy()
    return x.get() if type(x).__module__.startswith("cupy") else np.asarray(x)


def fingerprint(x: Any) -> Any:
    """What must stay the same of an input."""
    if isinstance(x, (list, tuple, dict, set, str, bytes, int, float, complex)) or x is None:
        return repr(x)
    if hasattr(x, "is_sparse") and (x.is_sparse or x.device.type == "meta"):
        return (tuple(x.shape), str(x.dtype))
    if isinstance(x, np.ndarray) and x.dtype.hasobject:
        return repr(x)
    try:
        x = plain(x)
        return (x.shape, str(x.dtype), x.strides, x.flags.writeable, x.tobytes())
    except Exception:  # noqa: BLE001 - an object that is no array: nothing to compare
        return None


def library(x: Any) -> str:
    if hasattr(x, "detach"):  # a subclass of torch.Tensor has a module of its own
        return "torch"
    return type(x).__module__.partition(".")[0]


def leaves(result: Any) -> Iterator[Any]:
    """The arrays of a result."""
    if isinstance(result, sm.StructuredMatrix):
        yield from result.arrays()
    elif isinstance(result, sm.Fit):
        yield from result.matrix.arrays()
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from leaves(item)
    elif hasattr(result, "dtype") and hasattr(result, "shape"):
        yield result


def shares(result: Any, inputs: list[tuple[Any, Any]]) -> bool:
    """Whether memory of an input is memory of the result: of an array, or of a matrix that copies what it is given."""
    mine = [
        x for x in leaves(result) if not (isinstance(result, (sm.StructuredMatrix, sm.Fit)) and hasattr(x, "detach"))
    ]
    for x in mine:
        for y, _ in inputs:
            with contextlib.suppress(Exception):
                a, b = plain(x), plain(y)
                if a.size and b.size and np.may_share_memory(a, b):
                    return True
    return False


# one case -----------------------------------------------------------------------------------------------------------------


def state() -> Any:
    """What no call may change."""
    found = [np.geterr(), np.get_printoptions(), np.random.get_state()[1].tobytes(),  # noqa: NPY002
             hash(random.getstate()), list(warnings.filters), sys.getrecursionlimit()]  # fmt: skip
    torch = sys.modules.get("torch")
    if torch is not None:
        found += [torch.get_default_dtype(), torch.get_rng_state().numpy().tobytes(), torch.get_num_threads(),
                  torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()]  # fmt: skip
    return found


@contextlib.contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Raise Hang in the main thread after so many seconds of its processor's time, however busy the machine is; 0: never."""
    if not seconds:
        yield
        return

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run(case: Case, backend: str, seconds: int = 0, errstate: str = "warn") -> Outcome:
    """What a case does on a backend. Raises Skip where it cannot be asked."""
    b = Backend(backend)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, np.errstate(all=errstate):
        warnings.simplefilter("always")
        before, result, error = state(), None, None
        try:
            with patience(seconds):
                result = case.call(b)
        except (Skip, KeyboardInterrupt):
            raise
        except Hang:
            return Outcome("hang", f"{seconds} s")
        except Exception as raised:  # noqa: BLE001 - which error it is, is the question
            error = raised
        untouched = state() == before
    mine = [w for w in caught if case.warns is None or not issubclass(w.category, case.warns)]
    verdict, detail = _judged(case, b, result, error)
    if case.warns is not None and error is None and len(mine) == len(caught):
        verdict, detail = "silently wrong", f"no {case.warns}"
    if not untouched or b.changed():
        verdict, detail = "silently wrong", "it changed " + ("its input" if untouched else "a global state")
    elif error is None and shares(result, b.inputs):
        verdict, detail = "silently wrong", "the result shares memory with an input"
    if mine and verdict in ("right", "propagated", "silently wrong"):
        verdict = "wrong and warns" if verdict == "silently wrong" else "right but warns"
        detail = f"{detail} {mine[0].category.__name__}: {mine[0].message}"
    elif mine and verdict == "refused clearly":
        verdict, detail = "unclear", f"it warns before: {mine[0].message}"
    message = verdict == "refused clearly" and isinstance(error, sm.SepmatError)
    return Outcome(verdict, detail, digest(result, error), message, len(mine), time.perf_counter() - start)


def _judged(case: Case, b: Backend, result: Any, error: Exception | None) -> tuple[str, str]:
    promise = case.promise
    if isinstance(promise, Refusal):
        if error is None:
            return "silently wrong", f"a value, {_short(result)}"
        if not isinstance(error, promise.kind):
            return "obscure", f"{type(error).__name__}: {error}"
        try:
            read(error, promise)
        except Wrong as wrong:
            return "unclear", str(wrong)
        return "refused clearly", ""
    if error is not None:
        kind = "refused wrongly" if isinstance(error, sm.SepmatError) else "obscure"
        return kind, f"{type(error).__name__}: {error}"
    try:
        if promise == TRUE:
            if result is not True and not isinstance(result, np.bool_):
                raise Wrong(f"not a verdict: {_short(result)}")
            if not result:
                raise Wrong("False")
            return "right", ""
        compare(result, promise, b)
    except Wrong as wrong:
        return "silently wrong", str(wrong)
    want = np.asarray(promise.want() if callable(promise.want) else promise.want)
    return ("right" if np.all(np.isfinite(want)) else "propagated"), ""


def read(error: BaseException, promise: Refusal) -> None:
    """The five parts of a message, and what a case wants in them."""
    if promise.argument is None:
        if not re.search(promise.got, str(error)):
            raise Wrong(f"{promise.got!r} not in {error}")
        return
    form(error)
    _, argument, got, expected, advice = error.args
    if not re.match(promise.argument, argument):
        raise Wrong(f"argument {argument!r} is not {promise.argument!r}")
    if not re.search(promise.got, f"{got}; expected {expected}"):
        raise Wrong(f"{promise.got!r} not in {got!r}; expected {expected!r}")
    if not re.search(promise.advice, advice):
        raise Wrong(f"{promise.advice!r} not in {advice!r}")


def form(error: BaseException) -> None:
    """`where: argument: got; expected what. Advice.` in one line of a bearable length, and also a built-in error."""
    parts = error.args
    if not isinstance(error, sm.SepmatError):
        raise Wrong(f"{type(error).__name__} is no error of the library")
    if len(parts) != 5 or not all(isinstance(p, str) and p.strip() for p in parts):
        raise Wrong(f"not five parts: {parts}")
    where, argument, got, expected, advice = parts
    text = str(error)
    if text != f"{where}: {argument}: {got}; expected {expected}. {advice}.":
        raise Wrong(f"not in the common form: {text}")
    if advice.endswith(".") or "\n" in text or len(text) > 700 or not (advice[0].isupper() or advice[0] in "'a`"):
        raise Wrong(f"no bearable line: {text}")
    builtin = (ValueError, TypeError, MemoryError, NotImplementedError, IndexError, RuntimeError)
    if not isinstance(error, builtin):
        raise Wrong(f"{type(error).__name__} is no built-in error")


def compare(result: Any, promise: Value, b: Backend) -> None:
    """Library, dtype, shape and numbers."""
    want = np.asarray(promise.want() if callable(promise.want) else promise.want)
    if want.dtype.kind in "biu":
        want = want.astype(np.longdouble)
    home = promise.library or ("numpy" if b.name == "numpy" else NAMESPACES[b.name].rpartition(".")[2])
    arrays = list(leaves(result)) if not isinstance(result, (float, complex, int)) else []
    for x in arrays:
        if library(x) != home:
            raise Wrong(f"an array of {library(x)}, not of {home}")
    if promise.dtype is not None and arrays:
        name = str(result.dtype).rpartition(".")[2]
        if name != promise.dtype:
            raise Wrong(f"dtype {name}, not {promise.dtype}")
    got = plain(result)
    if got.shape != want.shape:
        raise Wrong(f"shape {got.shape}, not {want.shape}")
    if isinstance(got, np.ndarray) and got.dtype.byteorder not in "=|":
        raise Wrong("not in native byte order")
    nan, inf = np.isnan(want), np.isinf(want)
    if np.any(np.isnan(got) != nan) or np.any(got[inf] != want[inf]):
        raise Wrong(f"{_short(got)}, not {_short(want)}")
    if want.dtype.kind == "c":
        want = want.astype(np.clongdouble)
    fine = ~(nan | inf)
    if not fine.any():
        return
    wide = np.clongdouble if got.dtype.kind == "c" else np.longdouble
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(wide) - want)[fine]
        scale = (
            np.max(np.abs(want[fine])) if promise.scale is None else np.broadcast_to(promise.scale, want.shape)[fine]
        )
        u = ROUNDOFF[promise.dtype or str(got.dtype)]
        allowed = (60.0 * max((1, *want.shape)) if promise.limit is None else promise.limit) * np.longdouble(u) * scale
        if not np.all(error <= allowed):
            raise Wrong(f"{_short(got)}, not {_short(want)}: off by {float(np.max(error)):.2g}")


def digest(result: Any, error: BaseException | None) -> str:
    """The bits of a result, or the text of an error."""
    found = hashlib.sha256()
    if error is not None:
        found.update(f"{type(error).__name__}: {error}".encode())
        return found.hexdigest()[:16]
    for x in leaves(result):
        with contextlib.suppress(Exception):
            x = plain(x)
            found.update(f"{x.shape} {x.dtype}".encode() + np.ascontiguousarray(x).tobytes())
    if isinstance(result, (bool, int, float, complex, str)):
        found.update(repr(result).encode())
    return found.hexdigest()[:16]


def _short(x: Any) -> str:
    with contextlib.suppress(Exception):
        text = " ".join(repr(x).split())
        return text if len(text) < 100 else text[:99] + "…"
    return f"a {type(x).__name__}"
