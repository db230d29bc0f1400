"""CM-ARR's training and evaluation beside PyTorch's, default configuration, random features.

    python benchmarks/training_speed.py [--torch-python PYTHON] [--json FILE]
    python benchmarks/training_speed.py --torch-python PYTHON --check

PYTHON is an interpreter with torch; without it our side runs alone. Ours is what train.py runs:
the compiled epoch and the scorer of cmarr_jax. PyTorch's is benchmarks/torch_cmarr.py, run
eagerly; on a CPU under both OpenMP wait policies, the better one counts. Each engine is a process
of its own and they take turns. On a GPU both use it (--precision says how they multiply);
--device cpu keeps them off it. TensorFlow is not needed, and kept out.

On a busy machine wall clocks say little: --cores 1, and the ratio of the CPU time.

--check trains nothing: it compares logits, loss terms and the gradient on copied weights, with
dropout off, for complete and for ragged batches.

About ten minutes on two idle CPU cores, a quarter of it compiling.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command
from benchmarks.engines import Engine, clock, compare, medians, serve, start, verdict
from benchmarks.training_inputs import CHECKS, NUM_UTTERANCES, PRODUCT, make_evaluated, make_order

PRECISIONS = ("float32", "tf32", "bf16")


def main() -> int:
    parser = command.make_parser(__doc__, rounds=5)
    parser.add_argument("--torch-python", help="interpreter with torch")
    parser.add_argument("--check", action="store_true", help="compare numbers, not speed")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of products")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--length", type=int, default=32, help="positions T")
    parser.add_argument("--utterances", type=int, default=256, help="a round, at least")
    parser.add_argument("--engine", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    command.use_cores(args.cores)
    if args.engine:
        sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
        return serve(importlib.import_module(f"benchmarks.training_{args.engine}").answers(args))
    if not 1 <= args.utterances <= NUM_UTTERANCES:
        parser.error(f"--utterances: wanted 1 to {NUM_UTTERANCES}")
    if args.check and not args.torch_python:
        parser.error("--check wants --torch-python")
    with tempfile.TemporaryDirectory() as args.folder:
        if args.check:
            return _check(args)
        _race(args)
    return 0


# ------------------------------------------------------------------------------ the race


def _start(args: argparse.Namespace) -> dict[str, Engine]:
    names = ("precision", "length", "utterances")
    flags = [x for name in names for x in (f"--{name}", str(getattr(args, name)))]
    return start(__file__, args, flags)


def _race(args: argparse.Namespace) -> None:
    """Prints and keeps each case as soon as it is known."""
    engines = _start(args)
    with open(os.path.join(args.folder, "ours.json"), encoding="utf-8") as f:
        described = json.load(f)
    report = {**described, "cores": len(os.sched_getaffinity(0)), "rounds": args.rounds}
    precision = args.precision if described["gpu"] else "float32"
    report |= {"precision": precision, "length": args.length, "cases": {}}
    _print_head(report, engines)
    cases = ["product", *(f"train {b}" for b in args.batch), "evaluate 1", "evaluate 7"]
    for case in cases:
        print(f"{case} ...", end="", file=sys.stderr, flush=True)
        row = {"gflop": engines["ours"].ask("gflop", case)}
        times = {name: [] for name in engines}
        for turn in range(args.rounds + 1):
            for name, engine in engines.items():
                seconds = engine.ask("run", case)
                if turn:  # the first one compiles or warms
                    times[name].append((seconds, engine.ask("cpu")))
        for name, pairs in times.items():
            row[name] = medians(pairs)
        if case.startswith("train"):
            row["utterances"] = int(make_order(args, int(case.split()[1])).size)
        elif case != "product":
            row["utterances"] = int(make_evaluated(args).size)
        report["cases"][case] = row
        cpu = [f"{name} {row[name]['median_cpu_s']:.2f}" for name in engines]
        print(f" CPU seconds: {', '.join(cpu)}", file=sys.stderr)
        if case != "product":
            _print_row(report, case, list(engines))
        command.write(report, args.json)
    _print_foot(report, list(engines))


def _ceiling(report: dict, names: Sequence[str]) -> float:
    """GFLOP/s of the best engine's product."""
    row = report["cases"]["product"]
    return max(row["gflop"] / row[name][clock(report)] for name in names)


def _print_head(report: dict, names: Iterable[str]) -> None:
    print(
        f"{report['machine']}, {report['device']}, {report['cores']} cores, {report['precision']}"
    )
    print(
        f"T = {report['length']}, medians of {report['rounds']} interleaved rounds, utterances/s\n"
    )
    heads = ["", *names, "ratio", "of CPU time", "GFLOP/s", "of ceiling"]
    print(f"{heads[0]:28}" + "".join(f"{head:>15}" for head in heads[1:]), flush=True)


def _print_row(report: dict, case: str, names: Sequence[str]) -> None:
    row = report["cases"][case]
    line = f"{case:28}"
    line += "".join(f"{row['utterances'] / row[name]['median_s']:>15.1f}" for name in names)
    if len(names) > 1:
        for time in ("median_s", "median_cpu_s"):
            line += f"{min(row[n][time] for n in names[1:]) / row['ours'][time]:>15.2f}"
    else:
        line += f"{'':30}"
    rate = row["gflop"] / row["ours"][clock(report)]
    print(f"{line}{rate:>15.0f}{rate / _ceiling(report, names):>15.0%}", flush=True)


def _print_foot(report: dict, names: Sequence[str]) -> None:
    rows, ceiling = report["cases"], _ceiling(report, names)
    one, seven = (rows[f"evaluate {k}"] for k in (1, 7))
    times = seven["ours"][clock(report)] / one["ours"][clock(report)]
    print(
        f"\nevaluation under seven conditions costs {times:.2f} times that of complete data, "
        f"and needs {seven['gflop'] / one['gflop']:.2f} times its products"
    )
    print("GFLOP/s by CPU time, of one core" if not report["gpu"] else "GFLOP/s of the GPU")
    print(f"ceiling: {ceiling:.0f} GFLOP/s, the best engine's product of {PRODUCT} x {PRODUCT}")


def _check(args: argparse.Namespace) -> int:
    engines = _start(args)
    worst = 0.0
    for name in CHECKS:
        outputs = []
        for engine in ("ours", "torch"):
            difference = engines[engine].ask("check", name)
            outputs.append(dict(np.load(os.path.join(args.folder, f"{engine}.npz"))))
        print(f"{name} batch, T = {CHECKS[name]}: largest difference over largest value")
        worst = float(np.max([worst, compare(*outputs, difference)]))  # keeps a NaN
    return verdict(worst)


if __name__ == "__main__":
    sys.exit(main())
