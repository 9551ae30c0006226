"""The likelihoods p(x|z) that a decoder's output can parametrise: Bernoulli, Gaussian, categorical.

Each takes what the decoder gives, [..., B, outputs D] for D pixels, and the images as bytes [B, D]; log-likelihoods are summed
over pixels, in nats. The Gaussian's is of a density over x in [0, 1], the others' are of probabilities: only numbers of one
kind compare.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config.params import Model
from pipeline.data.tensors import as_float
from vae_ext import bernoulli_log_prob, standard_normal

BETWEEN = 0.2  # times m (1 - m): the share of levels between black and white, of a categorical that starts


class Likelihood(nn.Module):
    """What the three have in common; ``outputs`` is how many numbers the decoder gives per pixel."""

    outputs = 1

    def start(self, mean: Tensor) -> Tensor:
        """What the untrained decoder should give, [outputs D], where ``mean`` is the data's mean image [D] in [0, 1]."""
        raise NotImplementedError

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """log p(x|z), [..., B], of decoded [..., B, outputs D] and bytes [B, D]."""
        raise NotImplementedError

    def mean(self, decoded: Tensor) -> Tensor:
        """E[x|z], [..., D]; x in [0, 1]."""
        raise NotImplementedError

    def sample(self, decoded: Tensor, key: Tensor) -> Tensor:
        """x from p(x|z), [B, D], of decoded [B, outputs D] and a key of the noise."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """A pixel is white with probability sigmoid(logit).

    Grey values are taken as they are, as probabilities of a white pixel: the cross-entropy that VAE examples report as the
    log-likelihood of grey MNIST. Compare such numbers with each other, not with those of binarised images.
    """

    def start(self, mean: Tensor) -> Tensor:
        """logit(clip(mean, 0.001, 0.999)), as in the code of Burda et al. 2016."""
        return torch.logit(mean.clamp(0.001, 0.999))

    def log_prob(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        """Sum of x log s + (1 - x) log(1 - s), s = sigmoid(logit): from the logits, so finite where s rounds to 0 or 1."""
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
        """The mean; and, where sigma is learned, the spread about it of black and white pixels of that mean."""
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
    """A pixel has one of so many levels of grey, with softmax(logits) as their probabilities. Level by level, then by pixel.

    Args:
        levels: of grey; bytes are divided among them evenly. With 256, each is one.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.outputs = levels

    def start(self, mean: Tensor) -> Tensor:
        """White with probability m, black with 1 - m, and of both a share for the levels between: most pixels are at an end."""
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
        """By the distribution function's inverse: the first level whose cumulative probability exceeds a uniform number."""
        cumulative = decoded.unflatten(-1, (self.outputs, -1)).softmax(-2).cumsum(-2)
        level = (uniform(key, cumulative[:, 0])[:, None] >= cumulative).sum(-2).clamp(max=self.outputs - 1)
        return self.grey(decoded)[level]

    def grey(self, like: Tensor) -> Tensor:
        """The grey value in [0, 1] that each level stands for."""
        return torch.linspace(0, 1, self.outputs, dtype=like.dtype, device=like.device)


def at_least_float32(decoded: Tensor) -> Tensor:
    """In float32 at least: a sum over pixels in bfloat16 would be rounded to whole nats."""
    return decoded.to(torch.promote_types(decoded.dtype, torch.float32))


def uniform(key: Tensor, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1], of the shape [B, D]: normal ones through their distribution function."""
    probability: Tensor = torch.special.ndtr(standard_normal(key, *like.shape))
    return probability.to(like.dtype)


def likelihood_of(params: Model) -> Likelihood:
    """The one that the parameters name."""
    if params.likelihood == "gaussian":
        return Gaussian(params.decoder_sigma)
    return Categorical(params.levels) if params.likelihood == "categorical" else Bernoulli()
