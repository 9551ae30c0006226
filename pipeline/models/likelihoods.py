"""The likelihoods p(x|z) that a decoder's output can parametrise: Bernoulli, Gaussian, categorical.

Each takes the decoder's output, [..., B, outputs D] for D pixels, and the images as bytes [B, D]; log-likelihoods are summed
over pixels, in nats. The Gaussian's are densities over x in [0, 1], the others' are probabilities; the two kinds are not
comparable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from pipeline.data.tensors import as_float
from vae_ext import bernoulli_log_prob, standard_normal

BETWEEN = 0.2  # initial probability of the levels between black and white in a categorical, as a multiple of m (1 - m)


class Likelihood(nn.Module):
    """Interface of the likelihoods; ``outputs`` is the number of decoder outputs per pixel."""

    outputs = 1

    def start(self, mean: Tensor) -> Tensor:
        """Returns initial decoder outputs, [outputs D], for the data's mean image [D] in [0, 1]."""
        raise NotImplementedError

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """Returns log p(x|z), [..., B], for decoder outputs [..., B, outputs D] and bytes [B, D]."""
        raise NotImplementedError

    def mean(self, decoded: Tensor) -> Tensor:
        """Returns E[x|z], [..., D]; x in [0, 1]."""
        raise NotImplementedError

    def sample(self, decoded: Tensor, key: Tensor) -> Tensor:
        """Samples x from p(x|z), [B, D], for decoder outputs [B, outputs D] and a noise key."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """A pixel is white with probability sigmoid(logit).

    Grey values are used directly as probabilities of a white pixel: the cross-entropy that VAE examples report as the
    log-likelihood of grey MNIST. Such numbers are comparable with each other, not with those of binarised images.
    """

    def start(self, mean: Tensor) -> Tensor:
        """Returns logit(clip(mean, 0.001, 0.999)), as in the code of Burda et al. 2016."""
        return torch.logit(mean.clamp(0.001, 0.999))

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """Sum of x log s + (1 - x) log(1 - s), s = sigmoid(logit); computed from logits, so finite where s rounds to 0 or 1."""
        return bernoulli_log_prob(decoded, pixels)

    def mean(self, decoded: Tensor) -> Tensor:
        return torch.sigmoid(decoded)

    def sample(self, decoded: Tensor, key: Tensor) -> Tensor:
        return (uniform(key, decoded) < torch.sigmoid(decoded)).to(decoded.dtype)


class Gaussian(Likelihood):
    """x = m + sigma e, e ~ N(0, 1), with one sigma for all pixels.

    Args:
        sigma: fixed; None: learned with the weights, as in Rybkin, Daniilidis, Levine: Simple and Effective VAE Training with
            Calibrated Decoders. 2021.
    """

    log_sigma: Tensor

    def __init__(self, sigma: float | None) -> None:
        super().__init__()
        self.learned = sigma is None
        log_sigma = torch.tensor(0.0 if sigma is None else math.log(sigma))
        if self.learned:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @torch.no_grad()
    def start(self, mean: Tensor) -> Tensor:
        """Returns the mean; a learned sigma is initialised to the standard deviation of black and white pixels of that mean."""
        if self.learned:
            self.log_sigma.copy_((mean * (1 - mean)).mean().clamp(min=1e-4).sqrt().log())
        return mean

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """Sum of -((x - m) / sigma)^2 / 2 - log sigma - log(2 pi) / 2."""
        decoded = at_least_float32(decoded)
        error = as_float(pixels).to(decoded.dtype) - decoded
        constant = decoded.shape[-1] * (self.log_sigma + 0.5 * math.log(2 * math.pi))
        return -0.5 * error.square().sum(-1) * torch.exp(-2 * self.log_sigma) - constant

    def mean(self, decoded: Tensor) -> Tensor:
        return decoded

    def sample(self, decoded: Tensor, key: Tensor) -> Tensor:
        return decoded + torch.exp(self.log_sigma) * standard_normal(key, *decoded.shape).to(decoded.dtype)


class Categorical(Likelihood):
    """Each pixel is one of ``levels`` grey levels with probabilities softmax(logits). Outputs are ordered by level, then pixel.

    Args:
        levels: number of grey levels; the 256 byte values are divided evenly among them.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.outputs = levels

    def start(self, mean: Tensor) -> Tensor:
        """White has probability m, black 1 - m, and both give up a fraction to the levels between: most pixels are extreme."""
        mean = mean.clamp(0.001, 0.999)
        share = BETWEEN * mean * (1 - mean) / max(1, self.outputs - 2)
        ends = torch.stack([1 - mean, mean]) - (self.outputs > 2) * BETWEEN * mean * (1 - mean) / 2
        return torch.cat([ends[:1], share.expand(self.outputs - 2, -1), ends[1:]]).log().flatten()

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """Sum of log softmax(logits)[level]."""
        logits = at_least_float32(decoded).unflatten(-1, (self.outputs, -1))
        level = (pixels.long() * self.outputs // 256)[:, None].expand(*logits.shape[:-2], 1, -1)
        log_p: Tensor = logits.gather(-2, level).squeeze(-2) - logits.logsumexp(-2)
        return log_p.sum(-1)

    def mean(self, decoded: Tensor) -> Tensor:
        probabilities: Tensor = decoded.unflatten(-1, (self.outputs, -1)).softmax(-2)
        return (probabilities * self.grey(decoded)[:, None]).sum(-2)

    def sample(self, decoded: Tensor, key: Tensor) -> Tensor:
        """Samples by inverse transform: the first level whose cumulative probability exceeds a uniform number."""
        cumulative = decoded.unflatten(-1, (self.outputs, -1)).softmax(-2).cumsum(-2)
        level = (uniform(key, cumulative[:, 0])[:, None] >= cumulative).sum(-2).clamp(max=self.outputs - 1)
        return self.grey(decoded)[level]

    def grey(self, like: Tensor) -> Tensor:
        """Returns the grey value in [0, 1] of each level."""
        return torch.linspace(0, 1, self.outputs, dtype=like.dtype, device=like.device)


def at_least_float32(decoded: Tensor) -> Tensor:
    """Converts to at least float32: a sum over pixels in bfloat16 would be rounded to whole nats."""
    return decoded.to(torch.promote_types(decoded.dtype, torch.float32))


def uniform(key: Tensor, like: Tensor) -> Tensor:
    """Returns uniform numbers in [0, 1], of shape [B, D]: normal ones mapped by their distribution function."""
    probability: Tensor = torch.special.ndtr(standard_normal(key, *like.shape))
    return probability.to(like.dtype)


def likelihood_of(params: Model) -> Likelihood:
    """Builds the likelihood that the parameters specify."""
    if params.likelihood == "gaussian":
        return Gaussian(params.decoder_sigma)
    return Categorical(params.levels) if params.likelihood == "categorical" else Bernoulli()
