"""The tests of the GPU kernels that a run had to skip, once more, now that what they waited for is installed.

    python tests/ladder.py FIRST.xml SECOND.xml        reports of pytest: of the run before, and where to write this one

Fails where one of them fails or is skipped again. Tests marked gpu need a device, and are counted here.
"""

import subprocess
import sys
import xml.etree.ElementTree

NEEDS_A_DEVICE = "no CUDA device"  # the reason that conftest.py gives


def skipped(report):
    """{node id: reason} of the skipped tests in tests/test_cuda_*.py and tests/test_gpu*.py."""
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        module, skip = case.get("classname").rpartition(".")[2], case.find("skipped")
        if skip is not None and module.startswith(("test_cuda_", "test_gpu")):
            found[f"tests/{module}.py::{case.get('name')}"] = skip.get("message")
    return found


def main(first, second):
    """0 where all of them run and pass."""
    before = skipped(first)
    device = [node for node, reason in before.items() if NEEDS_A_DEVICE in reason]
    waiting = [node for node in before if node not in device]
    print(f"{len(device)} tests need a CUDA device; {len(waiting)} waited for a compiler or a library", flush=True)
    if not waiting:
        return "no test waited: is this the report of a run without the extra gpu-check?"
    done = subprocess.run([sys.executable, "-m", "pytest", f"--junitxml={second}", *waiting])
    again = [f"{node}: {reason}" for node, reason in skipped(second).items()]
    return done.returncode or "\n".join(again) or 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
