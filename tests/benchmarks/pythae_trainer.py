"""pythae's own trainer on the layers 784-400-20, timed epoch by epoch for a process that drives it (against_pythae.py).

`python pythae_trainer.py IMAGES.npy`, in an environment with pythae and torch but without this project, reads uint8 images
[N, 784] and sets everything up like pythae's TrainingPipeline and BaseTrainer.train(). It answers "epoch" with the seconds of
one epoch, and "nll N S" with those of get_nll() for the first N images with S samples each. An epoch is one call of
train_step(): its DataLoader, its steps and its progress bar, whose output is discarded; not what train() does between epochs,
such as copying the best model.
"""

from __future__ import annotations

import contextlib
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
Images = np.ndarray[Any, np.dtype[np.float32]]
PIXELS, HIDDEN, LATENT = 784, 400, 20
NLL_BATCH = 500  # samples per batch, the fastest of 100, 500 and 1000 here


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


def prepared_trainer(images: Images, folder: str) -> Any:
    """Returns the trainer as TrainingPipeline makes it, in the state before train()'s first epoch."""
    model_config = models.VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    model = models.VAE(model_config, encoder=Encoder(), decoder=Decoder())
    config = trainers.BaseTrainerConfig(folder, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True)
    dataset = DataProcessor.to_dataset(DataProcessor().process_data(images))
    trainer = trainers.BaseTrainer(model, dataset, training_config=config)
    trainer.prepare_training()
    trainer.callback_handler.on_train_begin(training_config=config, model_config=trainer.model_config)
    return trainer


def timed(run: Callable[..., object], *arguments: object, **options: object) -> float:
    start = time.perf_counter()
    run(*arguments, **options)
    return time.perf_counter() - start


def main(path: str) -> None:
    logging.disable(logging.INFO)  # pythae's progress messages
    # TrainingPipeline does not scale pixels: pythae's examples divide by 255 first.
    images = np.load(path, allow_pickle=False).astype(np.float32) / 255
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        trainer = prepared_trainer(images, folder)
        events, config, loader = trainer.callback_handler, trainer.training_config, trainer.train_loader
        print(f"pythae {version('pythae')}, torch {version('torch')}", file=sys.stderr)
        for epoch, line in enumerate(sys.stdin):
            kind, *counts = line.split()
            # It counts images, one line per thousand, and draws tqdm's bar.
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                if kind == "nll":
                    trainer.model.eval()
                    data, samples = torch.from_numpy(images[: int(counts[0])]), int(counts[1])
                    with torch.no_grad():
                        seconds = timed(trainer.model.get_nll, data, n_samples=samples, batch_size=NLL_BATCH)
                else:
                    events.on_epoch_begin(training_config=config, epoch=epoch, train_loader=loader, eval_loader=None)
                    seconds = timed(trainer.train_step, epoch)
                    events.on_epoch_end(training_config=config)
            print(seconds, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
