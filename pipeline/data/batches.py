"""Training images by row: bytes on the device, or in a memory-mapped file that is read batch by batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

import vae_ext
from pipeline.config.params import Params
from pipeline.data.prepared import Bytes, Classes, read_split
from pipeline.data.tensors import Examples, as_float, labels_to_device, to_device
from pipeline.runtime.noise_streams import Stream, stream_key

Batch = tuple[Examples, Tensor]


class InMemoryImages:
    """All images on the device, with their classes if given: int [N]."""

    def __init__(self, images: Bytes, device: torch.device, labels: Classes | None = None) -> None:
        self.pixels, self.labels = to_device(images, device), labels_to_device(labels, device)
        self.rows_device = device

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor, draw_key: Tensor | None = None, row_offset: int = 0) -> Batch:
        """Returns a batch.

        Args:
            rows: int64 [B], on ``rows_device``.
            draw_key: key of the noise that draws each pixel black or white; None: pixels are not binarized.
            row_offset: first row of that noise.

        Returns:
            the images, with pixels as bytes [B, D]; and the pixels as float32 [B, D] in [0, 1].
        """
        pixels, x = vae_ext.take_pixels(self.pixels, rows, draw_key, row_offset=row_offset)
        return Examples(pixels, None if self.labels is None else self.labels[rows]), x


class MemmapImages:
    """Images that stay on disk: each batch is read on demand, or in the background while the previous one is used.

    Args:
        images: [N, H, W], memory-mapped.
        device: destination of the batches.
        labels: class numbers [N], if batches should include them.
    """

    def __init__(self, images: Bytes, device: torch.device, labels: Classes | None = None) -> None:
        self.images, self.device = images, device
        self.labels = labels_to_device(labels, torch.device("cpu"))
        self.rows_device = torch.device("cpu")
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.ahead: tuple[Tensor, Future[Bytes]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor, draw_key: Tensor | None = None, row_offset: int = 0) -> Batch:
        """As :meth:`InMemoryImages.take`."""
        ahead, self.ahead = self.ahead, None
        found = ahead[1].result() if ahead is not None and torch.equal(ahead[0], rows) else self._read(rows)
        pixels = torch.from_numpy(found).flatten(1).to(self.device)
        if draw_key is not None:
            pixels = vae_ext.binarize(pixels, draw_key, row_offset=row_offset)
        return Examples(pixels, None if self.labels is None else self.labels[rows].to(self.device)), as_float(pixels)

    def read_ahead(self, rows: Tensor) -> None:
        """Starts reading the rows of the next :meth:`take` in the background."""
        self.ahead = rows, self.reader.submit(self._read, rows)

    def _read(self, rows: Tensor) -> Bytes:
        # Reads in file order, which saves seeks, then restores the order of ``rows``.
        order = np.argsort(rows.numpy())
        found = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        found[order] = self.images[rows.numpy()[order]]
        return found


def byte_means(images: Bytes) -> Tensor:
    """Returns the mean byte of each pixel, float64 [D]; its sums are of integers, so device and order do not change a bit."""
    return torch.from_numpy(images.reshape(len(images), -1).sum(axis=0, dtype=np.int64) / len(images))


def test_examples(params: Params, device: torch.device) -> Examples:
    """Returns the test set; with ``binarize``, drawn once with a fixed key."""
    split = read_split("test")
    pixels = to_device(split.images, device)
    if params.binarize:
        pixels = vae_ext.binarize(pixels, stream_key(params.seed, Stream.BINARIZE_TEST, device))
    return Examples(pixels, labels_to_device(split.labels, device))
