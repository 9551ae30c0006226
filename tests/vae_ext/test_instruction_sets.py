"""The CPU kernels on each instruction set: for this machine's family by symbols and disassembly, for ARM by an emulator."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulated.build import CSRC, FLAGS, run_compiler
from vae_ext.source import ROOT, sources_in

ARM_COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
EVERY = "11"  # of the cases in main.cpp, every how many: an emulator is slow


def build(compiler: str, output: Path, *arguments: str | Path) -> Path:
    run_compiler(compiler, *FLAGS, f"-I{CSRC}", *arguments, "-o", output)
    return output


@pytest.mark.skipif(ARM_COMPILER is None, reason="no aarch64-linux-gnu-g++ on PATH")
def test_arm_gives_the_same_bits_as_this_machine(tmp_path: Path) -> None:
    sources = [*sources_in("cpu"), ROOT / "tests" / "standalone" / "main.cpp"]
    arm = build(str(ARM_COMPILER), tmp_path / "arm", "-static", *sources)
    if EMULATOR is None:
        pytest.skip("it compiles; no qemu-aarch64 on PATH to run it")
    here = build("g++", tmp_path / "here", "-O1", *sources)  # the same bits, compiled faster
    ours, theirs = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in ([str(here), EVERY], [EMULATOR, str(arm), EVERY])
    )
    assert theirs.splitlines() == ours.splitlines()[:1]  # ARM has only the default


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="not x86")
@pytest.mark.parametrize(
    ("name", "table", "widest"),
    [("default", "kDefaultLoops", 128), ("avx2", "kAvx2Loops", 256), ("avx512", "kAvx512Loops", 512)],
)
def test_each_file_of_loops_uses_its_instruction_set_and_shares_no_symbol(
    name: str, table: str, widest: int, tmp_path: Path
) -> None:
    built = build("g++", tmp_path / "loops.o", "-c", CSRC / "cpu" / f"{name}.cpp")

    def said(*command: str) -> str:
        return subprocess.run([*command, str(built)], capture_output=True, text=True, check=True).stdout

    # The linker keeps one definition of a symbol in several files, possibly with instructions that a machine does not support.
    symbols = said("nm", "--demangle", "--defined-only", "--extern-only").splitlines()
    assert [line.split()[-1] for line in symbols] == [f"vae::cpu::{table}"]
    registers = set(re.findall(r"%([xyz]mm)\d", said("objdump", "--disassemble")))
    assert max({"xmm": 128, "ymm": 256, "zmm": 512}[register] for register in registers) == widest
