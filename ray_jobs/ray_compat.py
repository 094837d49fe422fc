"""Private parts of Ray: the callbacks of Ray Train's controller, its answer to Ctrl-C, and what a worker raised.

Three things have no public way in Ray 2.60:

- `TorchTrainer.fit` installs a handler of SIGINT that ends this process with status 1, also once training is over.
  Ctrl-C must stay a KeyboardInterrupt, and must end the workers at once, wherever they run: only the controller, to
  which the handler has the one reference, can do that.
- The controller starts processes that would have nothing to do here: one for Ray data sets, which our workers do not
  use, and on a local Ray one that cleans up after a dead controller, where everything ends with this process. Each
  costs a second of a core at every start of the group. `RunConfig(callbacks=...)` only adds callbacks.
- `TrainingFailedError.worker_failures` wraps the exceptions of workers in a class that has only their text.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from emoji_ldm.library_compat import require_version
from ray_jobs.execution import ray_runtime

KNOWN_VERSIONS = ("2.60",)
# Long enough for a controller on another node to end its workers, short enough for somebody who pressed Ctrl-C.
ABORT_TIMEOUT_S = 20

# At import and not at first use: with an unknown Ray, a training must not start, rather than fail at Ctrl-C.
require_version("ray", KNOWN_VERSIONS)


class InterruptibleTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer, whose `fit` raises KeyboardInterrupt at Ctrl-C, without callbacks that have nothing to do."""

    _controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        # On a cluster that may grow, the cleaner matters: a controller that dies there would leave a placement group
        # that keeps nodes alive and paid for.
        idle = (DatasetsCallback,) if ray_runtime.can_autoscale() else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, idle)]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Keep the controller, and Python's own handler."""
        # Ray calls this method once, just before it starts the controller. Not installing its handler leaves Python's
        # own one in place, which raises KeyboardInterrupt in `fit`.
        self._controller = controller

    def abort(self) -> None:
        """End the workers now, rather than when the cluster notices that this process is gone."""
        if self._controller:
            # The controller may have died already, or its node may be gone: then there is nothing left to abort.
            with suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=ABORT_TIMEOUT_S)


def user_exception(failure: Exception) -> Exception:
    """Return what the training function of a worker raised, from an entry of `TrainingFailedError.worker_failures`."""
    # Without the private attribute the wrapper itself is returned: the message then is less precise, but still an
    # error.
    error: Exception = getattr(failure, "_base_exc", failure)
    return error
