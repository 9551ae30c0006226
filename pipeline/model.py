"""The variational autoencoder: an encoder to mu and logvar, a decoder to logits, both multilayer perceptrons."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.cli import UserError
from pipeline.files import whole_file
from pipeline.params import Model, Params


class VAE(nn.Module):
    """q(z|x) = N(mu, exp(logvar)) by the encoder, the parameters of p(x|z) by the decoder, p(z) = N(0, 1).

    Args:
        pixels: of an image, flattened.
        params: widths, latent dimension and the bound on logvar.
    """

    def __init__(self, pixels: int, params: Model) -> None:
        super().__init__()
        self.pixels = pixels
        self.latent_dim = params.latent_dim
        self.logvar_bound = params.logvar_bound
        widths = [pixels, *params.hidden]
        self.encoder = mlp([*widths, 2 * params.latent_dim])
        self.decoder = mlp([params.latent_dim, *reversed(widths)])
        # Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks. 2010.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Sets the output bias so that the untrained decoder gives about the data's mean image.

        logit(clip(mean, 0.001, 0.999)), as in the code of Burda et al. 2016. Worth a nat at the end of training: the
        first epochs are not spent on the black border.
        """
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, pixels] in [0, 1] -> mu [B, latent_dim], logvar [B, latent_dim].

        logvar is bounded here, before z, KL and the gradients are made of it, so that they agree on it.
        """
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        return mu, logvar.clamp(-self.logvar_bound, self.logvar_bound)

    def decode(self, z: Tensor) -> Tensor:
        """z [..., latent_dim] -> logits [..., pixels]."""
        logits: Tensor = self.decoder(z)
        return logits


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths, ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def save_model(path: Path, model: VAE, params: Params) -> None:
    """Writes the weights as safetensors, with the parameters that made them in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole_file(path) as temporary:
        # One key: safetensors keeps the header's entries in no fixed order, and the file should be the same bytes each time.
        save_file(tensors, temporary, metadata={"vae": json.dumps({"pixels": model.pixels, "params": params.model_dump()})})


def load_model(path: Path, device: torch.device) -> VAE:
    """The model that :func:`save_model` wrote, ready to evaluate.

    Raises:
        UserError: if the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            made = json.loads((file.metadata() or {})["vae"])
            model = VAE(made["pixels"], Params.model_validate(made["params"]).model).to(device)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro train`") from None
    # RuntimeError: tensors that do not fit the model; ValueError: metadata that is not JSON, or not these parameters.
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected weights that this version's train stage wrote: {reason}") from None
    return model.eval()
