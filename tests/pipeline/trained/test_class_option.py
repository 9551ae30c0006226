"""Using a conditional model: the class by name or number, in Python, by --class, and in exported graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline import __main__ as command
from pipeline.config.paths import DEFAULT
from pipeline.data.prepared import read_split
from tests.pipeline.conftest import error_of
from tests.pipeline.trained.program import vae

TEST = "data/prepared/test_images.npy"
OF_EACH = ", or a .npy file with the number of each image's"
A_CLASS = "a class (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) or its number, from 0 to 9"


@pytest.fixture
def conditional(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained / "conditional")
    return trained / "conditional"


def test_a_class_is_given_by_name_or_number_for_all_images_or_each(conditional: Path) -> None:
    model = pipeline.load("models/default")
    sevens = model.sample(20, label="7")
    for same in (7, [7] * 20, ["7"] * 20, torch.full((20,), 7), np.full(20, 7)):
        assert torch.equal(model.sample(20, label=same), sevens)
    assert not torch.equal(model.sample(20, label=8), sevens)
    in_turn = model.sample(20)  # a batch's rows may be computed in another order
    torch.testing.assert_close(in_turn[[7, 17]], sevens[[7, 17]])
    assert torch.equal(in_turn, model.sample(20, label=[*range(10), *range(10)]))
    assert torch.equal(sevens, model.sample(20, label=np.int64(7)))  # type: ignore[arg-type]
    labels = read_split("test").labels
    assert labels is not None
    for named in ("7", f"data/prepared/test_labels.npy:{labels.tolist().index(7)}"):
        vae(f"encode {TEST}:3 --class {named} -o out/{len(named)}.csv")
    one, other = (path.read_bytes() for path in sorted(Path("out").glob("*.csv")))
    assert one == other
    vae("sample -n 64 --class 7 -o out/sevens.png")
    with Image.open("out/sevens.png") as picture:
        found = np.asarray(picture)[:28, :28] / 255
    np.testing.assert_allclose(found, model.sample(64, label=7)[0], atol=0.5 / 255 + 1e-6)
    with pytest.raises(ValueError, match="label: expected one class, or one for each of 20 images, got 3"):
        model.sample(20, label=[1, 2, 3])
    with pytest.raises(ValueError, match=r"label: expected a class .* got 'ten'"):
        model.sample(20, label="ten")
    with pytest.raises(ValueError, match=r"label: expected a class .* got 1.5"):
        model.sample(20, label=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label: expected the class of each image"):
        model.log_prob(read_split("test").images[:3])


def test_likelihoods_are_conditional_on_the_class(conditional: Path) -> None:
    model, test = pipeline.load("models/default"), read_split("test")
    assert test.labels is not None
    own = model.log_prob(test.images, 1, label=test.labels)
    assert (own != model.log_prob(test.images, 1, label=(test.labels + 1) % 10)).all()


COMMANDS = [
    (
        f"reconstruct {TEST}:3 -o a",
        f"error: --class: expected {A_CLASS}{OF_EACH}, since this model uses the class of an image, got none",
    ),
    (f"score {TEST} -o a.csv", f"error: --class: expected {A_CLASS}{OF_EACH}, since"),
    (f"encode {TEST}:3 --class eleven.npy:0 -o a.csv", "error: eleven.npy: expected class numbers from 0 to 9, got 11"),
    (
        f"encode {TEST}:3 --class data/prepared/test_labels.npy:200 -o a.csv",
        "error: data/prepared/test_labels.npy:200: expected one of 200 rows, numbered from 0",
    ),
    ("sample --class ten -o a.png", f"error: --class: expected {A_CLASS}, got 'ten'"),
    ("sample --class 10 -o a.png", f"error: --class: expected {A_CLASS}, got '10'"),
    (
        "sample --class data/prepared/test_labels.npy -o a.png",
        f"error: --class: expected {A_CLASS}, got 'data/prepared/test_labels.npy'",
    ),
    (
        f"encode {TEST}:3 --class data/prepared/test_labels.npy -o a.csv",
        "error: --class: expected the classes of 1 images in data/prepared/test_labels.npy, got 200",
    ),
    (f"encode {TEST} --class {TEST} -o a.csv", f"error: {TEST}: expected whole numbers [N], got uint8 [200, 28, 28]"),
    (f"encode {TEST} --class none.npy -o a.csv", "error: none.npy: No such file or directory"),
    (f"encode {TEST} --class eleven.npy -o a.csv", "error: eleven.npy: expected class numbers from 0 to 9, got 11"),
    (
        f"score {TEST} --class 7 --model ../plain/models/default -o a.csv",
        "error: --class: expected none, since this model does not use classes, got '7'",
    ),
]


def test_a_missing_or_unknown_class_is_one_error_line(
    conditional: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("eleven.npy", np.full(200, 11))
    for words, line in COMMANDS:
        monkeypatch.setattr("sys.argv", ["vae", *words.split()])
        assert error_of(command.main, capsys).splitlines()[-1].startswith(line), words
        assert not list(Path().glob("a*")), words


def test_the_card_says_that_the_model_is_conditional_on_the_class(conditional: Path) -> None:
    card = DEFAULT.card.read_text(encoding="utf-8")
    assert "A class-conditional class-prior variational autoencoder of images of 28 x 28" in card
    assert "\n- class-conditional\n" in card
    assert "type: conditional-image-generation" in card
    assert "images = model.sample(64, seed=1, label='0')" in card
    assert "ELBO and NLL are of p(x|y), of an image given its class" in card
    assert "all given the image's class" in card
    assert "where m and s are mean and standard deviation" in card


def test_no_probe_measures_a_class_that_the_encoder_is_given(conditional: Path) -> None:
    assert "probe_accuracy" in Path("../plain", DEFAULT.card).read_text(encoding="utf-8")
    assert "probe_accuracy" not in DEFAULT.card.read_text(encoding="utf-8")


def test_onnx_graphs_take_the_class_and_give_its_prior(conditional: Path) -> None:
    import onnxruntime  # type: ignore[import-untyped]

    vae("export --format onnx -o onnx")
    model = pipeline.load("models/default")
    graphs = {name: onnxruntime.InferenceSession(f"onnx/{name}.onnx") for name in ("encoder", "decoder", "prior")}
    for count in (1, 13):
        label = torch.arange(count) % 10
        x = model.sample(count)
        mu = model.model.posterior(x.flatten(1), label)[:, :4]
        np.testing.assert_allclose(graphs["encoder"].run(None, {"x": x.numpy(), "label": label.numpy()})[0], mu, atol=1e-4)
        (mean,) = graphs["decoder"].run(None, {"z": mu.numpy(), "label": label.numpy()})
        np.testing.assert_allclose(mean, model.decode(mu, label), atol=1e-4)
        prior = graphs["prior"].run(None, {"label": label.numpy()})
        expected = model.model.prior.operands(mu, label)
        for found, name in zip(prior, ("prior_mu", "prior_logvar"), strict=True):
            np.testing.assert_allclose(found, expected[name], atol=1e-6)
