"""Runs the kernels under sanitizers: `make sanitize`.

The CPU kernels (main.cpp beside this file) under AddressSanitizer and UndefinedBehaviorSanitizer; and the CUDA kernels,
emulated on the CPU: all cases without instrumentation, under the same two, and under ThreadSanitizer. Uses all cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.emulated.build import Build, build_cpu, build_cuda, build_main, compile_objects, link
from vae_ext.source import sources_in

SHARDS = 8  # the cases of a build are split into this many processes


def build_kernels(folder: Path) -> Path:
    """Builds the CPU kernels and the program that runs them, both instrumented."""
    flags = [*Build.MEMORY.value, "-fno-omit-frame-pointer"]
    sources = [*sources_in("cpu"), Path(__file__).with_name("main.cpp")]
    return link(compile_objects(sources, folder, ".instrumented.o", *flags), folder / "kernels", Build.MEMORY)


def build_emulated(folder: Path, build: Build, cpu: Sequence[Path]) -> Path:
    return link([*build_cuda(folder, build), *build_main(folder, build), *cpu], folder / f"emulated.{build.name}", build)


def run(command: list[str]) -> tuple[int, str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the emulated cases, only every N-th")
    every = parser.parse_args(arguments).every
    if every < 1:
        parser.error(f"--every: expected 1 or more, got {every}")
    started, failed = time.monotonic(), False
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        kernels, cpu = pool.submit(build_kernels, folder), pool.submit(build_cpu, folder)
        emulated = {build: pool.submit(build_emulated, folder, build, cpu.result()) for build in Build}
        runs: dict[Future[tuple[int, str]], str] = {pool.submit(run, [str(kernels.result())]): "CPU kernels, MEMORY"}
        for build, program in emulated.items():
            for shard in range(SHARDS):
                command = [str(program.result()), str(every * SHARDS), str(every * shard)]
                runs[pool.submit(run, command)] = f"emulated CUDA kernels, {build.name}, {shard + 1} of {SHARDS}"
        for done in as_completed(runs):
            code, output = done.result()
            failed |= code != 0
            print(f"{time.monotonic() - started:4.0f} s  {runs[done]}: {'no error' if code == 0 else 'FAILED'}", flush=True)
            print("".join(f"        {line}\n" for line in output.splitlines() if "makecontext" not in line), end="", flush=True)
    print("failed" if failed else "no error")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
