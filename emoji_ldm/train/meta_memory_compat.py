"""The peak memory of a computation on the device `meta`, by way of torch's private dispatch modes.

A dispatch mode sees every operation of the forward and backward pass. Each new storage counts from the operation that
makes it until it is freed, which a weak reference tells.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from emoji_ldm.library_compat import require_version
from emoji_ldm.model.torch_compat import KNOWN_VERSIONS

require_version("torch", KNOWN_VERSIONS)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations have made and nothing has freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def free(_: object) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, free)
        self.live += size


def peak_bytes(function: Callable[[], None]) -> int:
    """The most bytes that tensors made by `function` occupy at one moment; they have no values, so nothing is done."""
    mode = _LiveBytes()
    with mode:
        function()
    return mode.peak
