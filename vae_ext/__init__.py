"""The reparameterised sample and the Gaussian KL in one pass, with noise that is the same bits everywhere."""

from vae_ext.backend import BackendError, backend, backend_report
from vae_ext.bernoulli import bernoulli_log_prob, binarize, take_pixels
from vae_ext.noise import noise_key, standard_normal
from vae_ext.ops import reparam_kl, reparam_kl_packed, reparam_log_ratio

__all__ = [
    "BackendError",
    "backend",
    "backend_report",
    "bernoulli_log_prob",
    "binarize",
    "noise_key",
    "reparam_kl",
    "reparam_kl_packed",
    "reparam_log_ratio",
    "standard_normal",
    "take_pixels",
]
