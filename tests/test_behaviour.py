"""The behaviour table (tests/behaviour), one row one test, on every library; and that its checkers notice what they look for."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from behaviour import arguments, table
from behaviour.engine import HANDLED, TRUE, Case, Refusal, Skip, Value, form, run

import sepmat as sm

ROOT = Path(__file__).resolve().parent.parent
TABLE = table.cases()


BACKENDS = {"numpy": [], "array_api_strict": [], "torch": []}
if importlib.util.find_spec("cupy"):
    BACKENDS["cupy"] = [pytest.mark.gpu]


@pytest.mark.parametrize(
    "name, backend", [pytest.param(n, b, marks=m) for b, m in BACKENDS.items() for n in TABLE if b in TABLE[n].on]
)
def test_row(name, backend):
    try:
        outcome = run(TABLE[name], backend)
    except Skip as why:
        pytest.skip(str(why))
    assert outcome.handled, f"{outcome.kind}: {outcome.detail}"


@pytest.mark.gpu
def test_row_on_cupy():
    """Where CuPy is not, this is the one test that is skipped for all of them."""
    pytest.importorskip("cupy", reason=f"cupy is not installed: {sum('cupy' in c.on for c in TABLE.values())} cases")


@pytest.mark.parametrize("name", arguments.CALLS)
def test_arguments(name):
    counts, bad = arguments.swept((name,), seconds=0)
    assert not bad and counts["refused"] > 10


# that everything is there ---------------------------------------------------------------------------------------------------


def test_every_row_is_there():
    """The 51 rows of the expected behaviour and the 100 cases of the catalogue, but for those that stand elsewhere."""
    rows = {case.row for case in TABLE.values()}
    elsewhere = {48: "6.48 by its repeats", 51: "test_other_interpreters"}
    assert {f"6.{i}" for i in range(1, 52)} - rows <= {f"6.{i}" for i in elsewhere}
    later = {
        64, 98,  # a CUDA device that runs out of memory, a kernel that does not compile
        84, 83,  # two savers, kill -9: tests/test_file_system.py
        86,  # weights of adapters: tests/test_peft.py
        88, 89, 90, 92, 94,  # checked in every case
    }  # fmt: skip
    missing = {i for i in range(1, 101) if f"7.{i}" not in rows} - later
    assert not missing, missing
    for backend in ("numpy", "array_api_strict", "torch"):
        own = [case for case in TABLE.values() if case.row == "own" and backend in case.on]
        assert len(own) >= 100 and sum(backend in case.on for case in TABLE.values()) - len(own) >= 184


# that the checkers bite ---------------------------------------------------------------------------------------------------


def outcome(call, promise, **more):
    return run(Case("planted", "bug", call, promise, **more), "numpy").kind


def write(x):
    x[0] = 7
    return x + 0


def loud(value):
    warnings.warn("careless", RuntimeWarning, stacklevel=1)
    return value


def refuse(*parts, kind=sm.ShapeError):
    raise kind(*parts)


ONE_TWO = Value([1.0, 2.0])
ASKED = Refusal(sm.ShapeError, "x", "length 3", "Check")


@pytest.mark.parametrize(
    "call, promise, kind",
    [
        (lambda b: b([1.0, 2.0]) + 0, ONE_TWO, "right"),
        (lambda b: b([1.0, -2.0]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([1.0, 2.0 + 1e-12]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([1.0, np.nan]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([1.0, np.inf]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([[1.0, 2.0]]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([1.0, 2.0], "float32") + 0, ONE_TWO, "silently wrong"),
        (lambda b: b([1.0, 2.0]) + 0, Value([1.0, 2.0], library="torch"), "silently wrong"),
        (lambda b: b([1.0, 2.0])[:], ONE_TWO, "silently wrong"),  # shares memory
        (lambda b: write(b([1.0, 2.0])), Value([7.0, 2.0]), "silently wrong"),
        (lambda b: np.seterr(all="ignore") and b([1.0, 2.0]) + 0, ONE_TWO, "silently wrong"),
        (lambda b: np.random.rand() * 0 + b([1.0, 2.0]), ONE_TWO, "silently wrong"),  # noqa: NPY002
        (lambda b: loud(b([1.0, 2.0]) + 0), ONE_TWO, "right but warns"),
        (lambda b: loud(b([1.0, 3.0]) + 0), ONE_TWO, "wrong and warns"),
        (lambda b: b([np.nan]) + 0, Value([np.nan]), "propagated"),
        (lambda b: b([0.0]) + 0, Value([np.nan]), "silently wrong"),
        (lambda b: False, TRUE, "silently wrong"),
        (lambda b: 1, TRUE, "silently wrong"),
        (lambda b: 1 / 0, ONE_TWO, "obscure"),
        (lambda b: refuse("A", "x", "length 3", "2", "Check"), ONE_TWO, "refused wrongly"),
        (lambda b: refuse("A", "x", "length 3", "2", "Check"), ASKED, "refused clearly"),
        (lambda b: refuse("A", "y", "length 3", "2", "Check"), ASKED, "unclear"),
        (lambda b: refuse("A", "x", "length 4", "2", "Check"), ASKED, "unclear"),
        (lambda b: refuse("A", "x", "length 3", "2", "Try"), ASKED, "unclear"),
        (lambda b: refuse("A", "x", "length 3", "2", "Check."), ASKED, "unclear"),
        (lambda b: refuse("A", "x", "length 3", "2", ""), ASKED, "unclear"),
        (lambda b: loud(None) or refuse("A", "x", "length 3", "2", "Check"), ASKED, "unclear"),
        (lambda b: refuse("A", "x", "length 3", "2", "Check", kind=sm.DTypeError), ASKED, "obscure"),
        (lambda b: int("x"), ASKED, "obscure"),
        (lambda b: 3.0, ASKED, "silently wrong"),
    ],
)
def test_planted_bugs(call, promise, kind):
    before = np.geterr()
    assert outcome(call, promise) == kind
    assert np.geterr() == before
    assert (kind in HANDLED) == (kind in ("right", "propagated", "refused clearly"))


def test_a_warning_that_belongs_to_the_result():
    assert outcome(lambda b: loud(True), TRUE, warns=RuntimeWarning) == "right"
    assert outcome(lambda b: True, TRUE, warns=RuntimeWarning) == "silently wrong"


def test_a_hang_is_one():
    case = Case("planted", "bug", lambda b: [None for _ in iter(int, 1)], TRUE)
    assert run(case, "numpy", seconds=1).kind == "hang"


def test_the_sweep_notices(monkeypatch):
    monkeypatch.setitem(arguments.CALLS, "planted", (lambda x: len(x) and None, {"x": [1]}))
    counts, bad = arguments.swept(("planted",), seconds=0)
    assert counts["bad"] == len(bad) > 10 and "TypeError" in bad[0]
    for call, what in ((lambda A: sm.trace(A), "speaks as trace"), (lambda A: sm.solve(A, None), "planted")):
        monkeypatch.setitem(arguments.CALLS, "planted", (call, {"A": 1}))
        assert any(what in line for line in arguments.swept(("planted",), seconds=0)[1])


def test_no_message_without_its_parts():
    for parts in (("where", "argument", "", "expected", "Advice"), ("where", "argument", "got", "expected", "try")):
        with pytest.raises(Exception, match=r"five parts|bearable"):
            form(sm.ShapeError(*parts))


def test_an_empty_table_fails(monkeypatch, capsys):
    """0 of 0 is no success."""
    from behaviour import __main__ as command

    monkeypatch.setattr(command.table, "cases", dict)
    monkeypatch.setattr(sys, "argv", ["behaviour", "--backend", "numpy"])
    with pytest.raises(SystemExit) as status:
        command.main()
    assert status.value.code


# whole processes ----------------------------------------------------------------------------------------------------------


def table_in(*options, arguments=(), **environment):
    command = [sys.executable, *options, "-m", "tests.behaviour", "--backend", "numpy", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow  # the table once more, in an interpreter that strips assertions and with a NumPy that raises
def test_other_interpreters():
    """`python -OO`, `-W error`, another order and an error state that raises change nothing; .ci/run has `-O` and all rows."""
    arguments = ("--errstate", "raise", "--shuffle", "1", "--row", "own")
    assert "100.0 % handled" in table_in("-OO", "-W", "error", arguments=arguments, PYTHONHASHSEED="random")


@pytest.mark.slow  # the table in two more processes
def test_the_same_bits_in_every_process():
    first = json.loads(
        table_in(
            arguments=("--digests", "--row", "own"),
            PYTHONHASHSEED="random",
            OMP_NUM_THREADS="1",
            OPENBLAS_NUM_THREADS="1",
        )
    )
    second = json.loads(
        table_in(
            arguments=("--digests", "--row", "own"),
            PYTHONHASHSEED="random",
            OMP_NUM_THREADS="2",
            OPENBLAS_NUM_THREADS="2",
        )
    )
    assert len(first) > 400 and first == second


def test_the_record():
    """What figures/behaviour.json says, and the page quotes."""
    numbers = json.loads((ROOT / "figures" / "behaviour.json").read_text(encoding="utf-8"))["numbers"]
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for backend in ("numpy", "array_api_strict", "torch"):
        found = numbers[backend]
        assert found["handled, %"] == found["handled of our own, %"] == 100
        assert found["same bits in every process"]["same, %"] == 100
        assert found["silently wrong"] == found["warnings leaked"] == found["messages that lack a part"] == 0
        assert found["cases"] - found["of these our own"] >= 184 and found["of these our own"] >= 100
    found = [numbers[backend] for backend in ("numpy", "array_api_strict", "torch")]
    for row, cells in {
        "cases": [f"{f['cases']:,}" for f in found],
        "of these our own, handled": [f"{f['of these our own']}, 100 %" for f in found],
        "messages read, with a part missing": [
            f"{f['messages read']}, {f['messages that lack a part']}" for f in found
        ],
        "same bits in six processes": [
            f"{f['same bits in every process']['same, %']:.3g} % of {f['same bits in every process']['results']}"
            for f in found
        ],
    }.items():
        assert f"| {row} | {' | '.join(cells)} | " in page
    asked = numbers["arguments"]
    words = " ".join(page.split())
    assert asked["handled, %"] == 100
    assert f"({asked['functions']} calls that work" in words and f"{asked['calls']:,} calls, each with" in words
