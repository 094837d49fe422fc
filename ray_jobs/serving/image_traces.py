"""Traces of a replica's images: the spans of `emoji_ldm.serve.tracing`, below the one of Ray Serve's call."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import serve

from emoji_ldm.serve import tracing
from emoji_ldm.serve.backend import ImageTask

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.continuous_batching.batch_bucket import PendingImage
    from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher


def submit_traced(batcher: ContinuousBatcher, task: ImageTask, **options: Any) -> PendingImage:
    """Submit a task as `ContinuousBatcher.submit` does, and make its spans once it has ended, however it ends."""
    context: Any = serve.get_trace_context()
    timeline = tracing.new_timeline(context)
    pending = batcher.submit(task.request, tenant=task.tenant, bulk=task.bulk, timeline=timeline, **options)
    if timeline is not None:
        request = task.request
        attributes = {
            "request_id": task.request_id, "model": task.registered or task.model, "lora": request.lora,
            "steps": pending.steps, "width": request.width_px, "height": request.height_px, "bulk": task.bulk,
        }  # fmt: skip
        pending.future.add_done_callback(partial(_record, context, timeline, attributes))
    return pending


def _record(context: Any, timeline: Any, attributes: dict[str, Any], future: Future[bytes]) -> None:
    if future.cancelled():
        reason = "cancelled: its caller has left"
    else:
        error = future.exception()
        reason = str(error) or type(error).__name__ if error is not None else ""
    tracing.record_image(context, timeline, attributes, reason)
