"""Stage 3: what the model achieves on the test set, in nats an image."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.cli import run_stage
from pipeline.data import as_float
from pipeline.device import choose_device
from pipeline.files import whole_file, write_json
from pipeline.images import test_pixels
from pipeline.model import VAE
from pipeline.objective import Stream, elbo_terms, log_likelihood_bound, stream_key
from pipeline.params import load_params
from pipeline.paths import DEFAULT, Place
from pipeline.weights import load_model
from vae_ext import reparam_kl

# A unit is active if its posterior mean varies with the image by more than this (Burda et al. 2016, section 5.1).
ACTIVE_VARIANCE = 0.01


@torch.no_grad()
def bounds(model: VAE, pixels: Tensor, seed: int, batch_size: int, samples: int) -> dict[str, float]:
    """Test-set averages of the ELBO, its terms, and the importance-weighted bound as a negative log-likelihood.

    Of an autoencoder, which assigns no probability to an image, the distortion alone.
    """
    device = pixels.device
    evaluate_key = stream_key(seed, Stream.EVALUATE, device)
    importance_key = stream_key(seed, Stream.IMPORTANCE, device)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    row = 0
    with tqdm(total=len(pixels), unit=" images", disable=None, desc=f"bounds, {samples} samples an image") as bar:
        for batch in pixels.split(batch_size):
            terms = elbo_terms(model, batch, evaluate_key, row_offset=row)
            sums[0] += terms.distortion.sum()
            sums[1] += terms.rate.sum()
            if not model.is_point:
                sums[2] += log_likelihood_bound(model, batch, importance_key, samples, row_offset=row).sum()
            row += len(batch)
            bar.update(len(batch))
    distortion, rate, log_p_mean = (sums / len(pixels)).tolist()
    if model.is_point:
        return {"distortion": distortion}
    return {"elbo": -(distortion + rate), "distortion": distortion, "rate": rate, "nll": -log_p_mean}


@torch.no_grad()
def dimensions(model: VAE, pixels: Tensor, batch_size: int) -> pd.DataFrame:
    """A row a latent dimension: its KL averaged over images, the variance of its posterior mean, and whether it is active.

    An autoencoder has no KL.
    """
    means, kls = [], []
    for batch in pixels.split(batch_size):
        posterior = model.posterior(as_float(batch))
        means.append(posterior[:, : model.latent_dim].double())
        if not model.is_point:
            key = stream_key(0, Stream.EVALUATE, posterior.device)
            mu, logvar = posterior.chunk(2, dim=-1)
            _, kl = reparam_kl(mu, logvar, key, kl_reduction="none", scale=model.scale)
            kls.append(kl.double())
    variance = torch.cat(means).var(dim=0).cpu().numpy()
    table = pd.DataFrame({"mean_variance": variance, "active": variance > ACTIVE_VARIANCE}).rename_axis("dimension")
    if kls:
        table.insert(0, "kl", torch.cat(kls).mean(dim=0).cpu().numpy())
    return table


def main(place: Place = DEFAULT) -> None:
    params = load_params(place.params)
    device = choose_device()
    model = load_model(place.weights, device)
    pixels = test_pixels(params, device)

    by_dimension = dimensions(model, pixels, params.evaluate.batch_size)
    metrics: dict[str, float | int] = {
        **bounds(model, pixels, params.seed, params.evaluate.batch_size, params.evaluate.importance_samples),
        "active_units": int(by_dimension["active"].sum()),
    }
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    with whole_file(place.dimensions) as temporary:
        by_dimension.to_csv(temporary, float_format="%.6g")
    write_json(place.metrics, metrics)
    for name, value in metrics.items():
        print(f"{name:>14} {value:.4f}" if isinstance(value, float) else f"{name:>14} {value}")


if __name__ == "__main__":
    run_stage(main, __doc__)
