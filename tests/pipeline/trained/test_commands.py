"""The `vae` commands on trained models."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.config.paths import DEFAULT
from pipeline.data.prepared import read_manifest, read_split
from pipeline.evaluation.metrics import METRICS
from pipeline.inference.info import info
from pipeline.models.metadata import read_header
from pipeline.models.serialization import save_model
from tests.pipeline.conftest import ROOT
from tests.pipeline.trained.program import classes, vae


def pixels(path: str) -> npt.NDArray[Any]:
    return np.asarray(Image.open(path))


def test_every_command_runs_on_every_kind_of_model(kind: str) -> None:
    test = "data/prepared/test_images.npy"
    model = pipeline.load("models/default")
    *colors, height, width = model.image_shape
    vae("sample -n 5 -o out/grid.png")
    assert pixels("out/grid.png").shape == (2 * height, 3 * width, *colors)
    vae(f"reconstruct {test}{classes(kind)} -o out/back")
    assert len(list(Path("out/back").iterdir())) == len(read_split("test").images)
    vae(f"interpolate {test}:0 {test}:1 --steps 3{classes(kind, '7')} -o out/way.png")
    way = pixels("out/way.png")
    assert way.shape == (height, 5 * width, *colors)
    ends = [np.array(read_split("test").images[i]) for i in (0, 1)]
    for end, image in zip((way[:, :width], way[:, -width:]), ends, strict=True):
        assert np.array_equal(end, np.moveaxis(image, 0, 2) if colors else image)
    vae(f"encode {test}{classes(kind)} -o out/codes.csv")
    names = [f"{what}_{i}" for what in ("mu", "sigma")[: 1 if kind == "autoencoder" else 2] for i in range(4)]
    assert list(pd.read_csv("out/codes.csv").columns) == ["image", *names, *["kl"] * (kind != "autoencoder")]
    vae("info")
    if kind == "autoencoder":
        with pytest.raises(SystemExit):
            vae(f"score {test} -o out/scores.csv")
    else:
        vae(f"score {test} --samples 3{classes(kind)} -o out/scores.csv")


def test_scores_equal_the_evaluation(kind: str) -> None:
    if kind == "autoencoder":
        return
    vae(f"score data/prepared/test_images.npy{classes(kind)} --samples 3 -o scores.parquet")
    scores, metrics = pd.read_parquet("scores.parquet"), json.loads(DEFAULT.metrics.read_text(encoding="utf-8"))
    for name in ("elbo", "distortion", "rate", "nll"):
        assert scores[name].mean() == pytest.approx(metrics[name], rel=1e-6)


def test_codes_are_the_parameters_of_the_posterior(plain: Path) -> None:
    vae("encode data/prepared/test_images.npy -o codes.parquet")
    codes = pd.read_parquet("codes.parquet")
    mu, sigma = pipeline.load("models/default").encode(read_split("test").images)
    normal = torch.distributions.Normal(mu.double(), sigma.double())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    np.testing.assert_allclose(codes.filter(like="mu_"), mu, rtol=1e-6)
    np.testing.assert_allclose(codes.filter(like="sigma_"), sigma, rtol=1e-6)
    np.testing.assert_allclose(codes["kl"], kl, rtol=1e-6)
    assert codes["image"].tolist()[:2] == ["data/prepared/test_images.npy:0", "data/prepared/test_images.npy:1"]


def test_pictures_and_arrays_of_the_same_images_have_the_same_codes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "colours"):
        monkeypatch.chdir(trained / name)
        for i, image in enumerate(read_split("test").images[:7]):
            path = Path(f"pictures/{i % 2}/{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if image.ndim == 2 else np.moveaxis(image, 0, 2)).save(path)
        vae("encode pictures/0 pictures/1/1.png data/prepared/test_images.npy:3 pictures/1/5.png -o a.csv")
        vae("encode data/prepared/test_images.npy -o b.csv")
        some, every = pd.read_csv("a.csv"), pd.read_csv("b.csv")
        assert some["image"].tolist()[:2] == ["pictures/0/0.png", "pictures/0/2.png"]
        expected = every.iloc[[0, 2, 4, 6, 1, 3, 5]].drop(columns="image")
        np.testing.assert_allclose(some.drop(columns="image"), expected, rtol=1e-5)


def test_pictures_of_other_sizes_are_resized_to_the_models(plain: Path) -> None:
    Path("large").mkdir(exist_ok=True)
    Image.fromarray(read_split("test").images[0]).resize((112, 112), Image.Resampling.NEAREST).convert("RGB").save(
        "large/a.jpg"
    )
    vae("encode large --resize -o a.csv")
    vae("encode data/prepared/test_images.npy -o b.csv")
    near, every = (pd.read_csv(f"{name}.csv").filter(like="mu_").to_numpy() for name in "ab")
    assert np.linalg.norm(every - near, axis=1).argmin() == 0


def test_a_reconstruction_is_named_after_its_image_and_keeps_other_files(plain: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (Path("in") / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(read_split("test").images[0]).save(Path("in") / name)
    Path("mine").mkdir()
    Path("mine/keep.txt").write_text("keep", encoding="utf-8")
    vae("reconstruct in -o mine")
    vae("reconstruct in -o mine")
    assert sorted(str(path.relative_to("mine")) for path in Path("mine").rglob("*.*")) == ["a/1.png", "b/1.png", "keep.txt"]
    assert not [path for path in Path().iterdir() if path.name.startswith(".") and path.name not in (".git", ".locks")]
    model = pipeline.load("models/default")
    expected = model.decode(model.encode(read_split("test").images[:1])[0])[0]
    np.testing.assert_allclose(pixels("mine/a/1.png") / 255, expected, atol=0.5 / 255 + 1e-6)


def test_arrays_in_every_layout_have_the_same_codes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "colours"):
        monkeypatch.chdir(trained / name)
        images = np.array(read_split("test").images[:5])
        first = images if name == "colours" else images[:, None]
        last = np.moveaxis(first, 1, -1)
        layouts = [images, first, last, images.reshape(5, -1), (images / 255).astype(">f4")]
        alone = [images[2], first[2], last[2]]
        for i, array in enumerate([*layouts, *alone]):
            np.save(f"layout-{i}.npy", array)
        vae(f"encode {' '.join(f'layout-{i}.npy' for i in range(8))} -o codes.csv")
        codes = pd.read_csv("codes.csv").filter(like="mu_").to_numpy()
        np.testing.assert_allclose(codes, np.concatenate([np.tile(codes[:5], (5, 1)), np.tile(codes[2], (3, 1))]), atol=1e-6)
        np.savez("of-a-test.npz", test_images=images, test_labels=np.arange(5))  # an archive with only test images is accepted
        vae("encode of-a-test.npz -o codes.csv")
        np.testing.assert_allclose(pd.read_csv("codes.csv").filter(like="mu_"), codes[:5], atol=1e-6)


# These cover the layers of the others, and exporting one takes seconds.
@pytest.mark.parametrize("kind", ["gaussian", "categorical", "autoencoder", "colours"], indirect=True)
def test_onnxruntime_matches_pytorch_for_any_batch_size(kind: str) -> None:
    import onnxruntime  # type: ignore[import-untyped]

    vae("export --format onnx -o onnx")
    assert {path.name for path in Path("onnx").iterdir()} == {"encoder.onnx", "decoder.onnx"}
    model = pipeline.load("models/default")
    encoder, decoder = (onnxruntime.InferenceSession(f"onnx/{name}.onnx") for name in ("encoder", "decoder"))
    for count in (1, 3, 256):
        x = model.sample(count)
        found = encoder.run(None, {"x": x.numpy()})
        with torch.no_grad():
            posterior = model.model.posterior(x.flatten(1))
        mu = posterior[:, :4]
        np.testing.assert_allclose(found[0], mu, atol=1e-4)
        if kind != "autoencoder":
            np.testing.assert_allclose(np.exp(found[1] / 2), model.model.sigma(posterior[:, 4:]), rtol=1e-4)
        (mean,) = decoder.run(None, {"z": mu.numpy()})
        assert mean.shape == (count, *model.image_shape)
        np.testing.assert_allclose(mean, model.decode(mu), atol=1e-4)


def test_exported_programs_load_without_the_pipeline(plain: Path) -> None:
    vae("export --format torch-export -o programs")
    model = pipeline.load("models/default")
    z = torch.randn(7, 4)
    (mean,) = torch.export.load("programs/decoder.pt2").module()(z)
    torch.testing.assert_close(mean, model.decode(z))


def test_info_has_parameters_data_versions_and_metrics(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ruamel.yaml import YAML

    capsys.readouterr()
    vae("info")
    found = YAML(typ="safe").load(capsys.readouterr().out)
    assert found["params"]["model"]["latent_dim"] == 4
    assert found["data"]["counts"] == {"train": 300, "validation": 100, "test": 200}
    assert found["data"]["sha256"].keys() >= {"train_images.npy"}
    assert found["versions"]["torch"] == torch.__version__
    assert list(found["metrics"]) == METRICS
    report = pd.read_csv(DEFAULT.tables / "report.csv", index_col="quantity")
    for name, shown in found["metrics"].items():
        value, error = report.loc[name, ["value", "standard_error"]]
        assert shown == {
            "value": pytest.approx(value, rel=1e-4),
            **({} if np.isnan(error) else {"standard_error": pytest.approx(error, rel=1e-2)}),
        }
        assert all(len(str(number).strip("-0.").replace(".", "")) <= 5 for number in shown.values())


def test_without_a_matching_model_card_info_has_no_metrics_and_says_why(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "plain/models", tmp_path / "models")
    shutil.copy(trained / "binarized/models/default/vae.safetensors", tmp_path / "models/default")
    monkeypatch.chdir(tmp_path)
    card = "note: no metrics: models/default/MODEL_CARD.md: "
    for why in ("expected a card of models/default/vae.safetensors, got that of others", "missing"):
        assert re.search(r"^metrics:", info(Path("models/default"), read_header(DEFAULT.weights)), re.MULTILINE) is None
        assert capsys.readouterr().err == f"{card}{why}; the stage evaluate writes it\n"
        DEFAULT.card.unlink(missing_ok=True)


def test_one_image_of_an_array_has_the_same_score_alone(plain: Path) -> None:
    test = "data/prepared/test_images.npy"
    vae(f"score {test} --samples 2 -o all.csv")
    vae(f"score {test}:17 {test}:3 --samples 2 -o two.csv")
    np.testing.assert_allclose(
        pd.read_csv("two.csv").drop(columns="image"), pd.read_csv("all.csv").drop(columns="image").iloc[[17, 3]], rtol=1e-5
    )


def test_the_help_of_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sample", "reconstruct", "interpolate", "encode", "score", "info", "export"):
        with pytest.raises(SystemExit) as caught:
            vae(f"{name} --help")
        assert caught.value.code == 0
        assert f"example: vae {name}" in " ".join(capsys.readouterr().out.split())


def test_info_counts_the_trained_parameters(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    vae("info")
    count = sum(parameter.numel() for parameter in pipeline.load("models/default").model.parameters())
    assert f"\n  parameters: {count}\n" in capsys.readouterr().out


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limits the size of files, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("sample -o full/x.png", "full/x.png"),
        ("encode data/prepared/test_images.npy -o full/x.csv", "full/x.csv"),
        ("encode data/prepared/test_images.npy -o full/x.parquet", "full/x.parquet"),
        ("reconstruct data/prepared/test_images.npy:0 -o full", "full"),
        ("export --format torch-export -o full", "full"),
    ],
)
def test_a_full_disk_is_one_error_line_with_the_file_name(
    plain: Path, words: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with largest_file(100), pytest.raises(SystemExit) as caught:
        vae(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {named}: File too large"
    assert list(Path("full").iterdir()) == []


def test_saving_weights_on_a_full_disk_names_the_file(plain: Path) -> None:
    model = pipeline.load(DEFAULT.models)
    with largest_file(100), pytest.raises(OSError, match=r"File too large: 'x.safetensors'"):
        save_model(Path("x.safetensors"), model.model, model.params, read_manifest())


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ("--help", 0, "how likely images are, as a table"),
        ("sample --help", 0, "example: vae sample"),
        ("sample -n 0 -o x.png", 2, "vae sample: error: argument -n: expected a whole number from 1 to 10,000, got '0'"),
        ("sample --model none -o x.png", 2, "error: none: missing; expected a model's folder"),
        ("info", 0, "  parameters: 51416"),
    ],
)
def test_help_usage_errors_and_info_do_not_import_torch(plain: Path, words: str, status: int, line: str) -> None:
    code = "import sys, pipeline.__main__ as vae\ntry: vae.main()\nfinally: print('imported:', *sys.modules, file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    output, imported = ended.stderr.split("imported: ")
    assert ended.returncode == status
    assert line in (ended.stdout if status == 0 else output)
    slow = {"torch", "pandas", "vae_ext"} | ({"numpy", "pydantic", "tqdm"} if "--help" in words else set())
    assert not slow & set(imported.split())


def test_slow_steps_are_announced_on_a_terminal(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For somebody who waits, not in a log."""
    for terminal, output in ((True, "loading models/default ...\n"), (False, "")):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stderr", stream)
        vae("sample -n 1 -o x.png")
        assert stream.getvalue() == output
