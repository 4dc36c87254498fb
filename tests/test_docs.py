"""The documentation is executed: every python block of the README and of docs/, in order, one namespace a file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(file):
    """(line, info string, code) of the fenced blocks."""
    text = file.read_text()
    for found in BLOCK.finditer(text):
        yield text[: found.start()].count("\n") + 2, found[1].strip(), found[2]


def slug(heading):
    """The anchor of a heading, as on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::FutureWarning:peft")  # among themselves
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the Trainer's default, where no accelerator is at hand
@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_python_blocks_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "docs"}
    for line, info, code in blocks(file):
        if info == "python":
            exec(compile("\n" * (line - 1) + code, str(file), "exec"), names)
        elif info.startswith("python no-run"):
            reason = info.removeprefix("python no-run").strip(" :()")
            assert len(reason) > 10, f"{file.name}:{line}: a block that is not run says why"
        else:
            assert "python" not in info or info == "python", f"{file.name}:{line}: unknown kind {info!r}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_links_resolve(file):
    prose = BLOCK.sub("", file.read_text())
    for link in LINK.findall(prose):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{file.name}: {link} does not exist"
        assert ROOT in target.parents, f"{file.name}: {link} leaves the repository"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{file.name}: no heading for {link}"


def test_every_test_file_stands_in_their_readme():
    page = (ROOT / "tests" / "README.md").read_text()
    found = [file.stem for file in (ROOT / "tests").glob("*.py") if file.stem != "conftest"]
    assert not [name for name in found if f"`{name}`" not in page and f"`{name}.py`" not in page]


def test_there_is_something_to_check():
    assert sum(info == "python" for f in FILES for _, info, _ in blocks(f)) >= 1
