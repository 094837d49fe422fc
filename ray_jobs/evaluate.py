"""Evaluate over Ray: draw what held-out captions ask for, measure it beside real emoji, and keep the figures.

1. plan: the images that no model was trained on, their captions as prompts; a folder brings pictures and prompts along
2. draw: by the generate stage, which draws nothing twice; `retrieval` searches the training pictures instead
3. measure: shards of real and drawn pictures on the cluster; their rows add up
4. judge: probes and distances in the driver; figures of real emoji beside those of models
5. keep: evaluations/<id>.json and .html in the store; gates fail the command after that
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from emoji_ldm import __version__
from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import GateError
from emoji_ldm.evaluate.evaluation import FOLDER, EvaluatedSystem, Evaluation, new_id
from emoji_ldm.evaluate.evaluation_page import PageRow, render_page
from emoji_ldm.evaluate.figures import FIGURES, QualityGate, failed_gates
from emoji_ldm.evaluate.measures import PictureSet
from emoji_ldm.evaluate.metrics.pixels import FEATURES_NAME
from emoji_ldm.evaluate.prompts import GRID
from emoji_ldm.evaluate.real_pictures import RealPicture, WantedPicture, held_out_prompts, read_real_pictures
from emoji_ldm.evaluate.reference import RealReference, choose_names, fit_reference, reference_rows
from emoji_ldm.evaluate.retrieval import RETRIEVAL
from emoji_ldm.evaluate.scoring import score_pictures, score_real, text_figures
from emoji_ldm.progress import print_summary
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution.judged_systems import (
    JudgedSystem,
    draw_with,
    from_folder,
    resolve_models,
    retrieve,
    training_splits,
)
from ray_jobs.execution.picture_measuring import embed, measure, split_located

MAX_SHOWN = 2  # pictures of a model per prompt on the page


def run(config: Config) -> dict[str, object]:
    """Evaluate and keep the result; returns the figures for the summary.

    Raises:
        GateError: A gate of `evaluate.fail_if` is true of a model; everything was kept before.
        ConfigError: A gate or an option is wrong.
        DatasetError: Too few images are held out, or none is captioned.
        ModelError: There is no such model, or weights that measure are missing.
        JobError: The cluster lacks the resources.
    """
    settings, store = config.evaluate, Store(config.store, config.branch)
    # All of the user's mistakes are found before the first picture is drawn.
    gates = [QualityGate.parse(text) for text in settings.fail_if]
    tables = open_tables(store, config.as_of, IMAGES, CAPTIONS)
    folder = [from_folder(settings.images)] if settings.images else []
    models = {} if folder else resolve_models(config, store)
    facts = read_real_pictures(tables["images"], tables["captions"], training_splits(config, store, models.values()))
    rows = reference_rows(facts, settings.reference)
    prompts = [] if folder else held_out_prompts(facts, settings.num_prompts)
    systems = folder or [
        retrieve(config, tables["images"], facts, prompts)
        if uri == RETRIEVAL
        else draw_with(config, name, uri, prompts)
        for name, uri in models.items()
    ]

    real, measured = _measure(config, tables["images"], facts, rows, systems)
    judged = [_judge(system, measured, real) for system in systems]
    failed = failed_gates(gates, {system.name: system.figures for system in judged})
    identity, time = new_id(config.run)
    evaluation = Evaluation(
        identity, config.run, time, __version__, FEATURES_NAME, _data_facts(config, tables, real), judged,
        score_real(max(system.num_pictures for system in judged), real), _prompt_facts(prompts), failed,
    )  # fmt: skip
    page = _keep(store, evaluation, _page_rows(tables["images"], prompts, systems))
    summary = {**_summary(evaluation), "page": str(page)}
    if failed:
        # A stage that fails has no summary, but here its figures are the reason.
        print_summary("evaluate", summary)
        raise GateError(f"{'; '.join(failed)}; the figures are in {page}")
    return summary


def _measure(
    config: Config, images: Table, facts: list[RealPicture], rows: list[int], systems: Sequence[JudgedSystem]
) -> tuple[RealReference, dict[str, PictureSet]]:
    """Measure everything at once; returns the fitted reference, and the pictures by system."""
    real_ids = [picture.image_id for picture in facts]
    # Legibility of real pictures is that of those that the probes do not know; leaving it out halves the time.
    shards = [
        shard
        for held_out in (True, False)
        for shard in split_located(
            images, {one.image_id: "" for one in facts if one.held_out == held_out}, legibility=held_out
        )
    ]
    found = measure(config, [*shards, *(shard for system in systems for shard in system.shards)])
    asked = [one.concept for system in systems for one in (*system.wanted.values(), *system.grid.values())]
    candidates = choose_names(facts, asked)
    names = list(dict.fromkeys([*candidates, *(picture.concept for picture in facts)]))
    real = fit_reference(facts, PictureSet.from_rows(found, real_ids), rows, candidates, embed(config, names))
    return real, {system.name: PictureSet.from_rows(found, [*system.wanted, *system.grid]) for system in systems}


def _judge(system: JudgedSystem, measured: Mapping[str, PictureSet], real: RealReference) -> EvaluatedSystem:
    pictures, wanted, grid = measured[system.name], list(system.wanted.values()), list(system.grid.values())
    figures = {**score_pictures(pictures.take(range(len(wanted))), wanted, real), **system.cost}
    cells = pictures.take(range(len(wanted), len(pictures)))
    return EvaluatedSystem(
        system.name, system.source, system.model_key, system.settings, len(wanted),
        {name: figures.get(name) for name in FIGURES}, text_figures(cells, grid, real) if grid else {},
    )  # fmt: skip


def _data_facts(config: Config, tables: Mapping[str, Table], real: RealReference) -> dict[str, object]:
    return {
        "store": config.store, "versions": {name: table.version for name, table in tables.items() if table.exists},
        "num_real": len(real.facts), "num_held_out": sum(picture.held_out for picture in real.facts),
        "reference": config.evaluate.reference, "num_reference": len(real.reference),
        "num_names": len(real.concepts.candidates) if real.concepts else 0,
        "styles": list(real.styles.styles) if real.styles else [], "size_px": config.evaluate.size_px,
    }  # fmt: skip


def _prompt_facts(prompts: Sequence[WantedPicture]) -> list[dict[str, object]]:
    return [
        {"prompt": one.prompt, "concept": one.concept, "style": one.style, "truth": one.truth, "novelty": one.novelty}
        for one in prompts
    ]


def _page_rows(images: Table, prompts: Sequence[WantedPicture], systems: Sequence[JudgedSystem]) -> list[PageRow]:
    """Return what the page shows: the grid, then the held-out prompts with their true pictures, or a folder's files."""
    drawn = {system.name: _by_prompt({**system.wanted, **system.grid}, system.pngs) for system in systems}

    def row(title: str, prompt: str, truth: bytes | None = None) -> PageRow:
        return PageRow(title, prompt, truth, {name: found.get(prompt, [])[:MAX_SHOWN] for name, found in drawn.items()})

    if not prompts:
        return [row("", prompt) for prompt in drawn[systems[0].name]]
    located = images.locate([one.truth for one in prompts])
    rows = images.read_located(located, ["image_id", "image"]).to_pylist()
    truths = {one["image_id"]: one["image"]["bytes"] for one in rows}
    grid = GRID if systems[0].grid else ()
    return [
        *(row(f"{cell.subject}, {cell.length}, {cell.content}", cell.prompt) for cell in grid),
        *(row(one.novelty, one.prompt, truths[one.truth]) for one in prompts),
    ]


def _by_prompt(wanted: Mapping[str, WantedPicture], pngs: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for name, one in wanted.items():
        found.setdefault(one.prompt, []).append(pngs[name])
    return found


def _keep(store: Store, evaluation: Evaluation, rows: Sequence[PageRow]) -> Path:
    """Write JSON and page, here and in the store: the jobs of a cluster write to a disk that ends with their pod."""
    page = render_page(evaluation, rows).encode()
    path = Path("runs", evaluation.run, FOLDER, f"{evaluation.id}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page)
    path.with_suffix(".json").write_text(evaluation.to_json(), encoding="utf-8")
    store.write(page, FOLDER, f"{evaluation.id}.html")
    # The JSON is written last: a reader that finds it finds the page too.
    store.write(evaluation.to_json().encode(), FOLDER, f"{evaluation.id}.json")
    return path


def _summary(evaluation: Evaluation) -> dict[str, object]:
    """Return one line per figure: each model's, and that of real emoji."""
    lines: dict[str, object] = {"pictures": ", ".join(f"{one.name}: {one.num_pictures}" for one in evaluation.systems)}
    for name, kind in FIGURES.items():
        values = [one.figures.get(name) for one in evaluation.systems]
        if any(value is not None for value in values):
            lines[name] = ", ".join(map(kind.text, values)) + f" (real emoji: {kind.text(evaluation.real.get(name))})"
    return lines
