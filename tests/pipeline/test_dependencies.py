"""DVC's stage dependencies and the checkpoint key cover the packages that a result depends on."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.plain_yaml import read_yaml
from tests.forked import run_code, run_forked
from tests.pipeline.clone import Clone
from tests.pipeline.conftest import ROOT

FILES = [ROOT / "dvc.yaml", ROOT / "recipes/dvc.yaml"]
STAGES = [
    (file, name, stage)
    for file in FILES
    for name, stage in read_yaml(file)["stages"].items()
    if "python -m pipeline." in stage["cmd"] and name != "code"
]


def imported(module: str, seen: set[str]) -> set[str]:
    """Returns the pipeline's modules that a module imports, directly or not, including itself; such as ``training.step``."""
    seen.add(module)
    for node in ast.walk(ast.parse((ROOT / "pipeline" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            above = str(node.module).removeprefix("pipeline.")
            for name in [above, *(f"{above}.{alias.name}" for alias in node.names)]:
                if name not in seen and (ROOT / "pipeline" / f"{name.replace('.', '/')}.py").is_file():
                    imported(name, seen)
    return seen


def packages(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported(module, set()) if "." in name}


@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=[f"{file.parent.name}-{name}" for file, name, _ in STAGES])
def test_a_stage_depends_on_the_packages_it_imports(file: Path, name: str, stage: dict[str, Any]) -> None:
    module = stage["cmd"].split("python -m pipeline.")[1].split()[0]
    # The schema covers config, and every stage depends on it; check writes it, and resolve is validated by it.
    wanted = packages(module) - ({"config"} if name not in ("check", "resolve") else set())
    deps = {dep.removeprefix("../") for dep in stage["deps"]}
    if file.parent == ROOT:
        found = {dep.removeprefix("pipeline/") for dep in deps if dep.startswith("pipeline/") and not dep.endswith(".py")}
        operator = {"vae_ext", "csrc", "setup.py"}
    else:
        (found,) = (set(entry["code.json"]) - {"vae_ext"} for entry in stage["params"] if "code.json" in entry)
        operator = {"csrc", "setup.py"}
        assert "models" not in wanted or "vae_ext" in next(e["code.json"] for e in stage["params"] if "code.json" in e)
    assert found == wanted
    assert "." in module or f"pipeline/{module}.py" in deps
    assert "models" not in wanted or operator <= deps


@pytest.mark.parametrize("planted", ["", "from pipeline.figures import style"])
def test_an_import_from_a_higher_package_fails_the_check(tmp_path: Path, planted: str) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "pipeline/training/step.py").open("a", encoding="utf-8") as file:
        file.write(f"{planted}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "training.step -> pipeline.figures.style" in done.stdout) == (bool(planted), bool(planted)), done


EDITS = """
import json
from pathlib import Path
import pipeline.train
from pipeline.config.code import loaded_code
from pipeline.config.validation import load_params
from pipeline.training.checkpoints import run_key

package = Path(pipeline.__file__).parent
keys = {{"as it is": run_key(load_params())}}
for folder in {folders}:
    files = sorted((package / folder).rglob("*.py"))
    edited = [path for path in files if path in loaded_code() or folder in ("figures", "report")]
    with edited[-1].open("a", encoding="utf-8") as file:
        file.write("# an edit\\n")
    keys[folder] = run_key(load_params())
print(json.dumps(keys))
"""


def test_an_edit_in_any_package_that_training_imports_changes_the_checkpoint_key(tmp_path: Path) -> None:
    for folder in ("pipeline", "vae_ext", "csrc"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "data/prepared").mkdir(parents=True)
    (tmp_path / "data/prepared/manifest.json").write_text("{}", encoding="utf-8")
    training = sorted(packages("train"))
    assert training == ["config", "data", "models", "runtime", "training"]
    order = [*training, "data/readers", "figures", "report"]
    training += ["data/readers"] if any(name.startswith("data.readers.") for name in imported("train", set())) else []
    code = EDITS.format(folders=[folder for folder in order if folder in training or "/" not in folder])
    done = run_forked(run_code, code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    keys = json.loads(done.stdout)
    assert len({keys["as it is"], *(keys[folder] for folder in training)}) == len(training) + 1
    assert keys["figures"] == keys["report"] == keys[training[-1]]


@pytest.mark.parametrize(
    ("edited", "changed"),
    [("figures/style.py", {"plot"}), ("report/page.py", {"plot"}), ("training/schedules.py", {"train"})],
)
def test_an_edit_in_a_package_invalidates_only_the_stages_that_use_it(clone: Clone, edited: str, changed: set[str]) -> None:
    with (clone.folder / "pipeline" / edited).open("a", encoding="utf-8") as file:
        file.write("# an edit\n")
    assert clone.read("dvc", "status").keys() == changed
    clone.restore()
