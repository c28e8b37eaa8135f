"""How many floating-point operations a step takes, by formula."""

from typing import Any

import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder
from moco.core.resnet import PaddedConv


def layer_flops(encoder: Encoder) -> list[int]:
    """Count the operations of each convolution and linear layer for one image, in execution order.

    A convolution takes 2 C_out H_out W_out (C_in / groups) k_h k_w, a linear layer 2 in out; a multiplication and an
    addition count as two. Of a 3x3 convolution on a single pixel only the centre is computed. What lies between them
    (normalisation, ReLU, pooling) is left out, as is usual.
    """
    found: list[int] = []

    def note(layer: nn.Module, _: Any, y: Tensor) -> None:
        if isinstance(layer, PaddedConv) and y.shape[2:] == (1, 1):
            found.append(2 * y[0].numel() * layer.in_channels)
        elif isinstance(layer, nn.Conv2d):
            found.append(2 * y[0].numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.Linear):
            found.append(2 * layer.weight.numel())

    training, size = encoder.training, encoder.plan.image_size
    hooks = [layer.register_forward_hook(note) for layer in encoder.modules()]
    try:
        with torch.no_grad():
            encoder.eval()(next(encoder.parameters()).new_zeros(1, 3, size, size))
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return found


def step_flops(encoder: Encoder) -> int:
    """Count the operations per image of a step with a queue: forward and backward of f_q, forward of f_k.

    The backward pass takes twice the forward pass (gradients of inputs and of weights), but the first layer needs no
    gradient of its input: 4 F - F_1.
    """
    layers = layer_flops(encoder)
    return 4 * sum(layers) - layers[0]
