"""Range and kind of the training pixels, and a check that they are not constant or almost black."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.params import Data
from pipeline.config.paths import PARAMS
from pipeline.data.prepared import Bytes
from pipeline.data.readers.raw import Images
from pipeline.runtime.errors import UserError


class PixelStats:
    """Statistics of the pixels that pass through :meth:`watch`."""

    def __init__(self) -> None:
        self.low, self.high, self.grey = 255, 0, False

    def watch(self, batches: Iterator[Bytes]) -> Iterator[Bytes]:
        for batch in batches:
            self.low, self.high = min(self.low, int(batch.min())), max(self.high, int(batch.max()))
            self.grey = self.grey or bool(((batch != 0) & (batch != 255)).any())
            yield batch


def check_pixels(images: Images, stats: PixelStats, params: Data) -> None:
    """Checks that the training images are neither constant nor almost black.

    Raises:
        UserError: if no pixel exceeds a quarter of white (few-bit values, or scaled twice), or if all pixels are equal.
    """
    done = "".join(f"; {count:,} {note}" for note, count in images.notes.items() if count)
    _, value, white = images.brightest
    same = stats.low == stats.high
    if params.white is None and 0 < value < white / 4 and not (same and stats.low > 0):
        wanted = f"the value that is white, {value:g} perhaps, or {white:g} if the images are that dark"
        found = f"no training image of {params.path} has a pixel above {value:g} of {white:g}"
        raise UserError(f"{PARAMS}: data.white: expected {wanted}, since {found}, got null{done}")
    if same:
        raise UserError(f"{params.path}: expected images that differ, got {stats.low} as every pixel of training{done}")
