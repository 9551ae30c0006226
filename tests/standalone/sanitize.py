"""Builds main.cpp with the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and runs it: `make sanitize`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from torch.utils.cpp_extension import include_paths

from vae_ext.source import ROOT

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


def main() -> int:
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "kernels"
        sources = [str(ROOT / "csrc" / "cpu.cpp"), str(Path(__file__).with_name("main.cpp"))]
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-I", str(ROOT / "csrc"), *includes, *SANITIZERS]
        subprocess.run(["g++", *flags, *sources, "-o", str(program)], check=True)
        code = subprocess.run([str(program)], check=False).returncode
    print("no error" if code == 0 else "failed")
    return code


if __name__ == "__main__":
    sys.exit(main())
