"""Warnings about pixels that do not fit the likelihood: what to consider, and which parameter would fit them better."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.params import Params


def caveats(values: str, image_shape: Sequence[int], params: Params) -> list[str]:
    """Returns one sentence per warning.

    Args:
        values: kind of the pixels: ``binary``, only black and white, or ``grey``.
        image_shape: [H, W] or [C, H, W].
    """
    likelihood, binary = params.model.likelihood, values == "binary"
    are, better = "grey", "binarize: true draws black and white; model.likelihood: categorical models grey levels"
    if len(image_shape) == 3:
        are, better = "in colour", "model.likelihood: gaussian models their values, categorical their levels"
    checks = [
        (
            likelihood == "bernoulli" and not binary and not params.binarize,
            f"the pixels are {are}, and the Bernoulli likelihood reads them as probabilities of white: its ELBO and NLL "
            f"compare only with those of other models that do so ({better})",
        ),
        (binary and params.binarize, "the pixels are black and white already: binarize: true has no effect"),
        (
            likelihood == "gaussian",
            "the Gaussian likelihood is a density, of pixels in [0, 1] known to 1/255: its ELBO and NLL can have either sign "
            "and compare only with those of other densities",
        ),
        (
            likelihood == "gaussian" and binary,
            "the pixels are black and white: model.likelihood: bernoulli fits them better",
        ),
        (
            likelihood == "categorical" and binary and params.model.levels > 2,
            f"the pixels are black and white: of {params.model.levels} model.levels only two are used",
        ),
        (
            bool(params.model.keys_of_classes()),
            "ELBO and NLL are of p(x|y), of an image given its class: they compare only with those of models that have it too",
        ),
    ]
    return [warning for holds, warning in checks if holds]
