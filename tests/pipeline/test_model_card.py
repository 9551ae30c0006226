"""A model card can be parsed, whatever the names of data and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.plain_yaml import read_yaml_text
from pipeline.config.validation import load_params
from pipeline.evaluation.model_card import FRONT, as_yaml, read_metrics, write_card
from pipeline.models.metadata import DataInfo, ModelMetadata
from tests.pipeline.conftest import ROOT

ODD = [
    "---",
    "a---",
    "a\n---\nb",
    "---\n",
    "\r\n---\r\n",
    "'\"\\",
    "a: b # c",
    "\x00\x07\x85\u2028\ufeff",
    "\u732b",
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_a_card_with_any_data_name_can_be_read(tmp_path: Path, text: str) -> None:
    weights, card = tmp_path / "vae.safetensors", tmp_path / "MODEL_CARD.md"
    weights.write_bytes(b"weights")
    params = load_params(ROOT / "params.yaml")
    params = replace(params, data=replace(params.data, path=text))
    counts, checksums = {"train": 1}, {"train_images.npy": "0"}
    data = DataInfo(source=text, classes=[text, "b"], values="grey", counts=counts, sha256=checksums)
    row = {"value": -1.5, "standard_error": 0.25, "unit": "nats", "definition": text}
    report = pd.DataFrame([row], index=["elbo"])
    metadata = ModelMetadata(image_shape=[28, 28], params=params, data=data, versions={})
    write_card(card, weights, metadata, report, {"elbo": -1.5}, "1 of 2 dimensions are active")
    assert read_metrics(card, weights) == {"elbo": (-1.5, 0.25)}
    front = read_yaml_text(card.read_text(encoding="utf-8").split(f"\n{FRONT}")[0].removeprefix(FRONT), card)
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == text
    assert "Classes: " in next(line for line in card.read_text(encoding="utf-8").split("\n") if line.endswith(", b."))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=())))
@example("a\x85b")
def test_any_text_round_trips_through_yaml(text: str) -> None:
    value = {"a": [text, text], text: {"b": text}}
    assert read_yaml_text(as_yaml(value), Path("x")) == value
