"""Compares the two estimators of the ELBO: with the KL in closed form, and by Monte Carlo."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pipeline.data.tensors import as_float
from pipeline.figures.style import figure
from pipeline.models.vae import VAE
from pipeline.runtime.noise_streams import Stream, stream_key

SAMPLES = (1, 2, 5, 10, 20, 50)  # per image, for both estimators
REPEATS = 100


@torch.no_grad()
def estimators(model: VAE, pixels: Tensor) -> pd.DataFrame:
    """Returns the rate in closed form and by Monte Carlo for each number of samples: mean, standard error, and variances.

    Kingma, Welling 2014, section 2.3: the ELBO as the mean over samples of log p(x|z), minus the KL in closed form, or of
    log p(x|z) + log p(z) - log q(z|x). Variances are per image, over repetitions with other noise, averaged over images.
    """
    posterior = model.posterior(as_float(pixels))
    rows = []
    for samples in SAMPLES:
        key = stream_key(0, Stream.EVALUATE, pixels.device, step=samples)
        z, log_ratio = model.draw_with_log_ratio(posterior, key, num_samples=samples * REPEATS)
        _, kl = model.draw_with_kl(posterior, key)
        log_p = torch.stack([model.likelihood.log_prob(model.decode(one), pixels) for one in z])
        by_samples = -log_ratio.double().view(REPEATS, samples, -1).mean(1)
        log_p = log_p.double().view(REPEATS, samples, -1).mean(1)
        rows.append(
            {
                "samples": samples,
                "kl_closed_form": kl.double().mean().item(),
                "kl_monte_carlo": by_samples.mean().item(),
                "standard_error": by_samples.mean(1).std().item() / REPEATS**0.5,
                "variance_of_kl": by_samples.var(0).mean().item(),
                "variance_of_elbo_closed_form": log_p.var(0).mean().item(),
                "variance_of_elbo_monte_carlo": (log_p - by_samples).var(0).mean().item(),
            }
        )
    return pd.DataFrame(rows)


def estimators_figure(path: Path, table: pd.DataFrame) -> None:
    """Draws both estimators against the number of samples: the KL's mean, and the variances of KL and ELBO."""
    with figure(path, width=10, height=3.6) as fig:
        left, right = fig.subplots(1, 2)
        kl, error = table["kl_monte_carlo"], 3 * table["standard_error"]
        left.errorbar(table["samples"], kl, error, fmt="o", label="Monte Carlo, ± 3 standard errors")
        left.axhline(table["kl_closed_form"][0], color="0.4", label="closed form")
        left.set(title="The same mean", xlabel="samples of z", ylabel="KL, nats per image", xscale="log")
        for column, label in {
            "variance_of_elbo_monte_carlo": "ELBO, KL by Monte Carlo",
            "variance_of_elbo_closed_form": "ELBO, KL in closed form",
            "variance_of_kl": "KL by Monte Carlo",
        }.items():
            right.plot(table["samples"], table[column], "o-", label=label)
        right.set(title="Another variance", xlabel="samples of z", ylabel="nats²", xscale="log", yscale="log")
        left.legend()
        right.legend()
