"""The optimisers by name, each on all parameters as one tensor.

They call the functions under torch.optim's classes: the classes' overhead exceeds the arithmetic of a small model, and they
hide the flag that makes the fused kernels skip a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from pipeline.config.params import Train

MOMENTS = ("exp_avg", "exp_avg_sq")
# Constants of torch.optim.
RMSPROP_ALPHA = 0.99
MUON_MOMENTUM, MUON_SCALE = 0.95, 0.2
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """Updates one tensor of parameters from one of gradients.

    Everything that changes between steps is a tensor, since a CUDA graph would record a number as a constant.

    Args:
        params: name and hyperparameters of the optimiser.
        parameters: [P], updated in place.
        gradient: [P], clipped in place.
        shapes: of the layers' parameters, in the order in which both tensors hold them.
        muon_dtype: of Muon's matrix products.
    """

    def __init__(
        self, params: Train, parameters: Tensor, gradient: Tensor, shapes: Sequence[torch.Size], muon_dtype: torch.dtype
    ) -> None:
        self.params, self.parameters, self.gradient, self.muon_dtype = params, parameters, gradient, muon_dtype
        self.learning_rate = torch.zeros(1, device=gradient.device)
        self.nonfinite = torch.zeros((), device=gradient.device)  # 1: the step is skipped
        names = {"rmsprop": ("square_avg",), "sgd": ("momentum",) * (params.momentum > 0)}.get(params.optimizer, MOMENTS)
        self.state: dict[str, Tensor] = {name: torch.zeros_like(gradient) for name in names}
        if names == MOMENTS:
            # Adam updates all parameters as one tensor or, under Muon, those that are not matrices, layer by layer.
            by_adam, self.matrices = [[parameters, gradient, *self.state.values()]], []
            if params.optimizer == "muon":
                layers = [list(layer) for layer in zip(*(split(flat, shapes) for flat in by_adam[0]), strict=True)]
                by_adam, self.matrices = (
                    [layer for layer in layers if (layer[0].dim() == 2) is wanted] for wanted in (False, True)
                )
            self.by_adam = [list(tensors) for tensors in zip(*by_adam, strict=True)]
            self.state["step"] = torch.zeros(len(by_adam), device=gradient.device)

    def step(self, squared_norm: Tensor) -> None:
        """Performs one step along the gradient, clipped by its norm."""
        if self.params.grad_clip_norm is not None:
            # Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks. 2013.
            self.gradient *= (self.params.grad_clip_norm / (squared_norm.sqrt() + 1e-6)).clamp(max=1)
        steps = {"adam": self.adam, "adamw": self.adam, "muon": self.muon, "rmsprop": self.rmsprop, "sgd": self.sgd}
        steps[self.params.optimizer]()

    def adam(self) -> None:
        """Kingma, Ba: Adam: A Method for Stochastic Optimization. 2015; Loshchilov, Hutter: Decoupled Weight Decay
        Regularization. 2019.
        """
        parameters, gradients, exp_avgs, exp_avg_sqs = self.by_adam
        (adam if self.params.optimizer == "adam" else adamw)(
            parameters,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            list(self.state["step"].unbind()),
            fused=True,
            capturable=self.gradient.is_cuda,
            found_inf=self.nonfinite,
            amsgrad=False,
            beta1=self.params.adam_betas[0],
            beta2=self.params.adam_betas[1],
            lr=self.learning_rate[0],
            weight_decay=self.params.weight_decay,
            eps=self.params.epsilon,
            maximize=False,
        )

    def muon(self) -> None:
        """Jordan et al.: Muon: An optimizer for hidden layers in neural networks. 2024; AdamW for all but matrices.

        A matrix moves along the orthogonal matrix nearest to its momentum, so that rare directions count as much as frequent
        ones, with steps of AdamW's size (Liu et al.: Muon is Scalable for LLM Training. 2025). Same arithmetic as
        torch.optim.Muon in bfloat16, which cannot skip a step.
        """
        for parameter, gradient, momentum, _ in self.matrices:
            averaged = torch.lerp(momentum, gradient, 1 - MUON_MOMENTUM)
            step = orthogonal(torch.lerp(gradient, averaged, MUON_MOMENTUM), self.muon_dtype)
            step *= MUON_SCALE * math.sqrt(max(gradient.shape))
            stepped = parameter - self.learning_rate * (step + self.params.weight_decay * parameter)
            for old, new in ((momentum, averaged), (parameter, stepped)):
                torch.where(self.nonfinite > 0, old, new, out=old)
        self.adam()

    def sgd(self) -> None:
        """Gradient descent with momentum (Polyak: Some methods of speeding up the convergence of iteration methods. 1964)."""
        sgd(
            [self.parameters],
            [self.gradient],
            [self.state.get("momentum")],
            fused=True,
            found_inf=self.nonfinite,
            weight_decay=self.params.weight_decay,
            momentum=self.params.momentum,
            lr=self.learning_rate[0],  # type: ignore[arg-type]
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def rmsprop(self) -> None:
        """Tieleman, Hinton: Lecture 6.5, RMSProp. 2012. Same arithmetic as torch.optim.RMSprop, which cannot skip a step."""
        gradient = self.gradient.add(self.parameters, alpha=self.params.weight_decay).masked_fill_(self.nonfinite > 0, 0)
        square = self.state["square_avg"]
        square.lerp_(gradient.square(), (1 - RMSPROP_ALPHA) * (1 - self.nonfinite))
        self.parameters -= gradient.div_(square.sqrt().add_(self.params.epsilon)).mul_(self.learning_rate)


def flatten_parameters(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Moves all parameters into one tensor and their gradients into another; the model's own become views of them.

    So an optimiser updates one tensor, the gradient's norm is one product, and a checkpoint is a few tensors.

    Returns:
        the parameters [P] and the gradient [P], in the order of ``model.parameters()``.
    """
    own = list(model.parameters())
    parameters = torch.cat([p.detach().flatten() for p in own])
    gradient = torch.zeros_like(parameters)
    sizes = [p.numel() for p in own]
    for p, values, grad in zip(own, parameters.split(sizes), gradient.split(sizes), strict=True):
        p.data, p.grad = values.view_as(p), grad.view_as(p)
    return parameters, gradient


def split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Splits a flat tensor into views with the layers' shapes."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximates U V^T of the matrix's singular value decomposition by five Newton-Schulz steps in ``dtype``.

    x <- a x + b (x x^T) x + c (x x^T)^2 x from norm 1, with Jordan's coefficients; the singular values end between 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.t() if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.t() if tall else x).to(matrix.dtype)
