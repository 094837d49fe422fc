"""Bring a training's state and the model made of it to the store, so that no moment leaves half a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emoji_ldm.dataset import checkpoints
from emoji_ldm.model.ema import Averages
from emoji_ldm.train import checkpoint
from emoji_ldm.train.engine import Engine
from emoji_ldm.train.plan import Task
from emoji_ldm.train.watch import Watch

Facts = dict[str, Any]


class Saver:
    """Every rank has one; rank 0 exports and publishes."""

    def __init__(self, engine: Engine, averages: Averages, task: Task, watch: Watch) -> None:
        self.engine, self.averages, self.task, self.watch = engine, averages, task, watch
        self.place, self.plan, self.world = watch.place, watch.plan, watch.world
        self.facts: Facts = {}

    def save(self, done: int, *, show: bool) -> None:
        """Upload every rank's state and the exported model; then, and only then, the manifest."""
        exported, facts = self._export(done, show=show)
        checkpoint.may_publish(self.place, self.plan, self.world)
        name = self.world.share(checkpoints.folder_name(done) if self.world.leads else None)
        path = f"checkpoints/{self.place.config.run}/{self.plan.kind}/{name}"
        state = self.place.scratch / f"state-{self.world.rank}"
        checkpoint.save(self.engine, self.averages, self.world, state)
        if self.watch.journal:
            (state / "losses.jsonl").write_text(self.watch.journal.text())
            self.watch.journal.flush()
            self.place.store.upload(exported, path)
        self.place.store.upload(state, path, "state")
        self.world.barrier()
        self.facts = {"step": done, "num_workers": self.world.size, **facts}
        if self.world.leads:
            published = checkpoint.publish(self.place, self.plan, self.task, self.facts, path)
            self.facts["checkpoint"] = published.uri
        self.place.report({"step": done})

    def finish(self) -> Facts:
        """What the last export measured, and where it lies."""
        return {name: value for name, value in self.facts.items() if name not in ("step", "num_workers")}

    def _export(self, done: int, *, show: bool) -> tuple[Path, Facts]:
        folder = self.place.scratch / f"export-{self.plan.kind}"
        weights = checkpoint.gather_ema(self.engine, self.averages, self.world)
        facts: Facts = {}
        if self.world.leads:
            facts = self.task.export(weights, folder)
            png = self.task.preview(folder) if show else None
            if png and self.watch.journal:
                self.watch.journal.show(png, done)
        return folder, facts
