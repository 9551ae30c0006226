"""Posterior collapse, in words: whether the posterior is the prior, whatever the image."""

from __future__ import annotations

import pandas as pd

# In nats. It bounds what z tells of an image: with less, z tells fewer than three images apart.
LEAST_RATE = 1.0


def verdict(dimensions: pd.DataFrame) -> str:
    """What a table of latent dimensions (``active``; ``kl`` in nats, unless of an autoencoder) says.

    An unused dimension is a part of the posterior that is the prior, whatever the image (Bowman et al.: Generating Sentences
    from a Continuous Space. 2016): some are the price of a latent space that is larger than the model needs.

    It is about the encoder alone, and of one moment: a model that has not been trained yet has active dimensions too, by its
    random weights, and one whose posterior has collapsed looks like one that has hardly been trained.
    """
    active, count = int(dimensions["active"].sum()), len(dimensions)
    if "kl" not in dimensions:  # codes without a prior have no scale: a small one may say as much as a large one
        return f"{active} of {count} dimensions of the code vary"
    rate = dimensions["kl"].sum()
    if active == 0 or rate < LEAST_RATE:
        numbers = f"{active} of {count} dimensions are active, and the rate is {rate:.3g} nats"
        return f"collapsed or untrained: {numbers}"
    carried = dimensions.loc[dimensions["active"], "kl"].sum() / rate
    used = f"{active} of {count} dimensions are active and carry {carried:.1%} of the rate, {rate:.3g} nats"
    return used if active == count else f"{used}; {count - active} {'is' if count - active == 1 else 'are'} unused"
