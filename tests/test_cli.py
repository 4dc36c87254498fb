"""The command line: what it prints, draws and writes, and one clear line with status 2 for what it cannot read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sepmat as sm
from sepmat.__main__ import capabilities, main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def toeplitz():
    return sm.Toeplitz([4.0, 1.0, 0.5, 0.0], [4.0, 2.0, 0.0, 1.0, 3.0]).to_dense()


def run(*args, expect=0, capsys=None):
    status = main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert status == expect, (out, err)
    return out, err


def test_table_names_the_structure_the_matrix_has(tmp_path, capsys, toeplitz):
    np.save(tmp_path / "T.npy", toeplitz)
    out, err = run("approximate", tmp_path / "T.npy", "--tol", 1e-10, capsys=capsys)
    lines = out.splitlines()
    assert lines[0] == "T.npy: 4×5 float64, tol 1e-10"
    assert lines[1].split() == ["structure", "parameters", "of", "dense", "rel.", "error", "optimal?"]
    assert lines[3].split()[:3] == ["Toeplitz", "8", "40.00%"] and lines[3].endswith("yes")
    assert not err


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "csv"])
def test_formats(tmp_path, capsys, toeplitz, kind):
    path = tmp_path / f"T.{kind}"
    if kind == "npy":
        np.save(path, toeplitz)
    elif kind == "npz":
        np.savez(path, weight=toeplitz, bias=toeplitz[0])
    elif kind == "csv":
        np.savetxt(path, toeplitz, delimiter=",")
    else:
        save_file = pytest.importorskip("safetensors.numpy", reason="the extra files is not installed").save_file
        save_file({"weight": toeplitz, "bias": toeplitz[0].copy()}, path)
    out, _ = run("approximate", path, "--max-parameters", 8, "--structures", "toeplitz", "hankel", capsys=capsys)
    name = f"T.{kind}" if kind in ("npy", "csv") else "weight"
    assert out.startswith(f"{name}: 4×5") and "bias" not in out
    assert out.index("Toeplitz") < out.index("Hankel")


def test_plot_and_json(tmp_path, capsys, toeplitz):
    np.savez(tmp_path / "two.npz", a=toeplitz, b=toeplitz.T)
    png, record = tmp_path / "out.png", tmp_path / "out.json"
    run("approximate", tmp_path / "two.npz", "--max-parameters", 16, "--plot", png, "--json", record, capsys=capsys)
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000
    read = json.loads(record.read_text())
    assert set(read) == {"a", "b"}
    for key, M in (("a", toeplitz), ("b", toeplitz.T)):
        fits = sm.approximate(M, max_parameters=16)
        assert [f["relative_error"] for f in read[key]] == [f.relative_error for f in fits]
        assert [f["num_parameters"] for f in read[key]] == [f.num_parameters for f in fits]


def test_key_chooses_one_array(tmp_path, capsys, toeplitz):
    np.savez(tmp_path / "two.npz", a=toeplitz, b=toeplitz.T)
    out, _ = run("approximate", tmp_path / "two.npz", "--key", "b", "--max-parameters", 9, capsys=capsys)
    assert out.startswith("b: 5×4") and "\na:" not in out


def bad_files(tmp_path):
    (tmp_path / "text.csv").write_text("a,b\nc,d\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "random.npy").write_bytes(bytes(range(256)))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "random.npz").write_bytes(bytes(range(256)))
    (tmp_path / "random.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "weights.pt").write_bytes(b"x")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "objects.npy", np.array([[1, "a"], [None, 2]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "strings.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "fine.npy", np.eye(6))
    np.savez(tmp_path / "fine.npz", a=np.eye(6))
    yield from (p for p in sorted(tmp_path.iterdir()) if not p.name.startswith("fine"))
    yield tmp_path / "missing.npy"


def test_one_clear_line_for_what_cannot_be_read(tmp_path, capsys):
    for path in bad_files(tmp_path):
        out, err = run("approximate", path, expect=2, capsys=capsys)
        assert err.startswith("sepmat: ") and err.count("\n") == 1, (path.name, err)
        assert "Traceback" not in err and (not out or path.name == "nan.npy"), path.name


@pytest.mark.parametrize(
    "args",
    [
        ("fine.npy", "--structures", "toeplits"),
        ("fine.npy", "--tol", "2"),
        ("fine.npy", "--max-parameters", "-1"),
        ("fine.npz", "--key", "b"),
        ("fine.npy", "--seed", "-1"),
        ("fine.npy", "--plot", "nowhere/out.png"),
    ],
)
def test_one_clear_line_for_arguments(tmp_path, capsys, args):
    list(bad_files(tmp_path))
    _, err = run("approximate", tmp_path / args[0], *args[1:], expect=2, capsys=capsys)
    assert err.startswith("sepmat: ") and err.count("\n") == 1, err


def test_as_a_program(tmp_path):
    np.save(tmp_path / "m.npy", np.eye(6))
    command = [sys.executable, "-W", "error", "-m", "sepmat", "approximate", "m.npy", "--max-parameters", "6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Circulant" in done.stdout, done.stderr
    done = subprocess.run([*command[:-3], "nothing.npy"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert subprocess.run([*command[:5]], cwd=tmp_path, capture_output=True).returncode == 2


def test_capability_table_of_the_readme_is_the_one_of_the_code():
    for name in ("README.md", "docs/structures.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        between = text.split("<!-- capabilities -->")[1].split("<!-- /capabilities -->")[0]
        assert between.strip() == capabilities(), f"{name}: paste the output of python -m sepmat capabilities"


def test_one_matrix_with_nan_does_not_hide_the_others(tmp_path, capsys, toeplitz):
    np.savez(tmp_path / "two.npz", bad=np.full((3, 3), np.nan), good=toeplitz)
    record = tmp_path / "out.json"
    out, err = run("approximate", tmp_path / "two.npz", "--json", record, expect=2, capsys=capsys)
    assert "bad: 3×3, left out" in out and "good: 4×5 float64" in out and err.count("\n") == 1
    assert list(json.loads(record.read_text())) == ["good"]


def test_small_and_empty_matrices(tmp_path, capsys):
    np.save(tmp_path / "small.npy", np.eye(6))
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    assert "Circulant" in run("approximate", tmp_path / "small.npy", capsys=capsys)[0]
    run("approximate", tmp_path / "none.npy", capsys=capsys)
    out, _ = run("approximate", tmp_path / "small.npy", "--tol", 1e-20, capsys=capsys)
    assert "note: approximate: tol" in out
    _, err = run("approximate", tmp_path / "small.npy", "--max-parameters", 0, expect=2, capsys=capsys)
    assert "max_parameters: 0" in err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"sepmat {sm.__version__}\n"
