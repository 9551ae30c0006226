"""Describes posterior collapse: whether the posterior equals the prior for every image."""

from __future__ import annotations

import pandas as pd

# In nats. The rate bounds the mutual information of z and x: with less, z distinguishes fewer than three images.
LEAST_RATE = 1.0


def verdict(dimensions: pd.DataFrame) -> str:
    """Summarises a table of latent dimensions (``active``; ``kl`` in nats, unless for an autoencoder).

    In an unused dimension the posterior equals the prior for every image (Bowman et al.: Generating Sentences from a Continuous
    Space. 2016); some are normal in a latent space that is larger than needed.

    The verdict concerns only the encoder at one time: an untrained model has active dimensions too, from its random weights,
    and a collapsed posterior looks like that of a hardly trained model.
    """
    active, count = int(dimensions["active"].sum()), len(dimensions)
    if "kl" not in dimensions:  # codes without a prior have no scale: a small one may carry as much information as a large one
        return f"{active} of {count} dimensions of the code vary"
    rate = dimensions["kl"].sum()
    if active == 0 or rate < LEAST_RATE:
        numbers = f"{active} of {count} dimensions are active, and the rate is {rate:.3g} nats"
        return f"collapsed or untrained: {numbers}"
    carried = dimensions.loc[dimensions["active"], "kl"].sum() / rate
    used = f"{active} of {count} dimensions are active and carry {carried:.1%} of the rate, {rate:.3g} nats"
    return used if active == count else f"{used}; {count - active} {'is' if count - active == 1 else 'are'} unused"
