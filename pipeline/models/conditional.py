"""The conditional VAE: encoder and decoder have the image's class y as an additional input.

q(z|x, y) and p(x|z, y): z then encodes what the class does not determine (Sohn, Lee, Yan: Learning Structured Output
Representation using Deep Conditional Generative Models. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from pipeline.models.vae import VAE


class ConditionalVAE(VAE):
    """A VAE whose first linear layers also take the one-hot class: after the encoder's convolutions, and beside z.

    Args:
        image_shape, params: as in :class:`VAE`.
        classes: number of classes.
    """

    is_conditional = True

    def __init__(self, image_shape: Sequence[int], params: Model, classes: int) -> None:
        super().__init__(image_shape, params, classes, context=classes)
        self.first_linear = next(i for i, layer in enumerate(self.encoder) if isinstance(layer, nn.Linear))

    def encoder_output(self, x: Tensor, labels: Tensor | None) -> Tensor:
        features = self.encoder[: self.first_linear](x)
        output: Tensor = self.encoder[self.first_linear :](self._with_class(features, labels))
        return output

    def decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self._with_class(z, labels)

    def _with_class(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Appends the one-hot class: [..., B, D] and labels [B] -> [..., B, D + classes]."""
        if labels is None:
            raise ValueError("label: expected the class of each image, which this model is conditional on, got none")
        one_hot = (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(values.dtype)
        return torch.cat([values, one_hot.expand(*values.shape[:-1], self.classes)], -1)
