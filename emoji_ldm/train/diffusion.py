"""The denoiser's task: noisy latents and captions in, noise (or velocity, ...) out; exported as a whole pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.latents.cache import LatentSet, load_latent_set
from emoji_ldm.latents.variants import variant_keys
from emoji_ldm.model.unet import count_parameters, reference
from emoji_ldm.train.data import Batch, Data, Dealer, evenly, states_of, tokens_of
from emoji_ldm.train.objective import Objective
from emoji_ldm.train.pipeline import Frozen, export_pipeline, keys_of, load_frozen, start
from emoji_ldm.train.plan import Place, Preview

NUM_PREVIEWS = 8  # prompts of a sample grid when none are configured; images held out that are shown


class DiffusionTask:
    """Denoising of a latent set."""

    def __init__(
        self, config: Config, latents: LatentSet, frozen: Frozen, preview: Preview | None = None,
        dealer: Dealer = evenly,
    ) -> None:  # fmt: skip
        """Build the network for the set's latents and token states; `dealer` decides who is seen when."""
        self.config, self.frozen, self._preview = config, frozen, preview
        learns = config.train.train_text_encoder
        text = tokens_of(latents, frozen.text) if learns else states_of(latents, config.latents.max_tokens)
        self.data = Data(config, latents, text, frozen.codec.scaling_factor, dealer)
        module = start(config, frozen, self.data.shape, latents.states[0].shape[-1])
        self.module: nn.Module = module
        self.objective = Objective(config.train)
        self.facts: Mapping[str, Any] = {
            "versions": latents.versions,
            **keys_of(config.train, frozen, module),
            "num_images": len(self.data.rows),
            "num_held_out": len(self.data.held_rows),
            "num_captions": len(latents.captions) - 1,
            "num_parameters": count_parameters(self.module),
            "num_weights": sum(parameter.numel() for parameter in self.module.parameters()),
        }

    def draw(self, step: int, slots: range) -> Batch:
        """What the samples in places `slots` of a step are."""
        return self.data.draw(step, slots)

    def held_out(self, slots: range) -> Iterator[Batch]:
        """The images held out, with the same noise each time."""
        return self.data.held_out(slots)

    def loss(self, forward: Callable[..., Any], drawn: Batch) -> Tensor:
        """The weighted mean of the objective's losses."""
        device = next(self.module.parameters()).device
        latents, noise, timesteps, weights, text = (
            _moved(part, device) for part in (drawn.latents, drawn.noise, drawn.timesteps, drawn.weights, drawn.text)
        )
        losses = self.objective.losses(lambda noisy, times: forward(noisy, times, text), latents, noise, timesteps)
        return torch.mean(losses * weights)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `pipeline/`, which `DiffusionPipeline.from_pretrained` opens, with these weights."""
        export_pipeline(self.config, self.frozen, weights, folder / "pipeline")
        return reference(self.module.unet)

    def preview(self, folder: Path) -> Mapping[str, bytes]:
        """The sample grid of the fixed prompts, and images held out beside what is drawn for their captions."""
        return self._preview(folder / "pipeline", self.prompts(), self.originals) if self._preview else {}

    @cached_property
    def originals(self) -> list[tuple[bytes, str]]:
        """(PNG, caption) of some images held out, as the codec gives them back: no model can draw them better."""
        latents, rows = self.data.latents, self.data.held_rows[:NUM_PREVIEWS]
        pixels = [self.frozen.codec.decode(torch.from_numpy(latents.mean[[row]]).float())[0] for row in rows]
        captions = [latents.captions[latents.caption_index[row][0]] for row in rows]
        return [(_png(picture), caption) for picture, caption in zip(pixels, captions, strict=True)]

    def prompts(self) -> tuple[str, ...]:
        """`train.sample_prompts`, else some captions spread over the set."""
        captions = [caption for caption in self.data.latents.captions if caption]
        stride = max(1, len(captions) // NUM_PREVIEWS)
        return self.config.train.sample_prompts or tuple(captions[::stride][:NUM_PREVIEWS])


def load_task(place: Place, preview: Preview | None = None) -> DiffusionTask:
    """The task of `config.train` on the store's latents.

    Raises:
        ModelError: The codec or the text encoder is missing.
        DatasetError: There are no captioned images, or some have no latents.
    """
    config = place.config
    frozen = load_frozen(config, place.store, place.scratch)
    latents = load_latent_set(
        place.store, codec_key=frozen.codec.key, encoder_key=frozen.text.key, at=config.as_of,
        variant_keys=variant_keys(frozen.codec.key, config.latents),
    )  # fmt: skip
    return DiffusionTask(config, latents, frozen, preview)


def _png(pixels: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _moved(part: Any, device: Any) -> Any:
    """A tensor, or the tensors of a mapping, on the device."""
    if isinstance(part, Mapping):
        return {name: _moved(tensor, device) for name, tensor in part.items()}
    return part.to(device, non_blocking=True)
