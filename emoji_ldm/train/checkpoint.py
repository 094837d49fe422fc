"""Save and load a training: portable tensors per name, whatever the ranks and the ZeRO stage.

    state/shard-00000-of-00002.safetensors   weight/<name>, exp_avg/<name>, exp_avg_sq/<name>, ema/<name>
    state/losses.jsonl                       the log up to this step
    pipeline/ or vae/                        what users load, made of the moving average

Every rank gathers every tensor and writes its share of them. All values are fp32, so a run
that resumes with as many ranks goes on bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from emoji_ldm import __version__
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.errors import ModelError
from emoji_ldm.model.ema import NAMES, Averages
from emoji_ldm.train import journal, owner
from emoji_ldm.train.engine import MOMENTS, Engine
from emoji_ldm.train.plan import Place, Plan, Task
from emoji_ldm.train.world import World


@dataclass(frozen=True)
class State:
    """A checkpoint's training state; tensors are read when asked for."""

    step: int
    folder: Path

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """{name: whole fp32 tensor} of `weight`, `ema` or a moment of Adam."""
        found: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(f"{kind}/")]  # noqa: SIM118 (no mapping)
                found |= {name.removeprefix(f"{kind}/"): file.get_tensor(name) for name in names}
        return found

    def lines(self) -> list[journal.Line]:
        """The log up to the checkpoint."""
        return journal.parse((self.folder / journal.NAME).read_text())


def newest(place: Place, plan: Plan, world: World) -> State | None:
    """The newest complete checkpoint of the run, the same one on every rank; None if there is none."""
    found = checkpoints.listing(place.store, place.config.run, plan.kind) if world.leads else []
    path = world.share((found[-1].path, found[-1].step) if found else ("", 0))
    if not path[0]:
        return None
    return State(path[1], Checkpoint(place.store, *path).fetch(place.scratch / f"rank-{world.rank}", "state"))


def load_weights(module: nn.Module, state: State, section: str) -> None:
    """Put the weights into the module, before an engine is built around it.

    Raises:
        ModelError: They belong to a network of another shape.
    """
    weights = state.tensors("weight")
    ours = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    if ours != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise ModelError(
            f"the run's checkpoint holds another network than {section} describes; "
            "set the widths and layers back, or train under another name (run=...)"
        )
    module.load_state_dict(weights, strict=False)


def load_optimizer(engine: Engine, averages: Averages, state: State | None) -> None:
    """Bring Adam's moments, its step count and the moving average to those of the checkpoint, or to the start."""
    _set_step(engine, state.step if state else 0)
    if state is None:
        return
    for kind in MOMENTS:
        engine.scatter(state.tensors(kind), _moments(engine, kind, state.step))
    for name, tensors in averages.tensors.items():
        engine.scatter(state.tensors(name), tensors)


def gather_ema(engine: Engine, averages: Averages, world: World) -> dict[str, Tensor]:
    """The whole averaged weights on rank 0, an empty mapping elsewhere; a collective."""
    whole = engine.gather(averages.tensors[NAMES[0]])
    return {name: _own(tensor) for name, tensor in whole if world.leads}


def save(engine: Engine, averages: Averages, world: World, folder: Path) -> None:
    """Write this rank's share of the state into `folder`; a collective."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    share = dict(_share(engine, averages, world))
    save_file(share, folder / f"shard-{world.rank:05d}-of-{world.size:05d}.safetensors")


def publish(place: Place, plan: Plan, task: Task, facts: Mapping[str, Any], path: str) -> Checkpoint:
    """Declare the uploaded files complete and delete older checkpoints (rank 0)."""
    described = {
        **task.facts, **facts, "config": place.config.model_dump(mode="json"), "zero_stage": plan.zero_stage,
        "code": __version__,
    }  # fmt: skip
    done = checkpoints.publish(place.store, path, described)
    checkpoints.prune(place.store, place.config.run, plan.kind, plan.keep)
    return done


def may_publish(place: Place, plan: Plan, world: World) -> None:
    """Stop every rank if another driver took the run over."""
    run, section = place.config.run, plan.section
    if not world.share(owner.owns(place.store, run, section, place.owner) if world.leads else None):
        raise owner.taken_over(run, section)


def _share(engine: Engine, averages: Averages, world: World) -> Iterator[tuple[str, Tensor]]:
    kinds: dict[str, Sequence[Tensor]] = {"weight": engine.shards(), **averages.tensors}
    kinds |= {kind: _moments(engine, kind, 0) for kind in MOMENTS}
    for kind, tensors in kinds.items():
        for number, (name, tensor) in enumerate(engine.gather(tensors)):
            if number % world.size == world.rank:
                yield f"{kind}/{name}", _own(tensor)


def _moments(engine: Engine, kind: str, step: int) -> list[Tensor]:
    """A moment of Adam per shard; made as AdamW itself would where it has not stepped yet."""
    tensors = []
    for key in engine.states():
        state = engine.optimizer.state[key]
        if not state:
            device = key.device if key.is_cuda else torch.device("cpu")
            state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
            state |= {name: torch.zeros_like(key) for name in MOMENTS}
        tensors.append(state[kind])
    return tensors


def _set_step(engine: Engine, step: int) -> None:
    for key in engine.states():
        if "step" in engine.optimizer.state.get(key, {}):
            engine.optimizer.state[key]["step"].fill_(step)


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with nothing, as safetensors wants."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
