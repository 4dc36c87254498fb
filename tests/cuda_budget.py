"""What the compiler makes of every shipped kernel: registers, spills, shared memory, for each architecture. No device is needed.

python -m tests.cuda_budget            compares with cuda_budget.json
python -m tests.cuda_budget --write    rewrites it; its diff is what is reviewed
"""

import argparse
import json
import re
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
# bytes of shared memory that a block may have, by architecture
ARCHITECTURES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
REGISTERS = 255  # of a thread
MULTIPROCESSOR = 65_536  # registers of all threads of a block


class CompileError(Exception):
    """What NVRTC says."""


def compile_kernel(spec, architecture):
    """{"registers", "stack", "spills"} of one kernel, from what the assembler reports to NVRTC's log."""
    from cuda.bindings import nvrtc

    def call(name, *args):
        status, *found = getattr(nvrtc, name)(*args)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS and name != "nvrtcCompileProgram":
            raise CompileError(f"{name}: {status}")
        return status if name == "nvrtcCompileProgram" else found[0] if found else None

    program = call("nvrtcCreateProgram", spec.code().encode(), b"kron.cu", 0, [], [])
    options = [f"--gpu-architecture={architecture}", "-default-device", "--ptxas-options=-v", *spec.options]
    status = call("nvrtcCompileProgram", program, len(options), [o.encode() for o in options])
    log = b" " * call("nvrtcGetProgramLogSize", program)
    call("nvrtcGetProgramLog", program, log)
    call("nvrtcDestroyProgram", program)
    text = log.decode(errors="replace")
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(text.strip(" \0\n") or str(status))
    return report(text, spec.entry)


def report(log, entry):
    """The numbers of one entry function in the assembler's report."""
    part = log.partition(f"'{entry}'")[2]
    found = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
    used = re.search(r"Used (\d+) registers", part)
    if not found or not used:
        raise CompileError(f"no report on {entry}: {log.strip()[:500]}")
    stack, stores, loads = map(int, found.groups())
    return {"registers": int(used[1]), "stack": stack, "spills": stores + loads}


def budget(specs):
    """{entry: {"shared": bytes, "threads": number, architecture: registers}} of all specialisations, sorted.

    Architectures whose shared memory is too small for a kernel are left out. A spill or a stack frame is an error here: there
    is no budget for it.
    """
    found = {}
    for spec in sorted(specs, key=lambda s: s.entry):
        row = {"shared": spec.shared_bytes, "threads": spec.threads}
        for architecture, most in ARCHITECTURES.items():
            if spec.shared_bytes <= most:
                used = compile_kernel(spec, architecture)
                if used["spills"] or used["stack"]:
                    raise CompileError(f"{spec.entry} on {architecture}: {used}")
                row[architecture] = used["registers"]
        found[spec.entry] = row
    return found


def load():
    """The committed budget."""
    return json.loads(FILE.read_text())


def main():
    """Compare or write."""
    from sepmat.kernels.cuda.specialise import SHIPPED

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"rewrite {FILE.name}")
    write, found = parser.parse_args().write, budget(SHIPPED)
    if write:
        lines = [f"  {json.dumps(entry)}: {json.dumps(row)}" for entry, row in found.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    known = load()
    for entry in sorted({*known, *found}):
        if known.get(entry) != found.get(entry):
            print(f"{entry}: {known.get(entry)} -> {found.get(entry)}")


if __name__ == "__main__":
    main()
