"""Selects the kind of model that the parameters specify."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.params import Model
from pipeline.models.conditional import ConditionalVAE
from pipeline.models.two_layers import TwoLayerVAE
from pipeline.models.vae import VAE


def build_model(image_shape: Sequence[int], params: Model, classes: int) -> VAE:
    """Builds the untrained model that the parameters specify.

    Args:
        image_shape: [H, W] or [C, H, W].
        params: of the model.
        classes: number of classes of the images; 0 if they have none.
    """
    if params.top is not None:
        return TwoLayerVAE(image_shape, params, classes)
    return (ConditionalVAE if params.condition == "label" else VAE)(image_shape, params, classes)
