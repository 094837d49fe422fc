"""Private parts of transformers: exchanging the class of a loaded model."""

from __future__ import annotations

from typing import Any

from emoji_ldm.library_compat import require_version

KNOWN_VERSIONS = ("5.17", "5.23")  # 5.17: found on machines with a GPU; see docs/gpu.md

require_version("transformers", KNOWN_VERSIONS)


def change_class(model: Any, model_class: type[Any]) -> None:
    """Turn a loaded model into one of `model_class`, a subclass of its own class, weights untouched.

    transformers finds weights that were saved under older names by the name of the class that loads them. So a model
    has to be loaded as the stock class and can change only afterwards. It also remembers the renaming it applied, and
    would save the weights under the old names again, which the new class does not know: that memory is cleared.
    """
    # Assigning to a name that a new release no longer reads would fail silently, at the next save.
    assert hasattr(model, "_weight_conversions"), "transformers remembers here how it renamed weights"
    model.__class__ = model_class
    model._weight_conversions = []
