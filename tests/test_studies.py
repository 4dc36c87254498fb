"""Every study's smoke preset, its record, its claims and figure; the command line; the numbers that the docs quote."""

import copy
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from studies import _study

ON_A_DEVICE = [name for name in _study.names() if _study.needs_device(name)]  # tests/test_gpu_study.py
STUDIES = [name for name in _study.names() if name not in ON_A_DEVICE]
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A folder with the smoke records of all studies, made once a worker."""
    folder = tmp_path_factory.mktemp("smoke")
    made = set()

    def run(name):
        if name not in made:
            assert _study.main([name, "--preset", "smoke", "--out", str(folder)]) == 0
            made.add(name)
        return folder

    return run


def test_there_are_studies():
    assert {"approximate_psd", "displacement_error", "real_matrices", "structures"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_smoke_record(name, smoke):
    record = _study.read(name, smoke(name))
    assert list(record) == ["study", "status", "preset", "seed", "made", "numbers", "claims"]
    assert record["study"] == name and record["preset"] == "smoke" and record["seed"] == 0
    assert record["status"] in _study.STATUSES
    assert set(record["made"]) == {"commit", "date", "python", "versions", "machine", "seconds"}
    assert {"sepmat", "numpy", "scipy"} <= set(record["made"]["versions"])
    assert record["claims"] and all(value is True for value in record["claims"].values())


@pytest.mark.parametrize("name", STUDIES)
def test_smoke_figure(name, smoke):
    picture = (smoke(name) / f"{name}.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 10_000


@pytest.mark.parametrize("name", STUDIES)
def test_numbers_repeat_for_a_seed(name, smoke):
    again, record = _study.compute(name, "smoke", 0), _study.read(name, smoke(name))
    assert timeless(again["numbers"]) == timeless(record["numbers"])


@pytest.mark.parametrize("name", STUDIES)
def test_plot_only_draws_the_same_and_leaves_the_record(name, smoke, tmp_path):
    shutil.copy(smoke(name) / f"{name}.json", tmp_path)
    before = (tmp_path / f"{name}.json").read_bytes()
    assert _study.main([name, "--plot-only", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.json").read_bytes() == before
    assert (tmp_path / f"{name}.png").read_bytes() == (smoke(name) / f"{name}.png").read_bytes()


@pytest.mark.parametrize("name", STUDIES)
def test_tables_are_markdown(name, smoke):
    text = _study.section(_study.read(name, smoke(name)))
    widths = [block.count("|") for block in text.splitlines() if block.startswith("|")]
    assert widths and "| --- |" in text


@pytest.mark.parametrize("name", STUDIES)
def test_presets(name):
    study = _study.load(name)
    assert set(study.PRESETS) == {"smoke", "paper"}
    assert study.__doc__ and study.__doc__.strip()


# --- the command line -------------------------------------------------------------------------------------------------


def command(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_help_lists_the_studies():
    done = command("studies", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in STUDIES)


def test_a_study_is_a_command_too(tmp_path):
    done = command("studies.structures", "--preset", "smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"structures: 9 of 9 claims hold, \d+ s, .*structures\.png\n", done.stdout)
    assert done.stderr == ""


def test_unknown_name(capsys):
    assert _study.main(["no_such_study"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unknown study 'no_such_study'; choose from accuracy" in error


def test_unknown_option():
    with pytest.raises(SystemExit) as stop:
        _study.main(["--preset", "huge"])
    assert stop.value.code == 2


def test_plot_only_without_a_record(tmp_path, capsys):
    assert _study.main(["structures", "--plot-only", "--out", str(tmp_path)]) == 2
    assert "run the study without --plot-only first" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", '{"study": "structures"}', '{"study": "other", "preset": ""}', "[]", "null"])
def test_plot_only_with_a_foreign_record(text, tmp_path, capsys):
    (tmp_path / "structures.json").write_text(text, encoding="utf-8")
    assert _study.main(["structures", "--plot-only", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "structures.json" in error


def test_negative_seed(tmp_path, capsys):
    assert _study.main(["structures", "--seed", "-1", "--out", str(tmp_path)]) == 2
    assert "--seed is -1" in capsys.readouterr().err


def test_a_claim_that_fails_is_said(smoke, tmp_path, capsys):
    record = copy.deepcopy(_study.read("structures", smoke("structures")))
    record["numbers"]["classes"]["circulant"]["num_parameters"] += 1
    _study.write(record, tmp_path)
    assert _study.main(["structures", "--plot-only", "--out", str(tmp_path)]) == 1
    assert "claim fails in structures: each class stores the number of parameters" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert _study.main(["structures", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    assert "matplotlib is not installed" in capsys.readouterr().err


def test_smoke_never_writes_into_figures(monkeypatch):
    folders = []
    monkeypatch.setattr(
        _study, "run", lambda name, preset, seed, folder, only: folders.append(folder) or {"claims": {}}
    )
    for arguments in ([], ["--preset", "smoke"], ["--out", "elsewhere"]):
        _study.main(["structures", *arguments])
    assert folders == [ROOT / "figures", ROOT / "build" / "smoke", pathlib.Path("elsewhere")]


def test_a_long_study_is_computed_only_when_named(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        _study, "run", lambda name, preset, seed, folder, again: asked.update({name: again}) or {"claims": {}}
    )
    monkeypatch.setattr(_study, "names", lambda: STUDIES)
    long = {name for name in STUDIES if getattr(_study.load(name), "LONG", False)}
    assert long
    for arguments, read in (
        ([], long),
        (["--preset", "smoke"], set()),
        (sorted(long), set()),
        (["--plot-only"], STUDIES),
    ):
        _study.main(arguments)
        assert {name for name, again in asked.items() if again == _study.FIGURES} == set(read)
        asked.clear()


def test_what_is_drawn_again_was_judged_before(monkeypatch):
    """A claim that a committed record of a long study does not meet fails where it is computed, and not in a bare run."""
    long = next(name for name in sorted(STUDIES) if getattr(_study.load(name), "LONG", False))
    monkeypatch.setattr(_study, "run", lambda name, *_: {"study": name, "claims": {"so it is": name != long}})
    assert _study.main([]) == 0
    assert _study.main([long]) == _study.main(["--plot-only"]) == 1


# --- the record -------------------------------------------------------------------------------------------------------


def test_numbers_are_plain_and_short():
    import numpy as np

    value = {"a": np.float64(1 / 3), 2: np.arange(2), "t": (True, None, np.int64(3), -0.0)}
    assert _study.plain(value) == {"a": 0.333333, "2": [0, 1], "t": [True, None, 3, 0.0]}
    with pytest.raises(ValueError, match="nan"):
        _study.plain([float("nan")])


def test_record_is_json_with_rows_on_lines(tmp_path):
    record = {"study": "x", "numbers": {"row": list(range(200)), "table": [[1.5, None], []], "text": 'a "b"', "no": {}}}
    text = _study.write(record, tmp_path).read_text(encoding="utf-8")
    assert json.loads(text) == record
    assert max(map(len, text.splitlines())) <= 120


# --- what is committed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_committed_record_holds(name):
    record = _study.read(name, _study.FIGURES)
    assert record["preset"] == "paper" and record["seed"] == 0
    claims = _study.load(name).claims(record["numbers"])
    assert claims == record["claims"]
    page = _study.DOCS.read_text(encoding="utf-8")
    for claim, holds in claims.items():  # what does not hold is said, not hidden
        assert holds or f"✗ {claim}" in page, claim
    assert (_study.FIGURES / f"{name}.png").exists()


def test_docs_quote_the_committed_records():
    text = _study.DOCS.read_text(encoding="utf-8")
    absent = _study.absent(ON_A_DEVICE, _study.FIGURES)
    records = [_study.read(name, _study.FIGURES) for name in _study.names() if name not in absent]
    assert text == _study.document(text, records, absent), "run python -m studies --plot-only --docs"
    text = _study.README.read_text(encoding="utf-8")
    assert text == _study.quoted(text, records), "run python -m studies --plot-only --docs"


def test_the_index_names_every_study():
    index = _study.DOCS.read_text(encoding="utf-8").partition("\n## ")[0]
    assert sorted(re.findall(r"^\| \[(\w+)\]\(#\1\) \|", index, re.MULTILINE)) == sorted(_study.names())


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_in_the_prose_is_in_the_record(name):
    text = _study.DOCS.read_text(encoding="utf-8")
    section = next(part for part in text.split("\n## ") if f"<!-- {name} -->" in part)
    prose = section.split(f"<!-- {name} -->")[0] + section.split("<!-- end -->")[1]
    known = set(numbers_in(_study.read(name, _study.FIGURES)["numbers"]))
    for quoted in re.findall(r"\d*\.\d+", prose):
        digits = len(quoted.split(".")[1])
        assert any(round(value, digits) == float(quoted) for value in known), f"{quoted} is not in figures/{name}.json"


@pytest.mark.parametrize("repeated", [False, True])
def test_rounds_are_counted(repeated):
    """One timer: every round has a sample of each call, and a sample that is not repeated is one call and no more."""
    from studies import _peers

    calls = []
    seconds = _peers.rounds({"a": lambda: calls.append("a"), "b": int}, 7, np.random.default_rng(0), repeated=repeated)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 7, "b": 7}
    assert len(calls) > 7 if repeated else len(calls) == 7


def test_a_sample_is_long_however_slow_the_first_calls_are():
    from studies import _race

    now, calls = [0.0], [0]

    def call():
        calls[0] += 1
        now[0] += 1e-3 if calls[0] < 4 else 1e-5

    count = _race.repeat(call, lambda: now[0])
    assert 0.5 * _race.SAMPLE <= count * 1e-5 <= 2 * _race.SAMPLE


def test_the_threads_of_one_entry_are_asleep_when_the_next_is_timed():
    from studies import _race

    order = []
    calls = {name: functools.partial(order.append, name) for name in "ab"}
    began = time.perf_counter()
    found = _race.timed(calls, _race.Pace.exactly(2), np.random.default_rng(0), time.perf_counter, settle=0.01)
    assert time.perf_counter() - began >= 4 * 0.01
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def timeless(value):
    """value without what stands under "seconds", at any depth."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
