"""save and load on a file system: whole files whatever happens, names, links, several savers; the torture in small."""

import json
import os
import re
import stat
import subprocess
import sys
import threading

import file_torture
import numpy as np
import pytest
from file_torture import content

import sepmat as sm
from sepmat import _container, io

# the operating system ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [3, None, b"matrix", ["a"], True])
def test_file_names(name):
    for call in (sm.load, lambda path: sm.save(sm.Identity(2), path)):
        with pytest.raises(sm.DTypeError, match=f"path: a {type(name).__name__}; expected a file name"):
            call(name)
    with pytest.raises(sm.ArgumentError, match=r"path.*zero byte"):
        sm.load("a\0b")


def test_operating_system_errors_stay_what_they_are(tmp_path):
    A = sm.Identity(2)
    with pytest.raises(FileNotFoundError):
        sm.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        sm.save(A, tmp_path / "nothing" / "matrix")
    for call in (sm.load, lambda path: sm.save(A, path)):
        with pytest.raises(IsADirectoryError):
            call(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            call(tmp_path / "pipe")
        os.unlink(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        sm.save(A, os.devnull)
    assert not os.listdir(tmp_path)


def test_no_permission(path, monkeypatch):
    sm.save(sm.Identity(2), path)
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to everything
    with pytest.raises(PermissionError):
        sm.save(sm.Identity(3), path)
    assert sm.load(path).shape == (2, 2) and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_save_leaves_the_old_file(path, monkeypatch, function, error):
    def fail(*_):
        raise error

    sm.save(sm.Identity(2), path)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(type(error)):
            sm.save(sm.Identity(3), path)
    assert sm.load(path).shape == (2, 2) and os.listdir(path.parent) == [path.name]


def test_links_modes_and_names(tmp_path):
    target, link = tmp_path / "deep" / "matrix", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    sm.save(sm.Identity(2), link)  # to nothing yet
    assert link.is_symlink() and sm.load(target).shape == (2, 2)
    target.chmod(0o640)
    sm.save(sm.Identity(3), link)
    assert link.is_symlink() and sm.load(link).shape == (3, 3) and stat.S_IMODE(target.stat().st_mode) == 0o640
    name = tmp_path / "Ä matrix (1).x+"  # nothing is appended, and regular expressions are not meant
    sm.save(sm.Identity(4), name)
    assert sm.load(name).shape == (4, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        sm.save(sm.Identity(5), "here")
        assert sm.load("here").shape == (5, 5)


@pytest.fixture
def alive():
    """The id of a process of ours: no other one may get a signal if a test fails."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process.pid
        assert process.poll() is None, "asking whether it lives has killed it"
        process.stdin.close()


def test_strays_of_the_dead_go_and_others_stay(path, alive):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as process:
        dead = process.pid
    me, other = os.getpid(), threading.Thread(target=lambda: gate.wait(60))
    gate = threading.Event()
    other.start()
    gone = [f"{dead}.{dead}", f"{me}.{threading.get_native_id()}", f"{me}.4194303", f"{10**30}.1"]
    stay = [f"{alive}.1", f"{alive}.{alive}", f"{me}.{other.native_id}", f"{dead}.x", f"{dead}"]
    try:
        for ids in (*gone, *stay):
            (path.parent / f".{path.name}.{ids}.tmp").touch()
        (path.parent / f".{path.name}x.{dead}.1.tmp").touch()
        sm.save(sm.Identity(2), path)
    finally:
        gate.set()
    left = set(os.listdir(path.parent))
    assert left == {path.name, f".{path.name}x.{dead}.1.tmp", *(f".{path.name}.{ids}.tmp" for ids in stay)}


def test_who_is_alive(monkeypatch, alive):
    asked = []

    def someone_elses(*process):
        asked.append(process)
        raise PermissionError

    assert _container._is_alive(alive, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", someone_elses)
        assert _container._is_alive(10**6, 1) and asked == [(10**6, 0)]
    monkeypatch.setattr(os, "name", "nt")  # where os.kill(process, 0) kills
    monkeypatch.setattr(os, "kill", None)
    assert _container._is_alive(10**30, 1)


def test_no_folder_is_opened_where_there_is_no_need(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", None)
        patch.setattr(os, "name", "nt")
        sm.save(sm.Identity(2), str(path))
    assert sm.load(path).shape == (2, 2)


def test_what_another_saver_writes_is_left_alone(path, monkeypatch):
    sm.save(sm.Identity(2), path)
    monkeypatch.setattr(_container, "_remove_strays", lambda *_: None)
    other = path.parent / f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp"
    other.touch()
    with pytest.raises(FileExistsError):
        sm.save(sm.Identity(3), path)
    assert other.exists() and sm.load(path).shape == (2, 2)


def test_savers_at_once(path):
    matrices = [sm.Dense(np.full((60, 60), float(k))) for k in range(4)]
    expected = [content(A) for A in matrices]
    sm.save(matrices[0], path)
    errors = []

    def work(A):
        try:
            for _ in range(15):
                sm.save(A, path)
                assert content(sm.load(path)) in expected
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(A,)) for A in matrices]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and os.listdir(path.parent) == [path.name]


# torture in small -------------------------------------------------------------------------------------------------------


def test_damaged_files():
    found, examples = file_torture.damaged_files(5000, 1)
    assert not examples and found["changed"] == 0 and found["refused"] > 4500
    assert set(found) <= {"refused", "unchanged"} and sum(found.values()) == 5000


def test_the_torture_notices(monkeypatch):
    """Without checksums damage gets through, and the count says so."""
    monkeypatch.setattr(_container, "digest", file_torture.undigested)
    monkeypatch.setattr(io, "digest", file_torture.undigested)
    found, examples = file_torture.damaged_files(2000, 1)
    assert found["changed"] > 20 and examples
    monkeypatch.setattr(io, "_checked", lambda cls, values, name: cls._of(**values))
    assert file_torture.random_fuzzing(1, 3000, 60)[1]


def test_kills():
    """In a process of its own: forking one with threads is asking for trouble."""
    command = [sys.executable, "-m", "tests.file_torture", "--kills", "12"]
    ended = subprocess.run(command, cwd=file_torture.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"kills: 12 kills, (\d+) inside a save, 0 lost, 0 strays", ended.stdout)
    assert found and int(found[1]) > 0, ended.stdout


def test_the_page_quotes_the_record():
    text, record = file_torture.PAGE.read_text(encoding="utf-8"), json.loads(file_torture.FIGURES.read_text())
    assert file_torture.documented(text, record) == text
    numbers = record["numbers"]
    assert numbers["damaged files"]["changed"] == numbers["damaged files"]["other errors"] == 0
    assert numbers["kills"]["lost"] == numbers["kills"]["strays"] == numbers["fuzzing"]["failures"] == 0


def test_fuzzing():
    done, examples = file_torture.random_fuzzing(1, 3000, 60)
    assert done == 3000 and not examples
