"""`python -m infra.gpu COMMAND`: build the offline bundle, run the pieces here, put weights together again."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEFAULT_WORK = Path(tempfile.gettempdir(), "emoji-ldm-gpu")
DEFAULT_BUDGET_S = 540.0


def main() -> int:
    """0, or 1 if a piece failed, or 2 if the machine lacks something."""
    options = _parser().parse_args()
    status: int = options.run(options)
    return status


def _bundle(options: argparse.Namespace) -> int:
    from infra.gpu.bundle import build_bundle

    if options.data and not (options.data / "pictures.npy").exists():
        print(f"{options.data} has no pictures.npy: the bundle will not train the starter", file=sys.stderr)
        options.data = None
    size = build_bundle(options.target, options.data, tuple(options.pythons))
    print(f"{options.target}: {size / 1e6:.1f} MB; run it with: python3 {options.target.name} --output gpu-results")
    return 0


def _run(options: argparse.Namespace) -> int:
    import torch

    from infra.gpu.pieces import Options, run_pieces
    from infra.gpu.starter_data import pack_starter_data
    from infra.starter.paths import DATA

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device here; --device cpu --tiny shows that the pieces run", file=sys.stderr)
        return 2
    chosen = Options(
        options.work.absolute(), options.output.absolute(), options.device, options.tiny, options.budget_s,
        options.bring, tuple(options.only),
    )  # fmt: skip
    if not options.packed.exists() and (DATA / "pictures.npy").exists():  # a checkout with the starter's data
        pack_starter_data(DATA, options.packed)
    results = run_pieces(chosen, Path(__file__).parents[2], options.packed.absolute())
    failed = [name for name, piece in results["pieces"].items() if piece["status"] == "failed"]
    for name, piece in results["pieces"].items():
        print(f"{name:<20} {piece['status']:<12} {piece.get('seconds', '')}")
        if piece["status"] == "failed":
            print(piece["end"])
    left = f"left: {', '.join(results['left'])}; the same command goes on" if results["left"] else "all pieces are done"
    print(f"{left}; results in {chosen.output}")
    return 1 if failed else 0


def _measure(options: argparse.Namespace) -> int:
    import torch

    from infra.gpu import bench_generation, bench_training
    from infra.gpu.flops import matmul_flops

    device = torch.device(options.device)
    kinds = {"training": bench_training.measure, "generation": bench_generation.measure}
    figures = kinds[options.kind](options.case, device, tiny=options.tiny)
    figures["matmul_tflop_per_s"] = round(matmul_flops(device, 256 if options.tiny else 8192) / 1e12, 3)
    _tell(figures)
    return 0


def _train_starter(options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.seconds
    import torch

    from infra.gpu import starter
    from infra.gpu.starter_data import ENCODER, restore_starter_data

    device, data = torch.device(options.device), options.work / "data"
    torch.set_num_threads(1) if device.type == "cpu" else None
    restore_starter_data(options.packed, data, device)
    recipe = starter.TINY if options.tiny else starter.Recipe()
    _tell(starter.train(recipe, options.work / "starter", options.packed / ENCODER, device, deadline))
    return 0


def _join(options: argparse.Namespace) -> int:
    from infra.gpu.parts import join_parts

    if not join_parts(options.folder, options.target.name, options.target):
        print(f"{options.folder} has no complete parts of {options.target.name}", file=sys.stderr)
        return 1
    print(options.target)
    return 0


def _tell(figures: dict[str, Any]) -> None:
    from infra.gpu.pieces import RESULT_PREFIX

    print(RESULT_PREFIX + json.dumps(figures), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.gpu", description=__doc__)
    commands = parser.add_subparsers(required=True)
    bundle = commands.add_parser("bundle", help="build the offline bundle")
    bundle.add_argument("target", type=Path)
    bundle.add_argument("--data", type=Path, help="folder of infra.starter; without it the starter is not trained")
    bundle.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13"], help="versions that shall run it")
    bundle.set_defaults(run=_bundle)
    run = commands.add_parser("run", help="run tests, benchmarks and training, going on where the last call stopped")
    run.add_argument("--output", type=Path, default=Path("gpu-results"), help="what is to be brought back")
    run.add_argument("--budget-s", type=float, default=DEFAULT_BUDGET_S, help="seconds for this call (540)")
    run.add_argument("--bring", choices=("weights", "checkpoint", "nothing"), default="weights",
                     help="of the starter's training: averaged weights, or all that a resume needs")  # fmt: skip
    run.add_argument("--only", nargs="+", default=[], metavar="PIECE", help="such as tests/zero training/sd14 starter")
    run.set_defaults(run=_run)
    measure = commands.add_parser("measure", help="one benchmark")
    measure.add_argument("kind", choices=("training", "generation"))
    measure.add_argument("case")
    measure.set_defaults(run=_measure)
    train = commands.add_parser("train-starter", help="one span of the starter's training")
    train.add_argument("--seconds", type=float, default=DEFAULT_BUDGET_S)
    train.set_defaults(run=_train_starter)
    for command in (run, train):
        command.add_argument("--work", type=Path, default=DEFAULT_WORK, help="keeps the state between calls")
        command.add_argument("--packed", type=Path, default=Path("dist/starter"), help="the packed data of the starter")
    for command in (run, measure, train):
        command.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        command.add_argument("--tiny", action="store_true", help="sizes that show on a CPU that the code runs")
    join = commands.add_parser("join", help="put parts of at most 16 MB together again")
    join.add_argument("folder", type=Path)
    join.add_argument("target", type=Path, help="file to write; its name is that of the parts")
    join.set_defaults(run=_join)
    return parser


if __name__ == "__main__":
    sys.exit(main())
