"""The record of the GPU study: written case by case, gone on with, ended in time; its claims and its page; what is committed.

Numbers are made up, or of a stand-in on the CPU, and go into a temporary folder.
"""

import json
import math
import re
import sys

import conftest
import gpu_stand_in
import numpy as np
import pytest
import stand_in_cupy
from gpu_stand_in import SMALL

pytest.importorskip("matplotlib")

from studies import _gpu_cases, _gpu_page, _study, gpu_speed


@pytest.fixture
def device(monkeypatch):
    return gpu_stand_in.install(monkeypatch)


@pytest.fixture
def settings(monkeypatch):
    """The preset of a run of seconds."""
    small = {"every": 199, "cases": None, "edge": 64}
    monkeypatch.setattr(_gpu_cases, "ENTRIES", 2**13)
    monkeypatch.setitem(gpu_speed.PRESETS, "paper", small)
    return small


# --- a run ------------------------------------------------------------------------------------------------------------------


def test_a_run_writes_after_every_case_and_goes_on(device, settings, tmp_path, monkeypatch, capsys):
    written = []
    write = _study.write
    monkeypatch.setattr(_study, "write", lambda record, folder: written.append(1) or write(record, folder))
    command = ["gpu_speed", "--out", str(tmp_path), "--minutes", "5", "--only"]
    assert _study.main([*command, "chain,correct"]) in (0, 1)
    first = _study.read("gpu_speed", tmp_path)
    schema(first, "0.0")
    assert set(first["numbers"]["cases"]) == {c.name for c in SMALL if c.part == "chain"}
    groups = first["numbers"]["correct"]["groups"]
    assert len(written) == 1 + len(groups) + 2 + 2 + 1 and sum(g["checks"] for g in groups.values()) > 150
    assert not any(g["failed"] for g in groups.values())
    assert all(
        w["launches"] == 1 for c in first["numbers"]["cases"].values() for w in c["ways"].values() if "seconds" in w
    )
    assert _study.main([*command, "sum,chain"]) in (0, 1)
    second = _study.read("gpu_speed", tmp_path)
    assert second["numbers"]["cases"]["3^2, M = 6"] == first["numbers"]["cases"]["3^2, M = 6"]
    assert set(second["numbers"]["cases"]) == {c.name for c in SMALL if c.part in ("chain", "sum")}
    assert second["made"]["seconds"] >= first["made"]["seconds"]
    capsys.readouterr()
    monkeypatch.setattr(gpu_speed, "sources", lambda: {"kron.cuh": "other"})
    assert _study.main([*command, "sum"]) in (0, 1)
    assert "everything is measured anew" in capsys.readouterr().out
    assert set(_study.read("gpu_speed", tmp_path)["numbers"]["cases"]) == {c.name for c in SMALL if c.part == "sum"}


def test_what_was_killed_keeps_what_it_had(device, settings, tmp_path, monkeypatch):
    def killed(self, case, seed):
        if case is SMALL[1]:
            raise KeyboardInterrupt
        return timed(self, case, seed)

    timed = gpu_speed.Run.timed
    monkeypatch.setattr(gpu_speed.Run, "timed", killed)
    with pytest.raises(KeyboardInterrupt):
        _study.main(["gpu_speed", "--out", str(tmp_path), "--only", "chain"])
    assert list(_study.read("gpu_speed", tmp_path)["numbers"]["cases"]) == ["3^2, M = 6"]
    monkeypatch.setattr(gpu_speed.Run, "timed", timed)
    assert _study.main(["gpu_speed", "--out", str(tmp_path), "--only", "chain"]) in (0, 1)
    assert len(_study.read("gpu_speed", tmp_path)["numbers"]["cases"]) == 2


def test_it_ends_by_itself(device, settings, tmp_path, monkeypatch):
    """Without time nothing is begun but the environment; a case that runs out of time says so, and is made again."""
    run = gpu_speed.Run(device, settings | {"minutes": 0}, 0)
    for part in ("env", "correct", "chain", "sanitize"):
        getattr(run, part, run.part)(part)
    assert run.numbers["cases"] == {} and run.numbers["correct"]["groups"] == {} and run.numbers["sanitize"] == {}
    ends = iter([100.0, 100.0, -1.0])
    monkeypatch.setattr(run, "left", lambda: next(ends, -1.0))
    run.part("chain")
    assert list(run.numbers["cases"]) == ["3^2, M = 6"]
    assert run.numbers["cases"]["3^2, M = 6"]["cut"] and len(run.numbers["cases"]["3^2, M = 6"]["ways"]) == 1
    monkeypatch.setattr(run, "left", lambda: 1e9)
    run.part("chain")
    assert not any(c.get("cut") for c in run.numbers["cases"].values()) and len(run.numbers["cases"]) == 2


def test_a_hang_is_ended(monkeypatch, device, settings):
    """The process ends after the minutes even where the device does not answer."""
    asked = []
    monkeypatch.setattr(
        gpu_speed.faulthandler, "dump_traceback_later", lambda seconds, **how: asked.append((seconds, how))
    )
    monkeypatch.setattr(gpu_speed.faulthandler, "cancel_dump_traceback_later", lambda: asked.append("cancelled"))
    gpu_speed.compute(settings | {"minutes": 2.0, "only": "env"}, np.random.default_rng(0))
    assert asked[0][0] == 120 and asked[0][1]["exit"] and asked[1] == "cancelled"


def test_parts():
    assert gpu_speed.wanted(None) == ["env", "correct", "chain", "sum", "form", "layer", "toeplitz", "torch"]
    assert gpu_speed.wanted("sanitize,chain") == ["env", "chain", "sanitize"]
    with pytest.raises(_study.StudyError, match="--only speed: unknown part; choose from env, correct"):
        gpu_speed.wanted("chain,speed")


def test_of_another_preset(device, settings, tmp_path, capsys):
    command = ["gpu_speed", "--out", str(tmp_path), "--only", "env"]
    assert _study.main(command) in (0, 1)
    assert _study.main([*command, "--seed", "3"]) == 2
    assert "has preset paper, seed 0; name another folder" in capsys.readouterr().err


# --- without a device -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing, text", [(None, "CuPy is not installed"), (False, "no CUDA device")])
def test_without_a_device_one_line_and_nothing_written(missing, text, tmp_path, capsys, monkeypatch):
    cupy = None
    if missing is not None:
        cupy = stand_in_cupy.module()
        cupy.is_available = lambda: False
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert _study.main(["gpu_speed", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and text in error and 'pip install ".[cuda]"' in error
    assert list(tmp_path.iterdir()) == []


def test_a_bare_run_passes_over_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_study, "names", lambda: ["gpu_speed"])
    monkeypatch.setattr(_study, "FIGURES", tmp_path)
    monkeypatch.setattr(_study, "run", lambda *a, **more: 1 / 0)
    assert _study.main([]) == 0 == _study.main(["--plot-only", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("gpu_speed: not yet measured") == 2


def test_not_yet_measured_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(_study, "names", lambda: ["gpu_speed", "structures"])
    text = "<!-- gpu_speed -->\n\nold\n\n<!-- end -->\n"
    assert "GPU: not yet measured" in _study.document(text, [], ["gpu_speed"])
    assert "GPU: not yet measured" in _study.quoted(text, [])
    assert _study.absent(["gpu_speed", "structures"], tmp_path) == ["gpu_speed"]


# --- what a record says -----------------------------------------------------------------------------------------------------


def synthetic(ratio=0.7):
    """A record of made-up numbers in which ours takes floor / ratio and every other way four times as long."""
    environment = {"gpu": "made up", "capability": "9.0", "SMs": 1, "L2": 2**20, "shared memory": 1024, "runtime": 1}
    environment |= {"driver": 1, "versions": {}, "kernel": gpu_speed.digest(gpu_speed.sources())}
    cases = {}
    for case in _gpu_cases.timed():
        floor = case.floor(_gpu_cases.PREDICTED_CEILINGS)
        names = ["kernel", "merged plan", "cupy.matmul chain", "torch chain", "linear_operator", "PEFT LoKr", "dense"]
        ways = {way: {"library": "torch", "error": 1e-7, "seconds": {"eager": [4 * floor] * 3}} for way in names}
        mine = {"library": "cupy", "error": 1e-7, "seconds": {kind: [floor / ratio] * 3 for kind in ("eager", "graph")}}
        found = {"part": case.part, "kind": case.kind, "bytes": 1, "flops": 1, "seconds of the floor": floor}
        found |= gpu_speed.planned(case)
        cases[case.name] = found | {"ways": {"sepmat": mine} | ways | {"sepmat again": mine}}
    group = {"checks": 50, "worst": 0.5, "parity": 0.4, "failed": 0, "failures": []}
    groups = {f"{name} {dtype}": dict(group) for name in range(60) for dtype in ("float32", "float64")}
    return {
        "environment": environment,
        "ceilings": dict.fromkeys(["copy", "gemm float32", "launch"], 1e12) | {"gemm tf32": None},
        "correct": {"planned": 6000, "groups": groups},
        "cases": cases,
        "sanitize": {"memcheck": {"status": 0, "findings": 0}, "FastKron": {"status": -11, "says": "nothing was said"}},
    }


def test_claims_are_decided_by_numbers():
    good = gpu_speed.claims(synthetic(0.9))
    assert len(good) >= 17
    failing = {c for c, holds in good.items() if not holds}
    assert all("linear_operator" in c for c in failing)  # 4 · 0.9 = 3.6 times, and 4 are asked for
    slow = gpu_speed.claims(synthetic(0.2))
    assert {c.partition(" (")[0] for c, holds in slow.items() if holds} == {
        "errors within the limits and 2.02 times the bound of the CPU on 5,000 checks or more",
        "compute-sanitizer finds nothing",
    }


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda n: n["correct"]["groups"]["3 float32"].update(failed=1), "errors within the limits"),
        (lambda n: n["sanitize"]["memcheck"].update(findings=2), "compute-sanitizer finds nothing"),
        (lambda n: slower(n, "8^5, M = 1024", "sepmat", 2), "8^5, M = 1024, float32: at least 60% of the floor"),
        (lambda n: slower(n, "4^7, M = 1024", "merged plan", 0.1), "no case slower than the merged plan"),
        (lambda n: slower(n, "64^3, M = 1024", "cupy.matmul chain", 0.1), "64^3, M = 1024, float32: no slower"),
        (lambda n: slower(n, "64^2 R = 1, M = 8192, bfloat16", "PEFT LoKr", 0.1), "layer of d = 4096"),
    ],
)
def test_a_claim_turns_false(change, words):
    numbers = synthetic(0.9)
    before = gpu_speed.claims(numbers)
    change(numbers)
    after = gpu_speed.claims(numbers)
    lost = {c for c, holds in after.items() if not holds} - {c for c, holds in before.items() if not holds}
    assert any(words in c for c in lost), lost


def slower(numbers, case, way, factor):
    told = numbers["cases"][case]["ways"][way]
    numbers["cases"][case]["ways"][way] = told | {
        "seconds": {kind: [factor * t for t in times] for kind, times in told["seconds"].items()}
    }


def test_what_was_not_measured_is_neither_kept_nor_broken():
    numbers = synthetic()
    everything = len(gpu_speed.claims(numbers))
    del numbers["cases"]["8^5, M = 1024"], numbers["sanitize"]["memcheck"]
    numbers["correct"]["groups"] = dict(list(numbers["correct"]["groups"].items())[:10])
    text = gpu_speed.tables(numbers)
    assert len(gpu_speed.claims(numbers)) == everything - 4
    assert "Not yet measured:\n\n- errors within the limits" in text and "| 8^5, M = 1024 | not yet measured |" in text


def test_graphs_are_compared_with_graphs():
    numbers = synthetic()
    case = numbers["cases"]["8^5, M = 1024"]
    case["ways"]["sepmat"]["seconds"] = {"graph": [1.0] * 3, "eager": [2.0] * 3}
    case["ways"]["merged plan"]["seconds"] = {"eager": [3.0] * 3}
    assert _gpu_page.times(case, "merged plan", "") == 1.5
    case["ways"]["merged plan"]["seconds"]["graph"] = [4.0] * 3
    assert _gpu_page.times(case, "merged plan", "") == 4.0
    assert _gpu_page.best_other(case, "eager")[0] != "merged plan"


def test_drawn_from_the_record_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_study, "names", lambda: ["gpu_speed"])
    numbers = _study.plain(synthetic())
    record = _study._record("gpu_speed", "paper", 0, _study.made(1.0), numbers)
    _study.write(record, tmp_path)
    schema(_study.read("gpu_speed", tmp_path), "9.0")
    before = (tmp_path / "gpu_speed.json").read_bytes()
    assert _study.main(["gpu_speed", "--plot-only", "--out", str(tmp_path)]) in (0, 1)
    assert (tmp_path / "gpu_speed.json").read_bytes() == before
    assert (tmp_path / "gpu_speed.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = _study.section(record)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):  # every row has the columns of its head
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    quoted = _study.quoted("<!-- gpu_speed -->\n<!-- end -->\n", [record])
    assert "made up" in quoted and "the current one" in quoted


def test_numbers_of_another_kernel_are_said_to_be(monkeypatch):
    numbers = synthetic()
    measured = numbers["environment"]["kernel"]
    assert f"GPU numbers are for kernel {measured}, the current one." in gpu_speed.tables(numbers)
    sources = gpu_speed.sources()
    assert {"kron.cuh", "launch.py", "plan.py", "specialise.py"} <= set(sources)
    monkeypatch.setattr(gpu_speed, "sources", lambda: sources | {"kron.cuh": "0" * 64})
    current = gpu_speed.digest(gpu_speed.sources())
    assert current != measured
    assert f"GPU numbers are for kernel {measured}; current {current}, not yet measured." in gpu_speed.tables(numbers)


# --- what is committed ------------------------------------------------------------------------------------------------------


def schema(record, capability):
    """Keys and types of a record, and that its numbers are finite."""
    numbers = record["numbers"]
    assert record["status"] == gpu_speed.STATUS and {"environment", "ceilings", "correct", "cases"} <= set(numbers)
    environment = numbers["environment"]
    assert environment["capability"] == capability and re.fullmatch(r"[0-9a-f]{12}", environment["kernel"])
    json.dumps(numbers, allow_nan=False)
    for name, case in numbers["cases"].items():
        assert {"part", "kind", "bytes", "flops", "seconds of the floor", "ways"} <= set(case), name
        assert case["part"] in _gpu_cases.PARTS
        for way, told in case["ways"].items():
            assert ("out" in told) != ("seconds" in told), (name, way)
            for times in told.get("seconds", {}).values():
                assert len(times) == 3 and 0 < times[0] <= times[1] <= times[2], (name, way)
    for group in numbers["correct"]["groups"].values():
        assert {"checks", "worst", "parity", "failed", "failures"} <= set(group)
        assert (group["failed"] == 0) == (not group["failures"])


def test_the_committed_record():
    """Of a device; the claims are those of its numbers, and the sources that it measured are named."""
    path = _study.FIGURES / "gpu_speed.json"
    if not path.exists():
        for page in (_study.DOCS, _study.README):
            assert "<!-- gpu_speed -->\n\nGPU: not yet measured." in page.read_text(encoding="utf-8")
        return
    record = _study.read("gpu_speed", _study.FIGURES)
    environment = record["numbers"]["environment"]
    schema(record, environment["capability"])
    assert float(environment["capability"]) >= 7 and environment["TF32 off"] and environment["SMs"] > 1
    assert environment["kernel"] == gpu_speed.digest(environment["sources"])
    assert record["claims"] == gpu_speed.claims(record["numbers"])
    known = {c.name for c in _gpu_cases.timed()}
    assert set(record["numbers"]["cases"]) <= known


def test_what_pytest_leaves(monkeypatch):
    """The record of `pytest -m gpu`: where, when, what; nothing that JSON cannot hold."""
    monkeypatch.setattr(conftest, "worst", {"B25 cupy": 0.25, "broken": math.inf})
    monkeypatch.setattr(conftest, "tally", {"B25 cupy": 3, "broken": 1})
    record = conftest.gpu_record(failed=1)
    assert record["checks"] == 4 and record["failed"] == 1 and record["worst"] == {"B25 cupy": 0.25}
    assert {"date", "gpu", "versions", "commit", "tally"} <= set(json.loads(json.dumps(record, allow_nan=False)))


def test_the_parity_record():
    path = _study.FIGURES / "gpu-parity.json"
    if not path.exists():
        return  # pytest -m gpu writes it where there is a device
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["failed"] == 0 and record["checks"] > 1000 and max(record["worst"].values()) <= 1
