"""pythae's own trainer on the layers 784-400-20, timed an epoch at a time for a process that drives it (partner.py).

`python pythae_trainer.py IMAGES.npy`, in an environment that has pythae and torch and nothing of this project, reads uint8
images [N, 784] and sets all up as pythae's TrainingPipeline and BaseTrainer.train() do. To "versions" it answers those;
to "epoch" after one over the images, and to "nll N S" after get_nll() of the first N by S samples each, {"images": N,
"seconds": s}. An epoch's seconds are train_step()'s: its DataLoader, its steps and its progress bar, which is drawn to nowhere;
not what train() does between epochs, such as its copy of the best model.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae import models, trainers  # type: ignore[import-not-found]
from pythae.data.preprocessors import DataProcessor  # type: ignore[import-not-found]
from torch import Tensor, nn

ModelOutput = models.base.base_utils.ModelOutput
PIXELS, HIDDEN, LATENT = 784, 400, 20
NLL_BATCH = 500  # samples at once, the fastest of 100, 500 and 1000 here


class Encoder(models.nn.BaseEncoder):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
        self.mu, self.logvar = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> Any:
        hidden = self.hidden(x)
        return ModelOutput(embedding=self.mu(hidden), log_covariance=self.logvar(hidden))


class Decoder(models.nn.BaseDecoder):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.layers(z))


def prepared_trainer(images: np.ndarray[Any, np.dtype[np.uint8]], folder: str) -> Any:
    """The trainer as TrainingPipeline makes it, where train() has it before its first epoch."""
    model_config = models.VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    model = models.VAE(model_config, encoder=Encoder(), decoder=Decoder())
    config = trainers.BaseTrainerConfig(folder, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True)
    # TrainingPipeline leaves the scale of the pixels to its user: pythae's examples divide by 255 first.
    data = DataProcessor().process_data(images.astype(np.float32) / 255)
    trainer = trainers.BaseTrainer(model, DataProcessor.to_dataset(data), training_config=config)
    trainer.prepare_training()
    trainer.callback_handler.on_train_begin(training_config=config, model_config=trainer.model_config)
    return trainer


def timed(images: int, run: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    run()
    return {"images": images, "seconds": time.perf_counter() - start}


def main(path: str) -> None:
    logging.disable(logging.INFO)  # what pythae tells of its progress
    images = np.load(path, allow_pickle=False)
    assert images.dtype == np.uint8 and images.shape[1:] == (PIXELS,), f"{path} holds {images.dtype} {images.shape}"
    data = torch.from_numpy(images.astype(np.float32) / 255)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        trainer = prepared_trainer(images, folder)
        events, config, loader = trainer.callback_handler, trainer.training_config, trainer.train_loader
        for epoch, line in enumerate(sys.stdin):
            answer: dict[str, Any] = {name: version(name) for name in ("pythae", "torch")}
            if line.startswith("nll"):
                count, samples = map(int, line.split()[1:])
                trainer.model.eval()
                nll = functools.partial(trainer.model.get_nll, data[:count], n_samples=samples, batch_size=NLL_BATCH)
                with contextlib.redirect_stdout(nowhere), torch.no_grad():  # it counts, a line a thousand images
                    answer = timed(count, nll)
            elif line.startswith("epoch"):
                events.on_epoch_begin(training_config=config, epoch=epoch, train_loader=loader, eval_loader=None)
                with contextlib.redirect_stderr(nowhere):  # tqdm's bar
                    answer = timed(len(images), functools.partial(trainer.train_step, epoch))
                events.on_epoch_end(training_config=config)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
