"""The step of .ci/run that runs again what was skipped: what it fails on, and that it can pass."""

import subprocess

import ladder
import pytest

SUITE = """<testsuites><testsuite>
<testcase classname="tests.test_cuda_budget" name="test_a[sm_90]">{first}</testcase>
<testcase classname="tests.test_gpu" name="test_b"><skipped message="no CUDA device"/></testcase>
<testcase classname="tests.test_docs" name="test_c"><skipped message="another matter"/></testcase>
</testsuite></testsuites>"""
SKIPPED = '<skipped message="NVRTC is not installed"/>'


@pytest.mark.parametrize(
    "then, status, expected",
    [("", 0, 0), ("", 1, 1), (SKIPPED, 0, "tests/test_cuda_budget.py::test_a[sm_90]: NVRTC is not installed")],
)
def test_it_passes_where_all_that_waited_has_run(tmp_path, monkeypatch, then, status, expected):
    first, second = tmp_path / "first.xml", tmp_path / "second.xml"
    first.write_text(SUITE.format(first=SKIPPED))

    def run(command):
        assert [node for node in command if "::" in node] == ["tests/test_cuda_budget.py::test_a[sm_90]"]
        second.write_text(SUITE.format(first=then).replace("tests.test_gpu", "tests.test_other"))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
    assert ladder.main(first, second) == expected


def test_a_run_that_skipped_nothing_is_the_wrong_one(tmp_path):
    report = tmp_path / "first.xml"
    report.write_text(SUITE.format(first=""))
    assert "no test waited" in ladder.main(report, tmp_path / "second.xml")
