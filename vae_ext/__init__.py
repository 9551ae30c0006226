"""The reparameterised sample and the Gaussian KL in one pass, with bitwise the same noise on every device."""

from typing import TYPE_CHECKING

from vae_ext.backend import BackendError, backend, backend_report
from vae_ext.bernoulli import bernoulli_log_prob, binarize, take_pixels
from vae_ext.noise import noise_key, standard_normal
from vae_ext.ops import reparam_kl, reparam_kl_packed, reparam_log_ratio
from vae_ext.source import package_version

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

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Reads ``__version__`` on demand, so that importing the package need not read a file."""
        if name == "__version__":
            return package_version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
