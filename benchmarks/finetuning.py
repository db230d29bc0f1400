"""Training an encoder's upper layers and a small head beside PyTorch's; random weights and states.

    python benchmarks/finetuning.py [--torch-python PYTHON] [--shape minilm] [--json FILE]
    python benchmarks/finetuning.py --torch-python PYTHON --check

PYTHON is an interpreter with torch; without it our side runs alone. Ours is what train.py runs: the
compiled epoch of the augmented baseline, on one modality pooled to one vector. PyTorch's is the
loop its user would write, run eagerly: nn.TransformerEncoder, batches padded to their longest, a
masked mean, the same head, fused AdamW, clipping; on a CPU under both OpenMP wait policies, the
better one counts. Both have as many parameters and the same batches of utterances of like length,
distributed as IEMOCAP's. For each --from-layer, each engine is a process of its own and they take
turns. On a GPU both use it (--precision says how they multiply); --device cpu keeps them off it.

Memory is the peak of a process, on a GPU of its arrays, with states of --utterances utterances: a
whole corpus is not in it. An untimed round holds an utterance of the greatest length.

On a busy machine wall clocks say little: --cores 1, and the ratio of the CPU time.

--check trains nothing: it compares mean vectors, logits, the loss and the gradient on copied
weights, with dropout off.

MiniLM's shape takes some six minutes on two idle CPU cores, a third of it compiling; the other
shapes want a GPU, or --utterances 64.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command
from benchmarks.engines import Engine, clock, compare, medians, serve, start, verdict
from benchmarks.finetuning_inputs import EPOCH, SHAPES, make_lengths
from benchmarks.training_inputs import PRODUCT

PRECISIONS = ("float32", "tf32", "bf16")
HEADS = (
    "from_layer", "ours", "PyTorch", "ratio", "of CPU time", "ours, s", "PyTorch, s", "ours, GB",
    "PyTorch, GB", "GFLOP/s", "of ceiling", "compile, s",
)  # fmt: skip


def main() -> int:
    parser = command.make_parser(__doc__, rounds=3)
    parser.add_argument("--torch-python", help="interpreter with torch")
    parser.add_argument("--check", action="store_true", help="compare numbers, not speed")
    parser.add_argument("--shape", choices=[*SHAPES], default="minilm", help="of the encoder")
    parser.add_argument(
        "--from-layer", type=int, nargs="+", help="states to begin at; default: 0, half, the last"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--utterances", type=int, default=512, help="a round")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of products")
    parser.add_argument("--engine", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    command.use_cores(args.cores)
    if args.engine:
        sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
        return serve(importlib.import_module(f"benchmarks.finetuning_{args.engine}").answers(args))
    layers = SHAPES[args.shape].config["num_hidden_layers"]
    args.from_layer = args.from_layer or [0, layers // 2, layers - 1]
    if not all(0 <= start < layers for start in args.from_layer):
        parser.error(f"--from-layer: wanted 0 to {layers - 1}")
    if args.batch < 1 or args.utterances < 2 * args.batch:
        parser.error("--utterances: wanted two batches or more")
    if args.check and not args.torch_python:
        parser.error("--check wants --torch-python")
    with tempfile.TemporaryDirectory() as args.folder:
        return _check(args) if args.check else _race(args)


def _start(args: argparse.Namespace, from_layer: int) -> dict[str, Engine]:
    names = ("shape", "batch", "utterances", "precision")
    flags = [x for name in names for x in (f"--{name}", str(getattr(args, name)))]
    flags += ["--check"] if args.check else []
    engines = start(__file__, args, [*flags, "--from-layer", str(from_layer)])
    found = {name: int(each.ask("parameters")) for name, each in engines.items()}
    if len({*found.values()}) > 1:
        sys.exit(f"error: not the same number of parameters: {found}")
    return engines


# ------------------------------------------------------------------------------ the race


def _race(args: argparse.Namespace) -> int:
    """Prints and keeps each row as soon as it is known."""
    report: dict = {}
    for from_layer in args.from_layer:
        print(f"from_layer {from_layer} ...", end="", file=sys.stderr, flush=True)
        engines = _start(args, from_layer)
        if not report:
            report = _describe(args)
            _print_head(report)
        row = {
            "gflop": engines["ours"].ask("gflop"),
            "product_gflop": engines["ours"].ask("gflop", "product"),
            "parameters": int(engines["ours"].ask("parameters")),
            "utterances": args.utterances // args.batch * args.batch,
        }
        compiling = {name: each.ask("warm") for name, each in engines.items()}
        row["compile_s"] = compiling["ours"]
        for what in ("product", "run"):
            times = {name: [] for name in engines}
            for turn in range(args.rounds + (what == "product")):
                for name, each in engines.items():
                    seconds = each.ask(what)
                    if turn or what == "run":  # a product's first one warms; runs are warm
                        times[name].append((seconds, each.ask("cpu")))
            for name, pairs in times.items():
                row.setdefault(name, {})[what] = medians(pairs)
        for name, each in engines.items():
            row[name]["peak_bytes"] = int(each.ask("memory"))
            each.close()
        report["rows"][str(from_layer)] = row
        cpu = [f"{name} {row[name]['run']['median_cpu_s']:.2f}" for name in engines]
        print(f" CPU seconds a round: {', '.join(cpu)}", file=sys.stderr)
        _print_row(report, from_layer, list(engines))
        command.write(report, args.json)
    _print_foot(report)
    return 0


def _describe(args: argparse.Namespace) -> dict:
    with open(os.path.join(args.folder, "ours.json"), encoding="utf-8") as f:
        described = json.load(f)
    lengths = make_lengths(SHAPES[args.shape], args.utterances)[:-1]
    return {
        **described,
        **command.machine(),
        "precision": args.precision if described["gpu"] else "float32",
        "shape": args.shape,
        "batch": args.batch,
        "rounds": args.rounds,
        "mean_length": float(np.mean(lengths)),
        "longest": int(max(lengths)),
        "rows": {},
    }


def _print_head(report: dict) -> None:
    print(
        f"{report['machine']}, {report['device']}, {report['cores']} cores, {report['precision']}"
    )
    mean, longest = report["mean_length"], report["longest"]
    print(
        f"{report['shape']}, batch {report['batch']}, lengths of {mean:.1f} in the mean, {longest} "
        f"at most; medians of {report['rounds']} interleaved rounds"
    )
    print(f"utterances/s, ratios, seconds an epoch of {EPOCH}, peak memory\n")
    print("".join(f"{head:>12}" for head in HEADS), flush=True)


def _print_row(report: dict, from_layer: int, names: Sequence[str]) -> None:
    row, of = report["rows"][str(from_layer)], clock(report)

    def median(name, time):
        return row[name]["run"][time]

    def cells(form, number):
        """Of ours, and of the better of PyTorch's by the wall clock, empty without one."""
        theirs = sorted(names[1:], key=lambda name: median(name, "median_s"))[:1]
        return [format(number(name), form) for name in ("ours", *theirs)] + [""] * (not theirs)

    ratios = [
        f"{min(median(n, time) for n in names[1:]) / median('ours', time):.2f}"
        if len(names) > 1
        else ""
        for time in ("median_s", "median_cpu_s")
    ]
    rate = row["gflop"] / median("ours", of)
    ceiling = max(row["product_gflop"] / row[name]["product"][of] for name in names)
    line = [
        str(from_layer),
        *cells(".1f", lambda name: row["utterances"] / median(name, "median_s")),
        *ratios,
        *cells(".1f", lambda name: EPOCH * median(name, "median_s") / row["utterances"]),
        *cells(".2f", lambda name: row[name]["peak_bytes"] / 1e9),
        f"{rate:.0f}",
        f"{rate / ceiling:.0%}",
        f"{row['compile_s']:.1f}",
    ]
    print("".join(f"{cell:>12}" for cell in line), flush=True)


def _print_foot(report: dict) -> None:
    print(
        "\nGFLOP/s of the products that the layers need without padding, "
        + ("of the GPU" if report["gpu"] else "by CPU time, of one core")
    )
    print(f"ceiling: the best engine's product of {PRODUCT} x {PRODUCT}")


def _check(args: argparse.Namespace) -> int:
    worst = 0.0
    for from_layer in args.from_layer:
        engines, outputs = _start(args, from_layer), []
        for name, each in engines.items():
            difference = each.ask("check")
            outputs.append(dict(np.load(os.path.join(args.folder, f"{name.split(',')[0]}.npz"))))
            each.close()
        print(f"{args.shape}, from_layer {from_layer}: largest difference over largest value")
        worst = float(np.max([worst, compare(*outputs, difference)]))  # keeps a NaN
    return verdict(worst)


if __name__ == "__main__":
    sys.exit(main())
