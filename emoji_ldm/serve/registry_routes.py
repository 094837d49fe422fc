"""`/v1/registry`: models that join and leave while the service runs (`model_catalog`).

Whoever may change them decides what the service's memory is used for, so a key needs the scope `models`, which no key
has unless it was given. Without keys only a service that this machine alone reaches admits it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from emoji_ldm.errors import ModelError
from emoji_ldm.serve.auth import REGISTRY_PREFIX
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.model_catalog import ModelCatalog, ModelKind, RegisteredModel
from emoji_ldm.serve.openapi_models import ApiModel, body_schema
from emoji_ldm.serve.request_body import parse_json, read_body

MAX_BODY_BYTES = 16 * 1024


class RegistryRequest(BaseModel):
    """The body of `PUT /v1/registry/{name}`: a checkpoint or an adapter."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    checkpoint: str | None = None
    """A checkpoint or pipeline in the service's store, or alias:NAME, which is resolved now."""
    adapter: str | None = None
    """A folder of the store with a LoRA adapter, or a checkpoint that learned one."""
    pinned: bool = False
    """Load it at once, and never forget it in favour of another."""


class RegistryEntry(ApiModel):
    """A registered model."""

    id: str
    """As `model` of a request; an adapter as `model: "BASE+ID:WEIGHT"`, or as `lora: "ID:WEIGHT"`."""
    object: str = "registered_model"
    kind: str
    """`checkpoint` or `adapter`."""
    pinned: bool
    created_at: int


class RegistryList(ApiModel):
    """All registered models."""

    object: str = "list"
    data: list[RegistryEntry]


def registry_routes(catalog: ModelCatalog) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=REGISTRY_PREFIX, tags=["service"])
    schema = {"content": {"application/json": {"schema": body_schema(RegistryRequest)}}, "required": True}

    @router.get("", response_model=RegistryList)
    async def listing() -> dict[str, Any]:
        """The models that were registered while the service ran."""
        entries = await asyncio.to_thread(catalog.read)
        return {"data": [_entry(name, entry) for name, entry in entries.items()]}

    @router.put("/{name}", response_model=RegistryEntry, openapi_extra={"requestBody": schema})
    async def register(request: Request, name: str) -> dict[str, Any]:
        """Register a model of the store, or change it; replicas know it within seconds."""
        asked = _parse(parse_json(await read_body(request, MAX_BODY_BYTES)))
        kind: ModelKind = "adapter" if asked.adapter else "checkpoint"
        source = asked.adapter or asked.checkpoint or ""
        try:
            entry = await asyncio.to_thread(catalog.register, name, kind, source, pinned=asked.pinned)
        except ModelError as error:
            raise RequestError(str(error), param=kind, code="model_not_found") from None
        return _entry(name, entry)

    @router.delete("/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Take a model out of use; its files stay, and images in progress are finished."""
        if not await asyncio.to_thread(catalog.remove, name):
            raise RequestError(f"there is no registered model {name[:100]!r}", status=404, param="name",
                               code="model_not_found")  # fmt: skip
        return {"id": name, "object": "model", "deleted": True}

    return router


def _parse(values: object) -> RegistryRequest:
    try:
        asked = RegistryRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or None
        raise RequestError(f"{field or 'the body'} is refused: {problem['msg']}", param=field) from None
    if bool(asked.checkpoint) == bool(asked.adapter):
        raise RequestError("give either checkpoint or adapter", param="checkpoint", code="missing_required_parameter")
    return asked


def _entry(name: str, entry: RegisteredModel) -> dict[str, Any]:
    # Not the URI: where the store is, and what it is called there, is nobody's business.
    return {"id": name, "kind": entry.kind, "pinned": entry.pinned, "created_at": entry.created_at}
