"""The deployments of the HTTP service: a light ingress, and replicas that batch images of all requests.

Images are the unit: a request for n images is n entries, each of which joins any batch. As a
picture depends on its own draw alone, a draw that is lost with its replica is simply drawn again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.source import CACHE, resolve_checkpoint
from emoji_ldm.serve.app import Overloaded, build_api
from emoji_ldm.serve.schema import Limits, Row
from emoji_ldm.store import Store

NUM_CPUS = 0.5  # logical CPUs per sampler, which has one thread
INGRESS_CPUS = 0.1
TRIES = 3  # per image, each on another replica where there is one
STUCK_S = 600.0  # a batch that takes longer will never end


def application(config: Config) -> serve.Application:
    """The application of a configuration; the model is settled here, so that all replicas load the same."""
    settings = config.serve
    if settings.min_replicas > settings.max_replicas:
        raise ConfigError(
            f"serve.min_replicas={settings.min_replicas} is more than serve.max_replicas={settings.max_replicas}"
        )
    _, uri = resolve_checkpoint(config, Store(config.store), CACHE, settings.checkpoint)
    drawer = serve.deployment(Drawer).options(
        # The default of 5 would cap every batch at 5: one batch is drawn while the next two fill.
        max_ongoing_requests=3 * settings.batch_size,
        max_queued_requests=settings.max_queued_requests,
        ray_actor_options={"num_cpus": NUM_CPUS, "num_gpus": settings.num_gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas, max_replicas=settings.max_replicas,
            target_ongoing_requests=1.5 * settings.batch_size, upscale_delay_s=3, downscale_delay_s=120,
            look_back_period_s=20,
        ),
    ).bind(config, uri)  # fmt: skip
    ingress = serve.deployment(Ingress).options(
        max_ongoing_requests=10_000, ray_actor_options={"num_cpus": INGRESS_CPUS}
    )
    return ingress.bind(drawer, may_sleep=settings.min_replicas == 0)


class Drawer:
    """A replica with the model."""

    def __init__(self, config: Config, uri: str) -> None:
        """Load the model and draw one batch, so that the first request is as quick as the others."""
        from emoji_ldm.generate.model import load_model, sampling_device
        from emoji_ldm.generate.sampler import Draw, Sampler

        settings = config.serve
        source, _ = resolve_checkpoint(config, Store(config.store), CACHE, uri)
        model = load_model(source, sampling_device(settings.num_gpus))
        self.sampler = Sampler(model, settings.batch_size)
        self.sampler([Draw("", steps=1)])
        max_steps = min(settings.max_steps, self.sampler.tables.max_steps)
        self.facts = Limits(f"{config.run}-{model.key}", model.size_px, settings.max_images, max_steps)
        self.busy_since: float | None = None
        self.draw.set_max_batch_size(settings.batch_size)
        self.draw.set_batch_wait_timeout_s(settings.batch_wait_s)

    def limits(self) -> Limits:
        """What may be asked for."""
        return self.facts

    @serve.batch  # type: ignore[untyped-decorator]
    async def draw(self, rows: list[Row]) -> list[bytes]:
        """PNG bytes per row; drawn in a thread, so that health checks and new requests are heard meanwhile."""
        self.busy_since = time.monotonic()
        try:
            return await asyncio.to_thread(self._draw, rows)
        finally:
            self.busy_since = None

    def _draw(self, rows: list[Row]) -> list[bytes]:
        from emoji_ldm.generate.post import to_png
        from emoji_ldm.generate.sampler import Draw

        draws = [Draw(**row) for row in rows]
        facts = {"model_key": self.sampler.model.key}
        return [to_png(pixels, draw, facts) for draw, pixels in zip(draws, self.sampler(draws), strict=True)]

    def check_health(self) -> None:
        """Raise if a batch hangs; Serve then replaces the replica."""
        if self.busy_since is not None and time.monotonic() - self.busy_since > STUCK_S:
            raise RuntimeError(f"a batch has not ended for {STUCK_S:.0f} s")


@serve.ingress()
class Ingress:
    """The HTTP side: the routes, over the replicas."""

    def __init__(self, drawer: Any, *, may_sleep: bool) -> None:
        """Keep the way to the replicas; `may_sleep`: none need run while nothing is asked."""
        self.drawer, self.may_sleep = drawer, may_sleep
        self._limits: Limits | None = None

    def __serve_build_asgi_app__(self) -> Any:
        return build_api(self)

    async def limits(self) -> Limits:
        """What may be asked for; a replica tells it once."""
        if self._limits is None:
            limits: Limits = await self.drawer.limits.remote()
            self._limits = limits
        return self._limits

    async def draw(self, row: Row) -> bytes:
        """PNG bytes, from another replica if one dies; Overloaded if too many images wait."""
        for attempt in range(1, TRIES + 1):
            try:
                return bytes(await self.drawer.draw.remote(row))
            except BackPressureError:
                raise Overloaded from None
            except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError):
                if attempt == TRIES:
                    raise
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("the loop returns or raises")

    async def ready(self) -> bool:
        """Whether a replica runs, or none needs to."""
        status = await asyncio.to_thread(serve.status)
        drawer = status.applications[serve.get_replica_context().app_name].deployments["Drawer"]
        return self.may_sleep or bool(drawer.replica_states.get("RUNNING", 0))
