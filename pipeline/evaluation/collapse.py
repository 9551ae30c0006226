"""Posterior collapse, in words: whether the decoder has learned to do without z."""

from __future__ import annotations

import pandas as pd


def verdict(dimensions: pd.DataFrame) -> str:
    """What a table of latent dimensions (``active``; ``kl`` in nats, unless of an autoencoder) says.

    An unused dimension is a part of the posterior that is the prior, whatever the image (Bowman et al.: Generating Sentences
    from a Continuous Space. 2016): some are the price of a latent space that is larger than the model needs.
    """
    active, count = int(dimensions["active"].sum()), len(dimensions)
    if "kl" not in dimensions:  # codes without a prior have no scale: a small one may say as much as a large one
        return f"{active} of {count} dimensions of the code vary"
    if active == 0:
        return f"collapsed: none of {count} dimensions is active, z tells the decoder nothing of the image"
    carried = dimensions.loc[dimensions["active"], "kl"].sum() / dimensions["kl"].sum()
    used = f"{active} of {count} dimensions are active and carry {carried:.1%} of the rate"
    return f"not collapsed: {used}" if active == count else f"not collapsed, but {count - active} are unused: {used}"
