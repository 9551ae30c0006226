# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A VAE in five changes
#
# The tutorial with a smaller model and fewer images: it trains nine models, in a few minutes. The model, the objectives and
# the evaluation are the pipeline's own; the training loop is written out. Numbers are in nats per image, and differ from those
# of the tutorial's pages, whose models were trained on all of MNIST.

# %%
import os
import sys
from pathlib import Path

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "params.yaml").is_file())
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import vae_ext
from pipeline.config.params import Params
from pipeline.config.plain_yaml import read_yaml
from pipeline.config.recipes import merged
from pipeline.config.validation import load_params, validated
from pipeline.data.dataset import read_dataset
from pipeline.data.tensors import as_float
from pipeline.evaluation.importance import log_likelihood_bounds
from pipeline.evaluation.metrics import ACTIVE_VARIANCE
from pipeline.figures.grids import pictures, show, tiled
from pipeline.figures.latent import scatter
from pipeline.models.objectives import elbo_terms, objective_terms
from pipeline.models.vae import VAE

# %matplotlib inline

# %%
IMAGES, EPOCHS = 10_000, 10  # of training
TEST_IMAGES, SAMPLES = 500, 50  # of evaluation

raw = read_dataset(load_params().data)


def bytes_of(split, count):
    """The first images of a split: bytes [count, 784]."""
    return torch.from_numpy(raw.splits[split].images.read(np.arange(count))).flatten(1)


train, test = bytes_of("train", IMAGES), bytes_of("test", TEST_IMAGES)
labels = raw.splits["test"].classes[:TEST_IMAGES]

# %% [markdown]
# ## The ELBO, term by term
#
# An untrained model, and a batch of images. The encoder gives $\mu$ and $\log \sigma^2$ of $q(z|x)$, side by side.

# %%
model = VAE((28, 28), load_params().model)
x = as_float(test[:8])
mu, logvar = model.encode(x)
mu.shape, logvar.shape

# %% [markdown]
# The reparameterisation $z = \mu + \sigma \varepsilon$ and the rate, $KL(q(z|x) \,\|\, p(z))$ in nats: by their formulas, and
# by the operator that does both in one pass. The noise is a function of the key and of the element's place.

# %%
key = vae_ext.noise_key(seed=1)
eps = vae_ext.standard_normal(key, *mu.shape)
z = mu + torch.exp(logvar / 2) * eps
rate = (mu**2 + logvar.exp() - 1 - logvar).sum(-1) / 2

fused_z, fused_rate = vae_ext.reparam_kl(mu, logvar, key)
torch.testing.assert_close((fused_z, fused_rate), (z, rate))
rate

# %% [markdown]
# The distortion is $-\log p(x|z)$, here of a Bernoulli likelihood: the cross-entropy of the image and the decoder's output,
# summed over pixels. The ELBO is minus the sum of the two.

# %%
logits = model.decode(z)
distortion = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

torch.testing.assert_close(-model.likelihood.log_prob(logits, test[:8]), distortion)
torch.testing.assert_close(elbo_terms(model, test[:8], key).elbo, -(distortion + rate))
-(distortion + rate)


# %% [markdown]
# ## A training loop
#
# `changes` has the form of a recipe: what differs from `params.yaml`.


# %%
def trained(changes):
    """A model of params.yaml with these changes, one hidden layer, after EPOCHS epochs."""
    smaller = {"model": {"hidden": [200]}, "train": {"epochs": EPOCHS}}
    params = validated(Params, merged(merged(read_yaml(Path("params.yaml")), smaller), changes), "params.yaml")
    torch.manual_seed(params.seed)
    model = VAE((28, 28), params.model)
    model.init_output_bias(as_float(train).mean(0))
    optimizer = torch.optim.Adam(model.parameters(), params.train.learning_rate)
    key = vae_ext.noise_key(params.seed)
    for _ in range(params.train.epochs):
        for rows in torch.randperm(len(train)).split(params.train.batch_size):
            pixels = train[rows]
            loss, _ = objective_terms(
                model, pixels, as_float(pixels), key, params.beta, params.objective, params.objective.samples
            )
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            key[1] += 1  # the next step's noise
    return model


@torch.no_grad()
def measured(model):
    """What the evaluate stage reports first, on the test images."""
    key = vae_ext.noise_key(2)
    terms = elbo_terms(model, test, key)
    found = {"distortion": terms.distortion.mean().item()}
    if not model.is_deterministic:
        found |= {"rate": terms.rate.mean().item(), "ELBO": terms.elbo.mean().item()}
        found["NLL"] = -log_likelihood_bounds(model, test, key, [SAMPLES]).mean().item()
    mu = model.posterior(as_float(test))[:, : model.latent_dim]
    return {**found, "active units": int((mu.var(0) > ACTIVE_VARIANCE).sum())}


def table(models):
    """A row for each model."""
    return pd.DataFrame({name: measured(model) for name, model in models.items()}).T.round(2)


def drawn(models):
    """Samples from the prior, and what they decode to, of each model."""
    _, axes = plt.subplots(1, len(models), figsize=(3.2 * len(models), 3.4), squeeze=False)
    for ax, (name, model) in zip(axes[0], models.items(), strict=True):
        show(ax, tiled(pictures(model, vae_ext.standard_normal(vae_ext.noise_key(3), 36, model.latent_dim)), 6))
        ax.set_title(name)


default = trained({})
table({"default": default})

# %% [markdown]
# ## 1. beta
#
# The objective is distortion + beta x rate. A low beta spends rate to lower the distortion; a high one saves rate, at the cost
# of distortion.

# %%
betas = {"beta 0.1": trained({"beta": 0.1}), "beta 1": default, "beta 10": trained({"beta": 10.0})}
drawn(betas)
table(betas)

# %% [markdown]
# ## 2. latent_dim
#
# Two dimensions can be drawn whole, and hold far less than twenty.

# %%
plane = trained({"model": {"latent_dim": 2}})
with torch.no_grad():
    codes = plane.encode(as_float(test))[0]
_, ax = plt.subplots(figsize=(4.5, 4.5))
scatter(ax, codes.double().numpy(), labels, 10)
ax.set(title="codes of the test images, by class", xlabel="z 0", ylabel="z 1")
table({"latent_dim 2": plane, "latent_dim 20": default})

# %% [markdown]
# ## 3. The likelihood
#
# With a Gaussian, whose sigma is learned, log p(x|z) is a density: distortion, ELBO and NLL are on another scale, and compare
# with no Bernoulli model's.

# %%
likelihoods = {"bernoulli": default, "gaussian": trained({"model": {"likelihood": "gaussian"}})}
drawn(likelihoods)
table(likelihoods)

# %% [markdown]
# ## 4. No KL
#
# With beta 0 the KL costs nothing; a deterministic posterior has none. Both models reconstruct, but samples from the prior are
# not where the codes are.

# %%
autoencoders = {
    "default": default,
    "beta 0": trained({"beta": 0.0}),
    "autoencoder": trained({"model": {"posterior": "deterministic"}}),
}
drawn(autoencoders)
table(autoencoders)

# %% [markdown]
# ## 5. The importance-weighted bound
#
# Five samples of z for each image: the ELBO averages their log-weights, the importance-weighted bound takes the logarithm of
# their average, and is tighter. In so short a training it shows in the posterior: less rate, more distortion, a lower ELBO at
# about the same NLL.

# %%
bounds = {
    "ELBO, 5 samples": trained({"objective": {"samples": 5}}),
    "importance-weighted, 5 samples": trained({"objective": {"samples": 5, "bound": "iwae"}}),
}
table(bounds)
