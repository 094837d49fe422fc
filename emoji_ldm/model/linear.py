"""Start an autoencoder as block averages: it rebuilds a blurred picture before its first step.

From random weights a small autoencoder spends its first hundreds of steps on finding that
a latent cell should hold the mean colour of its block. Here every residual branch starts
at zero and every convolution on the way passes four lanes on, red, green, blue and alpha:
averaged where the side is halved, interpolated where it is doubled. The two normalised
activations in the way are crossed exactly, since silu(x) - silu(-x) = x: each lane runs as a
pair x, -x. A constant pair beside it keeps the norm's scale nearly free of the picture.
The posterior starts narrow, for at unit width its noise would drown the signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NUM_LANES = 4  # red, green, blue, alpha
NUM_GROUPS = NUM_LANES  # of every norm: one lane each
LOGVAR = -6.0
MEAN_SQUARE = 0.7  # of pixel values in [-1, 1] over emoji, most of which is background

Tap = tuple[int, int, float]  # output channel, input channel, sign


@torch.no_grad()
def start_linear(vae: Any) -> None:
    """Set the weights of an `AutoencoderKL` or `VQModel`, norms of 4 groups and widths from 16, in place."""
    encoder, decoder, latent = vae.encoder, vae.decoder, int(vae.config.latent_channels)
    _spread(encoder.conv_in)
    for block in encoder.down_blocks:
        _still(block)
        for halving in block.downsamplers or ():
            _carry(halving.conv, _averaging())
    _still(encoder.mid_block)
    _collect(encoder)
    encoder.conv_out.weight[latent:] = 0  # the log-variances, which a VQModel lacks
    _pass(vae.quant_conv)
    vae.quant_conv.bias[latent:] = LOGVAR
    _pass(vae.post_quant_conv)
    _spread(decoder.conv_in)
    _still(decoder.mid_block)
    for block in decoder.up_blocks:
        _still(block)
        for doubling in block.upsamplers or ():
            _carry(doubling.conv, _smoothing())
    _collect(decoder)


def _lane(number: int, width: int) -> tuple[int, int, int, int]:
    """Channels of a lane's x, -x, constant and negative constant, among `width` channels."""
    first = number * width // NUM_LANES
    return first, first + 1, first + 2, first + 3


def _spread(conv: Any) -> None:
    """Inputs 0 to 3 become lanes: pairs of opposite sign, and constant pairs."""
    lanes = [_lane(number, conv.out_channels) for number in range(NUM_LANES)]
    _set(conv, [tap for n, (plus, minus, *_) in enumerate(lanes) for tap in ((plus, n, 1.0), (minus, n, -1.0))])
    for *_, plus, minus in lanes:
        conv.weight[[plus, minus]] = 0
        conv.bias[plus], conv.bias[minus] = 1, -1


def _collect(half: Any) -> None:
    """Lanes become outputs 0 to 3 again, through norm and activation."""
    norm, conv = half.conv_norm_out, half.conv_out
    size = norm.num_channels // NUM_GROUPS
    norm.weight.fill_(((2 * MEAN_SQUARE + 2) / size) ** 0.5)  # about the group's spread: the norm is undone
    lanes = [_lane(number, norm.num_channels) for number in range(NUM_LANES)]
    _set(conv, [tap for n, (plus, minus, *_) in enumerate(lanes) for tap in ((n, plus, 1.0), (n, minus, -1.0))])


def _carry(conv: Any, kernel: Tensor | None = None) -> None:
    """Lanes go on as lanes."""
    pairs = zip(range(NUM_LANES), range(NUM_LANES), strict=True)
    taps = [
        (out, channel, 1.0)
        for to, of in pairs
        for out, channel in zip(_lane(to, conv.out_channels), _lane(of, conv.in_channels), strict=True)
    ]
    _set(conv, taps, kernel)


def _still(block: Any) -> None:
    """Residual branches give zero; where the width changes, the shortcut carries the lanes."""
    for layer in block.resnets:
        layer.conv2.weight.zero_()
        layer.conv2.bias.zero_()
        if layer.conv_shortcut is not None:
            _carry(layer.conv_shortcut)


def _pass(conv: Any) -> None:
    """A 1 x 1 convolution that changes nothing."""
    conv.bias.zero_()
    conv.weight.copy_(torch.eye(conv.in_channels)[:, :, None, None])


def _set(conv: Any, taps: Iterable[Tap], kernel: Tensor | None = None) -> None:
    """Outputs that are named get these taps only; the others keep their random weights."""
    taps = list(taps)
    kernel = _centre(conv.kernel_size[0]) if kernel is None else kernel
    conv.bias.zero_()
    conv.weight[sorted({out for out, _, _ in taps})] = 0
    for out, channel, sign in taps:
        conv.weight[out, channel] += sign * kernel


def _centre(size: int) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


def _averaging() -> Tensor:
    """The mean of the 2 x 2 block that diffusers' halving, padded at the right and bottom, starts at."""
    kernel = torch.zeros(3, 3)
    kernel[:2, :2] = 0.25
    return kernel


def _smoothing() -> Tensor:
    """Makes the doubling by repetition, which comes first, a linear interpolation."""
    line = torch.tensor([0.25, 0.5, 0.25])
    return line[:, None] * line[None]
