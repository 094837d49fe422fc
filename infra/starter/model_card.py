"""The model card and the notice that ship beside the starter's weights."""

from __future__ import annotations

from typing import Any

NOTICE = """The starter model was trained on the following drawings, all by way of the npm packages of Iconify:

- Noto Emoji, copyright Google LLC, Apache License 2.0: https://github.com/googlefonts/noto-emoji
- Noto Emoji v1 (blobs), copyright Google LLC, Apache License 2.0: https://github.com/googlefonts/noto-emoji
- Fluent Emoji (flat), copyright Microsoft Corporation, MIT License: https://github.com/microsoft/fluentui-emoji
- Twemoji, copyright Twitter, Inc. and other contributors, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/):
  https://github.com/jdecked/twemoji. The drawings were scaled to 64 px, mirrored and recoloured.

Names and keywords: emojibase-data, copyright Miles Johnson, MIT License: https://github.com/milesj/emojibase
Text encoder (not part of this folder): all-MiniLM-L6-v2, Apache License 2.0.
"""


def model_card(training: dict[str, Any]) -> str:
    """The card in Markdown, with the facts of a training."""
    parameters = training["parameters"]
    return f"""# Starter: a text-to-emoji model of 64 px with transparency

It draws transparent 64 px emoji from English prompts such as `noto style: happy cat` or `purple cat`. It is what
`emoji-ldm generate` and `emoji-ldm serve` use when there is no model of your own, and what fine-tuning can start from
(`train.init=starter`).

## Data and licences
5,909 drawings of 1,587 concepts in four styles: Noto and Noto v1 (Apache-2.0), Fluent flat (MIT), Twemoji (CC BY 4.0);
names and keywords of emojibase-data (MIT). Without skin tones, flags, keycaps and couples; 10,590 copies in other
colours with captions that name them. One family of concepts in 25, and one drawing of one concept in eight, are held
out. `NOTICE` has the attributions, which must stay with the weights. The weights are under the Apache License 2.0.

## Recipe
A convolutional autoencoder ({parameters["vae"]:,} parameters, 16 x 16 x 8 latents of premultiplied RGBA) and a U-Net
({parameters["unet"]:,} parameters, widths {training["widths"]}) that predicts the direction of rectified flow from
token states of all-MiniLM-L6-v2 (at most 32 tokens). Logit-normal times ({training["time_mean"]:g},
{training["time_std"]:g}), {training["optimizer"]}, learning rate {training["lr"]:g}, falling to zero over the last
{training["decay"]:.0%} of the steps, batch {training["batch"]}, a tenth of the captions dropped, power-function average
of the weights, {training["step"]:,} steps ({training["images"]:,} pictures seen).
Everything is reproduced by `infra/starter/`, whose notebook says which settings changed on the way, and what failed.

## Compute
Two virtual CPU cores with AMX, bf16, at low priority. No GPU.

## Use
DPM-Solver++ 2M (the default of this model), guidance 3. 8 steps (`generate.steps=8`) draw as well as 25: on 200
held-out prompts no figure differs by more than its interval. Styles are named `noto style:`, `fluent flat style:`,
`twemoji style:` and `blob style:`. Weights are int8 per output channel (U-Net) and float16
(autoencoder), and unpacked to float32 when they are first used.

## Limits
English only; 64 px; one emoji per picture. It knows what the four sets draw: no text, flags, skin tones or real
persons, and it composes new combinations unreliably. Pictures may come close to the drawings that it was trained on,
whose licences then apply. The error through int8 and the figures of quality are in `docs/benchmarks.md` of the project.
"""
