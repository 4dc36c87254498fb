"""What the long studies rest on: runs that are kept, rates that are searched, paired differences, data that is found."""

import io
import tarfile

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("threadpoolctl")

from studies import _adapter_speed_page, _runs, _study, _tasks, adapter_speed, fine_tune


def keys(count):
    return [{"task": "a", "seed": i} for i in range(count)]


# --- runs that are kept -----------------------------------------------------------------------------------------------


def test_a_study_that_was_stopped_goes_on(tmp_path):
    path, made = tmp_path / "build" / "runs.jsonl", []

    def run(key):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(key["seed"])
        return {"accuracy": key["seed"] / 7}

    with pytest.raises(KeyboardInterrupt):
        _runs.Runs(path).make(keys(4), run, "runs")
    assert made == [0, 1]
    with path.open("a") as file:
        file.write('{"key": {"task": "a", "se')  # the stop came in the middle of a line
    again = _runs.Runs(path)
    made = [None, None, None]
    again.make(keys(4), run, "runs")
    assert made == [None, None, None, 2, 3]
    assert [_runs.Runs(path).get(key) for key in keys(4)] == [{"accuracy": i / 7} for i in range(4)]


def test_runs_without_a_file_stay_in_memory():
    runs = _runs.Runs(None)
    runs.make(keys(2), lambda key: key["seed"], "runs")
    assert [runs.get(key) for key in keys(3)] == [0, 1, None]


def test_no_run_is_begun_after_the_time():
    runs = _runs.Runs(None)
    runs.make(keys(2), lambda key: 1, "runs", until=0.0)
    assert not runs.found


# --- the search for a learning rate -----------------------------------------------------------------------------------


def work(best, tuners=("lora_8",), tasks=("movies", "tweets")):
    """A plan whose validation accuracy falls with the distance to the best rate, all of its searches made."""
    p = fine_tune.PRESETS["paper"]
    plan = fine_tune.Work(p | {"tuners": tuners, "tasks": {t: p["tasks"][t] for t in tasks}}, _runs.Runs(None))

    def run(key):
        return {"parameters": 1, "head": 1, "seconds": 1.0, "validation": -abs(np.log(key["rate"] / best))}

    while missing := plan.searches("movies"):
        plan.runs.make(missing, run, "searches")
    return plan


@pytest.mark.parametrize(
    "best, tried",
    [
        (3e-3, [1e-3, 3e-3, 1e-2]),
        (1e-2, [1e-3, 3e-3, 1e-2, 3e-2]),
        (1e-1, [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]),
        (1e-4, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
    ],
)
def test_where_the_edge_is_best_the_next_rate_is_tried(best, tried):
    plan = work(best)
    assert np.allclose(plan.tried("movies", "lora_8"), tried)
    assert np.isclose(plan.chosen("movies", "lora_8"), best)
    assert plan.chosen("tweets", "lora_8") == plan.chosen("movies", "lora_8")


def test_of_equal_rates_the_least_is_chosen():
    assert fine_tune.best({1e-2: 0.5, 1e-3: 0.5, 1e-1: 0.4}) == 1e-3


def test_a_run_is_known_by_its_settings():
    plan = work(3e-3)
    key = plan.key("movies", "lora_8", 1e-3, 0)
    assert key != plan.key("tweets", "lora_8", 1e-3, 0) and key == plan.key("movies", "lora_8", 1e-3, 0)
    plan.p["tasks"]["movies"] = plan.p["tasks"]["movies"] | {"epochs": 7}
    assert key != plan.key("movies", "lora_8", 1e-3, 0)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_paired_difference_by_hand():
    a = {0: np.array([1.0, 1, 1, 0]), 1: np.array([1.0, 1, 0, 0]), 2: np.ones(4)}
    b = {0: np.array([1.0, 0, 1, 0]), 1: np.array([0.0, 1, 0, 0])}
    found = fine_tune.paired(a, b)
    assert found["seeds"] == 2 and found["mean"] == 0.25  # seed 2 has no partner
    assert found["over seeds"] == 0.0
    assert np.isclose(found["over examples"], np.std([0.5, 0.5, 0, 0], ddof=1) / 2)
    assert found["error"] == found["over examples"]
    assert fine_tune.paired({3: a[0]}, b) == {}


def test_one_seed_has_no_standard_error():
    told = fine_tune.summary({0: np.array([1.0, 0, 1, 1])})
    assert told["mean"] == 0.75 and told["error"] is None and np.isclose(told["binomial"], (0.75 * 0.25 / 4) ** 0.5)


# --- data -------------------------------------------------------------------------------------------------------------


def test_without_the_data_the_command_is_said(tmp_path, capsys):
    assert _study.main(["fine_tune", "--data", str(tmp_path), "--out", str(tmp_path), "--minutes", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and _tasks.DOWNLOAD in error and "--preset smoke" in error


def test_ratings_are_read_in_place(tmp_path):
    def pack(path, name, content):
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    text = "1\t2.5\tGood.\r\n2\t-0.1\tBad, très bad\r\n3\t0.0\tNeither\r\n4\t1.0\tGOOD.\r\n".encode()
    pack(tmp_path / "inner.tar.gz", "hutto_ICWSM_2014/tweets_GroundTruth.txt", text)
    inner = (tmp_path / "inner.tar.gz").read_bytes()
    pack(tmp_path / _tasks.SDIST, f"vaderSentiment-3.3.2/additional_resources/{_tasks.INNER}", inner)
    assert sorted(_tasks.rated("tweets", str(tmp_path))) == [("Bad, très bad", 0), ("GOOD.", 1)]


def test_a_pass_has_every_example_once_and_hangs_on_the_seed():
    examples = [{"input_ids": [1] * (1 + i % 5), "labels": i} for i in range(50)]
    first, again, other = (_tasks.batches(examples, 4, seed) for seed in (0, 0, 1))
    assert sorted(label for b in first for label in b["labels"].tolist()) == list(range(50))
    assert all((x["labels"] == y["labels"]).all() for x, y in zip(first, again, strict=True))
    assert any(
        len(x["labels"]) != len(y["labels"]) or (x["labels"] != y["labels"]).any()
        for x, y in zip(first, other, strict=True)
    )
    assert all((b["attention_mask"] == (b["input_ids"] != 0)).all() for b in first)


# --- what a step costs ------------------------------------------------------------------------------------------------


def test_peak_memory_of_a_step():
    import torch

    x = torch.ones(1000)

    def step():
        y = x + 1
        z = y + 1
        del y
        return (z + 1).sum()

    assert 8000 <= adapter_speed.peak(step) <= 8200  # y and z, then z and z + 1


def layer(seconds, taken):
    """A case whose tuners took these seconds and these bytes above the frozen layer."""
    tuners = {
        name: {"parameters": _adapter_speed_page.count(name, 768) or 1, "error": 1e-6, "bytes": 100, "seconds": [t] * 4}
        for name, t in seconds.items()
    }
    for name in taken:
        tuners[name]["bytes"] += taken[name] * 4 * 768 * 1024
    return {"name": "layer", "kind": "layer", "n": 768, "tokens": 1024, "tuners": tuners}


def test_goals_are_judged_by_the_ratios():
    seconds = {"frozen": 1.0, "lora_8": 2.0, "lora_16": 2.0, "lokr": 4.0, "c3a": 5.0, "full": 3.0}
    good = {"lsr_16": 2.06, "circulant": 2.3, "kronecker": 2.4, "toeplitz": 2.7, "symmetric_toeplitz": 2.7, "ldr": 3.2}
    case = layer(seconds | good, dict.fromkeys(good, 2))
    held = _adapter_speed_page.claims({"rounds": 9, "cases": [case]})
    assert all(held.values()), held
    slower = layer(seconds | {name: 1.02 * t for name, t in good.items()}, dict.fromkeys(good, 3))
    failed = {c for c, holds in _adapter_speed_page.claims({"rounds": 9, "cases": [slower]}).items() if not holds}
    assert sum("at most" in claim and "×" in claim for claim in failed) == len(good)
    assert sum("temporaries" in claim for claim in failed) == len(good)
