"""Identity initialisation of an autoencoder: before its first step it reconstructs block averages of the image.

From random weights a small autoencoder spends its first hundreds of steps on learning that a latent cell should hold
the mean colour of its block. Here every residual branch starts at zero, and every convolution between them passes four
*lanes* on, red, green, blue and alpha: averaged where the side is halved, interpolated where it is doubled.

Two normalised activations remain in the way, at the end of encoder and decoder. They are undone exactly because
silu(x) - silu(-x) = x, so each lane is carried by a pair of channels x and -x, whose difference survives. A group norm
would still rescale lanes by their content; a pair of constant channels beside each lane makes that scale nearly
constant. The posterior starts narrow, since at unit width its noise would drown the signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NUM_LANES = 4  # red, green, blue, alpha
NUM_GROUPS = NUM_LANES  # groups of every group norm, one per lane
# This is a standard deviation of 0.05, a fortieth of the range of a lane.
INITIAL_LOGVAR = -6.0
# Mean square of pixel values in [-1, 1] over emoji, which are mostly background.
PIXEL_MEAN_SQUARE = 0.7

KernelTap = tuple[int, int, float]  # output channel, input channel, sign


@torch.no_grad()
def init_identity(vae: Any) -> None:
    """Set the weights of an `AutoencoderKL` or `VQModel`, norms of 4 groups and widths from 16, in place."""
    # The order is that of the forward pass. The middle blocks have no attention (see `build_autoencoder`), so their
    # residual branches are all there is to silence.
    encoder, decoder, latent = vae.encoder, vae.decoder, int(vae.config.latent_channels)
    _inputs_to_lanes(encoder.conv_in)
    for block in encoder.down_blocks:
        _zero_residuals(block)
        for halving in block.downsamplers or ():
            _pass_lanes(halving.conv, _averaging_kernel())
    _zero_residuals(encoder.mid_block)
    _lanes_to_outputs(encoder)
    # The outputs behind the means are the log-variances, which shall not depend on the image at first. A VQModel has
    # none, and the slice is empty.
    encoder.conv_out.weight[latent:] = 0
    _init_pointwise_identity(vae.quant_conv)
    vae.quant_conv.bias[latent:] = INITIAL_LOGVAR
    _init_pointwise_identity(vae.post_quant_conv)
    _inputs_to_lanes(decoder.conv_in)
    _zero_residuals(decoder.mid_block)
    for block in decoder.up_blocks:
        _zero_residuals(block)
        for doubling in block.upsamplers or ():
            _pass_lanes(doubling.conv, _interpolation_kernel())
    _lanes_to_outputs(decoder)


def _lane_channels(number: int, width: int) -> tuple[int, int, int, int]:
    """Channels of a lane's x, -x, constant and negative constant, among `width` channels."""
    first = number * width // NUM_LANES
    return first, first + 1, first + 2, first + 3


def _inputs_to_lanes(conv: Any) -> None:
    """Turn inputs 0 to 3 into lanes: pairs of opposite sign, and constant pairs."""
    lanes = [_lane_channels(number, conv.out_channels) for number in range(NUM_LANES)]
    _set_taps(conv, [tap for n, (plus, minus, *_) in enumerate(lanes) for tap in ((plus, n, 1.0), (minus, n, -1.0))])
    # This follows `_set_taps`, which zeroes all biases.
    for *_, plus, minus in lanes:
        conv.weight[[plus, minus]] = 0
        conv.bias[plus], conv.bias[minus] = 1, -1


def _lanes_to_outputs(half: Any) -> None:
    """Turn lanes into outputs 0 to 3, through norm and activation."""
    norm, conv = half.conv_norm_out, half.conv_out
    size = norm.num_channels // NUM_GROUPS
    # The norm divides by the standard deviation of its group. A group holds x, -x, 1 and -1, the rest of its `size`
    # channels being about zero, so its mean is 0 and its variance (2 x² + 2) / size: multiplying by the root undoes it.
    norm.weight.fill_(((2 * PIXEL_MEAN_SQUARE + 2) / size) ** 0.5)
    # The taps +1 and -1 read silu(x) - silu(-x), which is x.
    lanes = [_lane_channels(number, norm.num_channels) for number in range(NUM_LANES)]
    _set_taps(conv, [tap for n, (plus, minus, *_) in enumerate(lanes) for tap in ((n, plus, 1.0), (n, minus, -1.0))])


def _pass_lanes(conv: Any, kernel: Tensor | None = None) -> None:
    """Let a convolution map each lane to itself."""
    pairs = zip(range(NUM_LANES), range(NUM_LANES), strict=True)
    taps = [
        (out, channel, 1.0)
        for to, of in pairs
        for out, channel in zip(
            _lane_channels(to, conv.out_channels), _lane_channels(of, conv.in_channels), strict=True
        )
    ]
    _set_taps(conv, taps, kernel)


def _zero_residuals(block: Any) -> None:
    """Make residual branches zero; where the width changes, let the shortcut carry the lanes."""
    for layer in block.resnets:
        # Only the last convolution of a branch is zero: if the one before it were too, neither would get a gradient.
        layer.conv2.weight.zero_()
        layer.conv2.bias.zero_()
        if layer.conv_shortcut is not None:
            _pass_lanes(layer.conv_shortcut)


def _init_pointwise_identity(conv: Any) -> None:
    """Make a 1 x 1 convolution the identity."""
    conv.bias.zero_()
    conv.weight.copy_(torch.eye(conv.in_channels)[:, :, None, None])


def _set_taps(conv: Any, taps: Iterable[KernelTap], kernel: Tensor | None = None) -> None:
    """Give the named outputs these taps only; other outputs keep their random weights."""
    taps = list(taps)
    kernel = _centre_kernel(conv.kernel_size[0]) if kernel is None else kernel
    conv.bias.zero_()
    # The other channels stay random, so that they can learn different things. No lane reads them yet.
    conv.weight[sorted({out for out, _, _ in taps})] = 0
    for out, channel, sign in taps:
        conv.weight[out, channel] += sign * kernel


def _centre_kernel(size: int) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


def _averaging_kernel() -> Tensor:
    """The mean of a 2 x 2 block; diffusers pads at the right and bottom, so the block starts at the kernel's corner."""
    kernel = torch.zeros(3, 3)
    kernel[:2, :2] = 0.25
    return kernel


def _interpolation_kernel() -> Tensor:
    """Turns the preceding nearest-neighbour doubling into linear interpolation."""
    # After doubling, a row reads a a b b. The kernel makes of the second a 0.75 a + 0.25 b, and of the first b 0.25 a +
    # 0.75 b. The outermost pixels meet the zero padding and lose a quarter, which training has to correct.
    line = torch.tensor([0.25, 0.5, 0.25])
    return line[:, None] * line[None]
