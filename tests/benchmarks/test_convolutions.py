"""Both sides of `make bench-conv` compute the same, each in its own process. Nothing is timed here."""

from __future__ import annotations

import multiprocessing

import pytest

from pipeline.models.vae import VAE
from tests.benchmarks import convolutions


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "IMAGES", 16)
    monkeypatch.setattr(convolutions, "SIZE", 16)
    monkeypatch.setattr(convolutions, "keep_freed_memory", lambda: None)  # would affect all tests


@pytest.mark.parametrize("side", ["pipeline", "plain"])
def test_each_side_trains_an_epoch_per_request(side: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    for request in (True, True, False):
        ours.send(request)
    convolutions.serve(side, "float32", theirs)
    assert ours.recv() > 0 and ours.recv() > 0


def test_a_plain_loop_with_another_decoder_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = convolutions.train_step("float32")
    decode = VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda *arguments: decode(*arguments) + 0.1)
    with pytest.raises(AssertionError, match="not close"):
        convolutions.plain_epoch(step, "float32")


def test_both_sides_alternate_in_each_precision_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def side_of(name: str, precision: str) -> object:
        seconds = 1.0 if name == "pipeline" else 2.0

        def epoch() -> float:
            asked.append((name, precision))
            return seconds

        return epoch, lambda: None

    monkeypatch.setattr(convolutions, "side_of", side_of)
    monkeypatch.setattr(convolutions, "has_bfloat16", lambda _device: True)
    convolutions.main()
    turns = [("pipeline", "float32"), ("plain", "float32")] * convolutions.TURNS
    assert asked == turns + [(name, "bfloat16") for name, _ in turns]
    output = capsys.readouterr().out
    assert output.count("ratio         2.00") == 2
    assert "plain          8.0 images/s" in output
