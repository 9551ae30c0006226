"""Reports in one line what this machine lacks for ``make setup``, before anything is installed; runs on any Python 3."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
supported = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
assert supported is not None
oldest, beyond = map(int, supported.groups())
found = ".".join(map(str, sys.version_info[:3]))

if not (3, oldest) <= sys.version_info[:2] < (3, beyond):
    choose = f"with another one installed, make PYTHON=python3.{beyond - 1}"
    sys.exit(f"error: Python: expected 3.{oldest} to 3.{beyond - 1}, got {found} ({sys.executable}); {choose}")
if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
    sys.exit(f"error: Python {found}: its modules venv and ensurepip are missing; on Debian, apt install python3-venv")
if shutil.which("git") is None:
    sys.exit("error: git: missing; on Debian, apt install git")
git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
if b"dubious ownership" in git.stderr:
    how = f"git config --global --add safe.directory '{ROOT}'"
    sys.exit(f"error: {ROOT}: git takes no part in a repository that belongs to another user; if you trust it, {how}")
if git.returncode != 0:
    how = "clone it, or run git init && git add . && git commit -m Start"
    sys.exit(f"error: {ROOT}: expected a git repository with a commit, as DVC needs, got a folder without; {how}")
