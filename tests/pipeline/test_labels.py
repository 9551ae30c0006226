"""Classes for models that use them: images without classes are rejected early; a class is given by name or number."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import check, prepare, train
from pipeline.config.paths import DEFAULT, PARAMS, run_paths
from pipeline.data.labels import class_number
from tests.pipeline.conftest import error_of, set_params


@pytest.mark.parametrize(("key", "expected"), [("condition", "null"), ("prior", "standard")])
def test_a_model_with_classes_is_rejected_if_the_images_have_none(
    raw: Path, key: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(raw / "x.npy", np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8))
    set_params(PARAMS, {"data.path": "data/raw/x.npy", f"model.{key}": "label"})
    why = f"expected {expected}, since the images in data/raw/x.npy have no classes, got 'label'"
    line = f"error: params.yaml: model.{key}: {why}\n"
    assert error_of(check.main, capsys) == line
    prepare.main()
    assert error_of(train.main, capsys) == line
    assert not DEFAULT.weights.exists()
    recipe = run_paths("one")
    recipe.params.parent.mkdir(parents=True)
    shutil.copy(PARAMS, recipe.params)
    assert error_of(lambda: train.main(recipe), capsys) == line.replace("params.yaml", str(recipe.params), 1)


def test_a_class_is_known_by_its_name_or_number_and_a_name_comes_first() -> None:
    names = ["cat", "0", "dog"]
    assert [class_number(one, names) for one in ("cat", "0", "dog", "2", 2, 0)] == [0, 1, 2, 2, 2, 0]
    for wrong in ("bird", "3", 3, -1, "-1", "1.0"):
        with pytest.raises(ValueError, match=r"expected a class \(cat, 0, dog\) or its number, from 0 to 2, got"):
            class_number(wrong, names)
