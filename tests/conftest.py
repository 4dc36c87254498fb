"""What all tests share: the backends, the random numbers, and the one assertion about numerical errors.

Every numerical claim is error <= limit · scale · u. `check` is the only place where such a claim is asserted: NaN fails
it, a scale of zero allows no error, and the worst ratio of every named bound is reported at the end of the run.
"""

import contextlib
import ctypes
import datetime
import functools
import importlib
import importlib.metadata
import json
import math
import pathlib
import subprocess
import zlib

import hypothesis
import limits
import numpy as np
import pytest

from sepmat._bounds import ROUNDOFF

pytest.register_assert_rewrite("draws", "file_parts")  # as in test modules: their assertions hold under python -O too

BACKENDS = {
    "numpy": "array_api_compat.numpy",
    "array_api_strict": "array_api_strict",
    "torch": "array_api_compat.torch",
}
DEVICES = {"torch cuda": "array_api_compat.torch", "cupy": "array_api_compat.cupy"}  # for tests marked gpu

worst: dict[str, float] = {}  # the largest ratio / limit seen for each named bound
tally: dict[str, int] = {}  # how many inequalities were checked under each name, "" for those without one
counted: list[str] | None = None  # where a list stands here, alarms go into it and fail nothing


class Alarm(AssertionError):
    """An error within its hard bound that is larger than any run had shown: a regression to look at, not yet a bug."""


@contextlib.contextmanager
def counting_alarms():
    """In this context alarms are counted and fail nothing: the list of their messages."""
    global counted
    before, counted = counted, []
    try:
        yield counted
    finally:
        counted = before


settings = {"deadline": None, "print_blob": True, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
SEEDED = {"ci": 300}  # examples where an example is a seed, which costs a sixth of one whose every entry is drawn
QUICK = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **settings)
hypothesis.settings.register_profile("dev", max_examples=50, **settings)
hypothesis.settings.register_profile(
    "nightly",
    max_examples=20_000,
    derandomize=False,
    database=None,
    phases=[*QUICK, hypothesis.Phase.target],
    **settings,
)
hypothesis.settings.register_profile(
    "mutation", max_examples=20, derandomize=True, database=None, phases=QUICK, **settings
)
hypothesis.settings.load_profile("ci")  # --hypothesis-profile=NAME overrides it


def ratio(error, scale, dtype):
    """max error / (scale u): not finite → inf; scale 0 with error 0 → 0, with an error → 1/u. Arrays broadcast."""
    u = np.longdouble(ROUNDOFF[str(dtype).rpartition(".")[2]])
    error, scale = np.broadcast_arrays(np.asarray(error, np.longdouble), np.asarray(scale, np.longdouble))
    if error.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        values = np.where(scale == 0, np.where(error == 0, 0, 1 / u), np.abs(error) / (scale * u))
    return float(np.max(np.where(np.isfinite(values), values, np.inf)))


def check(error, scale, limit, dtype, name=None):
    """Assert error <= limit · scale · u, entry by entry where error and scale are arrays; returns the ratio.

    A name that begins with a bound or an identity (limits.py) has an alarm below its limit. Draws that repeat fail on it;
    random ones count it (counting_alarms) and fail on the limit only.
    """
    found = ratio(error, scale, dtype)
    tally[name or ""] = tally.get(name or "", 0) + 1
    if name is not None:
        share = found / limit if limit else math.inf if found else 0.0
        worst[name] = max(worst.get(name, 0.0), share)
    assert found <= limit, f"{name or 'error'}: ratio {found:.3g} > {limit:.3g} in units of scale·u ({dtype})"
    if name is not None and share > (most := limits.alarm(name, limit, str(dtype).rpartition(".")[2])):
        message = f"{name}: alarm: {share:.3g} of the bound, expected at most {most:.3g} of it ({dtype})"
        if counted is None:
            raise Alarm(message)
        counted.append(message)
    return found


def equal(found, expected, name):
    """Assert that two arrays, or lists of numbers, are equal bit for bit: an identity of error 0. NaN fails it."""
    same = found == expected if isinstance(expected, list) else np.array_equal(found, expected)
    worst[name] = max(worst.get(name, 0.0), 0.0 if same else math.inf)
    tally[name] = tally.get(name, 0) + 1
    assert same, f"{name}: {found} is not {expected}"


def namespace(name):
    """The array API namespace of a backend; the test is skipped, with the reason, where it is not installed."""
    package = name.partition(" ")[0]
    pytest.importorskip(package, reason=f"{package} is not installed")
    return importlib.import_module((BACKENDS | DEVICES)[name])


def onto(name, a):
    """A NumPy array as a new array of a backend, or of a device."""
    xp = namespace(name)
    return xp.asarray(a, copy=True, device="cuda") if name == "torch cuda" else xp.asarray(a, copy=True)


def host(x):
    """Any array as a NumPy array, without going through the library."""
    if hasattr(x, "detach"):
        x = x.detach().resolve_conj().resolve_neg().cpu()
        return x.to(_torch().float32).numpy() if str(x.dtype).endswith("float16") else x.numpy()
    return x.get() if library(x) == "cupy" else np.asarray(x)


@functools.cache
def cuda_devices():
    """How many devices the driver of this machine offers; 0 without a driver. No library is imported for it."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """The one place that skips a test marked gpu: counted, with this reason."""
    if item.get_closest_marker("gpu") and not cuda_devices():
        pytest.skip("no CUDA device")


@pytest.fixture(params=list(DEVICES))
def device(request):
    """The name of a library with arrays on the device; for tests marked gpu."""
    namespace(request.param)
    if request.param == "torch cuda" and not _torch().cuda.is_available():
        pytest.skip("this torch was built for the CPU")
    return request.param


def _torch():
    return importlib.import_module("torch")


def dtype_of(x):
    """ "float64" for the float64 of any library."""
    return str(x.dtype).rpartition(".")[2]


def library(x):
    return type(x).__module__.partition(".")[0]


@pytest.fixture(params=list(BACKENDS))
def xp(request):
    return namespace(request.param)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def path(tmp_path):
    """Where a test saves a matrix."""
    return tmp_path / "matrix.safetensors"


FIGURES = pathlib.Path(__file__).resolve().parent.parent / "figures"


def gpu_record(failed):
    """What `pytest -m gpu` leaves in figures/gpu-parity.json: where it ran, the commit, checks and worst share of each bound."""
    run = functools.partial(subprocess.run, capture_output=True, text=True)
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    versions = {}
    for name in ("sepmat", "numpy", "cupy-cuda13x", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    try:
        gpu = run(query).stdout.strip()
    except OSError:
        gpu = "unknown"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu,
        "versions": versions,
        "commit": run(["git", "-C", str(FIGURES.parent), "rev-parse", "HEAD"]).stdout.strip(),
        "failed": failed,
        "checks": sum(tally.values()),
        "tally": dict(sorted(tally.items())),
        "worst": {name: float(f"{value:.3g}") for name, value in sorted(worst.items()) if math.isfinite(value)},
    }


def pytest_addoption(parser):
    parser.addoption(
        "--accuracy", metavar="FILE", help="write the largest ratio and the number of checks to this JSON file"
    )


def pytest_sessionstart(session):
    """Alarms are counted where Hypothesis draws anew in every run (dev, nightly); elsewhere they fail."""
    global counted
    counted = None if hypothesis.settings.default.derandomize else []


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput.update(worst=worst, tally=tally, alarms=counted or [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    output = getattr(node, "workeroutput", {})
    for name, value in output.get("worst", {}).items():
        worst[name] = max(worst.get(name, 0.0), value)
    for name, count in output.get("tally", {}).items():
        tally[name] = tally.get(name, 0) + count
    if counted is not None:
        counted.extend(output.get("alarms", []))


def pytest_terminal_summary(terminalreporter):
    if terminalreporter.config.option.markexpr == "gpu" and cuda_devices() and worst:
        record = gpu_record(len(terminalreporter.stats.get("failed", [])))
        (FIGURES / "gpu-parity.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if worst:
        terminalreporter.write_sep("-", "largest error / bound")
        for name, value in sorted(worst.items()):
            terminalreporter.write_line(f"{name:30s} {value:.2e} {tally.get(name, 0):7d}")
        terminalreporter.write_line(f"{sum(tally.values())} numerical checks")
        for message in sorted(set(counted or [])):
            terminalreporter.write_line(message)
        file = terminalreporter.config.getoption("--accuracy")
        if file:
            pathlib.Path(file).write_text(
                json.dumps({"worst": worst, "tally": tally, "limits": limits.alarms()}, ensure_ascii=False)
            )


@pytest.fixture
def torch():
    """torch with a device."""
    found = pytest.importorskip("torch")
    if not found.cuda.is_available():
        pytest.skip("this torch was built for the CPU")
    return found
