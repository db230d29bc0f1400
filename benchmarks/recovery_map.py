"""Where recovering a missing modality helps: systems over shared content and corpus size.

    python benchmarks/recovery_map.py --out OUT [--grid small|full] [--seeds N] [--minutes N]
    python benchmarks/recovery_map.py --out OUT --dry-run      the cells and the expected time
    python benchmarks/recovery_map.py --out OUT --figure docs/recovery_map.png docs/recovery_map.pdf

A cell is one system on one made-up corpus (cmarr_jax/data/demo.py) whose modalities have a known
share of their content in common: five folds x --seeds, T = 32, the model of configs/demo.py. Each
system is updated equally often at every size: the epochs that its config has are for 6,000
utterances, and fewer are seen more often. The epoch that is tested is chosen on validation.

    small   shared 0, 0.5, 1; 600 and 2,000 utterances; CM-ARR, Augmented, the Baseline, MMIN
    full    shared 0, 0.25, 0.5, 0.75, 1; 600, 2,000 and 6,000 utterances; also the five other
            variants of Table 3

--shared, --utterances and --systems take the place of the grid's. OUT/recovery_map.csv gets a row a
cell as it ends, and the cells that it holds are left alone: on another machine that file is enough.
A cell that was interrupted is trained anew from its last epoch that was saved. Packs, 14 GB of the
full grid, and work directories are in OUT too. With --minutes no cell is begun that would not end
in time: what it takes is known from this device's rows, else roughly. --figure draws what the file
holds, beside the ceiling that the made-up corpus is known to have.

A small corner as a trial, minutes on two CPU cores:

    python benchmarks/recovery_map.py --out OUT --shared 0 1 --utterances 200 --length 4 \\
        --epochs 2 --systems cmarr augmented
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

import numpy as np
from ml_collections import ConfigDict

from benchmarks import command
from benchmarks.recovery_figure import MAIN, PARTS, Cell, caption, cell_of, draw
from cmarr_jax.cli import arguments, boundary, config_files
from cmarr_jax.cli.units import duration
from cmarr_jax.data import demo
from cmarr_jax.errors import UserError
from cmarr_jax.results import paired
from cmarr_jax.runtime import exits
from cmarr_jax.runtime.files import write_csv
from cmarr_jax.workdir import files, status

TABLE = "recovery_map.csv"
GRIDS = {
    "small": ((0.0, 0.5, 1.0), (600, 2000), MAIN),
    "full": ((0.0, 0.25, 0.5, 0.75, 1.0), (600, 2000, 6000), MAIN + PARTS),
}
SETTINGS = ("noise", "length", "epochs", "seeds")  # in which all rows of a table agree
_SCORES = ("avg_war", "avg_uar", "full_war", "full_uar", "rec_error")
_REFERENCE = 6000  # utterances that the configs' epochs are for
_SECONDS_AN_UTTERANCE = 0.025  # to make a pack
# Of a device whose rows are not there yet: seconds to compile, test and draw, and how many
# utterances x positions a second CM-ARR trains. Measured on two idle Xeon cores and, with fifteen
# runs of twice this width, on an H200.
_ROUGHLY = {"cpu": (100.0, 4000.0)}
_ACCELERATOR = (150.0, 600_000.0)
_COST = {"augmented": 0.2, "full_modality": 0.2, "mmin": 0.4}  # an utterance of a stage; CM-ARR 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments.make_parser("python benchmarks/recovery_map.py", __doc__)
    parser.add_argument("--out", required=True, metavar="OUT", help="folder of all that is made")
    parser.add_argument("--grid", choices=GRIDS, default="full", help="(default: full)")
    parser.add_argument("--shared", type=float, nargs="+", metavar="SHARE", help="0 to 1")
    parser.add_argument("--utterances", type=int, nargs="+", metavar="N")
    parser.add_argument(
        "--systems", nargs="+", metavar="SYSTEM", help="arguments of configs/demo.py"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of each fold (default: 1)")
    parser.add_argument("--noise", type=float, default=1.0, help="of the frames (default: 1)")
    parser.add_argument("--length", type=int, default=32, help="positions T (default: 32)")
    parser.add_argument(
        "--epochs", type=int, default=0, help="of each stage, at every size; 0 = as said above"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="(default: no limit)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; do nothing")
    parser.add_argument("--figure", nargs="+", metavar="FILE", help="draw into .png or .pdf")
    os.environ["MPLBACKEND"] = "agg"  # it writes files

    def run() -> int:
        args = parser.parse_args(argv)
        if not args.figure:
            return fill(args)
        from cmarr_jax.results import figure_files  # matplotlib takes a second to import

        rows = read(args.out)
        if not rows:
            raise UserError(f"--figure: {os.path.join(args.out, TABLE)} holds no cell yet")
        figure_files.write(draw(rows), args.figure, caption(rows))
        print(f"drawn: {', '.join(args.figure)}")
        return 0

    return boundary.run(run, "the same command goes on from here")


def fill(args: argparse.Namespace) -> int:
    """Trains the cells that the table lacks, or says what that would take; the exit code."""
    start, rows, wanted = time.monotonic(), read(args.out), cells(args)
    check(args, wanted, rows)
    done = {cell_of(row) for row in rows}
    missing = [cell for cell in wanted if cell not in done]
    print(f"{len(wanted)} cells, {len(wanted) - len(missing)} of them in the table", flush=True)
    device, kind = find_device()
    total, code = 0.0, exits.DONE
    for cell in missing:
        seconds = expected(args, cell, rows, device, kind)
        total += seconds
        if args.dry_run:
            print(f"{cell!s:<52}{duration(seconds):>9}")
        elif time.monotonic() - start + seconds > 60 * args.minutes:
            print(
                f"{cell}: not begun, it takes about {duration(seconds)}; the same command goes on"
            )
            return code
        elif row := train(args, cell, device):
            rows.append(row)
            write_csv(os.path.join(args.out, TABLE), rows)
            print(describe(row), flush=True)
        else:
            code = exits.INCOMPLETE
    if args.dry_run:
        known = sum(row["device"] == device for row in rows)
        source = f"by {known} cells of this device" if known else "roughly"
        print(f"expected on {device}, {source}: {duration(total)}; nothing was written")
    return code


def cells(args: argparse.Namespace) -> list[Cell]:
    """All that was asked for, the small corpora first."""
    shares, sizes, systems = GRIDS[args.grid]
    return [
        Cell(shared, size, system)
        for size in sorted(args.utterances or sizes)
        for shared in args.shared or shares
        for system in args.systems or systems
    ]


def check(args: argparse.Namespace, wanted: Sequence[Cell], rows: Sequence[Mapping]) -> None:
    """Refuses, by a UserError, what could not be trained or would not belong into the table."""
    for cell in wanted:
        demo.check(cell.utterances, 0, cell.shared, args.noise)
        make_config(args, cell)
    for name in ("seeds", "length"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: wanted 1 or more")
    for row in rows:
        for name in SETTINGS:
            if float(row[name]) != getattr(args, name):
                raise UserError(
                    f"{os.path.join(args.out, TABLE)}: its cells have --{name}={row[name]}, not "
                    f"{getattr(args, name)}; take that, or name another --out"
                )


def make_config(args: argparse.Namespace, cell: Cell) -> ConfigDict:
    """The config of a cell; equally many updates at every size unless the epochs are given."""
    config = config_files.get(f"configs/demo.py:{cell.system}")
    if config.members:
        raise UserError(f"--systems {cell.system}: stands for several; name them")
    with config.unlocked():
        config.data.length, config.data.loader = args.length, "numpy"
        config.num_seeds = args.seeds
        for stage in (config.train, config.pretrain):
            scaled = round(stage.epochs * _REFERENCE / cell.utterances)
            stage.epochs = args.epochs or max(scaled, 1)
    return config


def find_device() -> tuple[str, str]:
    """What the table calls the device, and its kind: "cpu", "gpu", "tpu"."""
    import jax

    kind = jax.default_backend()
    cores = len(os.sched_getaffinity(0))
    cpu = f"{cores} cores of {command.processor()}"
    return cpu if kind == "cpu" else f"{jax.device_count()} x {jax.devices()[0].device_kind}", kind


def expected(
    args: argparse.Namespace, cell: Cell, rows: Sequence[Mapping], device: str, kind: str
) -> float:
    """Seconds that a cell would take: those of this system on this device, else roughly."""
    known = [
        float(r["seconds"]) for r in rows if (r["device"], r["system"]) == (device, cell.system)
    ]
    if known and not args.epochs:  # equally many updates at every size
        return max(known)
    config = make_config(args, cell)
    stages = [config.train] + [config.pretrain] * (cell.system == "mmin")
    seen = sum(stage.epochs for stage in stages) * 0.72 * cell.utterances * 5 * args.seeds
    seen *= _COST.get(cell.system, 1.0)
    fixed, rate = _ROUGHLY.get(kind, _ACCELERATOR)
    return fixed + seen * args.length / rate + _SECONDS_AN_UTTERANCE * cell.utterances


def train(args: argparse.Namespace, cell: Cell, device: str) -> dict[str, Any] | None:
    """The table's row of a cell; None, after a line that says why, where no run ended well."""
    import jax

    from cmarr_jax.experiment import run

    name = f"{cell.utterances}-{cell.shared:g}"
    pack = os.path.join(args.out, "packs", name)
    if not os.path.exists(pack):
        os.makedirs(os.path.dirname(pack), exist_ok=True)
        print(f"making {pack}", file=sys.stderr)
        demo.make(pack, cell.utterances, shared=cell.shared, noise=args.noise)
    folder = os.path.join(args.out, "runs", name, cell.system)
    jax.clear_caches()  # programs of other cells, which nothing calls again
    try:
        run.train(make_config(args, cell), pack, folder)
    except UserError:
        if not (os.path.exists(os.path.join(folder, files.STATUS)) and status.stopped_runs(folder)):
            raise
        print(f"{cell}: every run was stopped, no row", flush=True)
        return None
    return row_of(args, cell, folder, device)


def row_of(args: argparse.Namespace, cell: Cell, folder: str, device: str) -> dict[str, Any]:
    """A row of the table, from the work directory of a finished cell."""
    summary = {row["condition"]: row for row in files.read_csv(os.path.join(folder, files.SUMMARY))}
    results = files.read_csv(os.path.join(folder, files.RESULTS))
    row = cell._asdict() | {name: getattr(args, name) for name in SETTINGS}
    for name in _SCORES:
        condition, _, score = name.partition("_")
        if name == "rec_error":
            condition, score = "avg", name
        for end in ("", "_std"):
            row[name + end] = summary[condition][score + end]
    row["fold_avg_uar"] = " ".join(f"{f}={x:.6f}" for f, x in avg_by_fold(results).items())
    row["test_over_train"] = f"{paired.test_over_train(results):.6f}"
    row["runs"] = summary["avg"]["runs"]
    row["seconds"] = status.read_status(folder)["seconds"]
    return row | {"device": device, "corpus": status.corpus_of(folder)[1]}


def avg_by_fold(results: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Fold -> UAR, the mean over the missing conditions and the seeds."""
    missing = [r for r in results if r["condition"] != results[-1]["condition"]]
    return {
        fold: float(np.mean([float(r["uar"]) for r in missing if r["fold"] == fold]))
        for fold in dict.fromkeys(r["fold"] for r in missing)
    }


def describe(row: Mapping[str, Any]) -> str:
    """A row as a line."""
    scores = [f"{name} {100 * float(row[name]):.1f}" for name in _SCORES[:4]]
    error = f", rec. error {float(row['rec_error']):.2f}" if row["rec_error"] else ""
    return f"{cell_of(row)}: {', '.join(scores)} %{error}; {duration(float(row['seconds']))}"


def read(out: str) -> list[dict[str, Any]]:
    """The table's rows; none where there is no table yet."""
    file = os.path.join(out, TABLE)
    try:
        rows = files.read_csv(file) if os.path.exists(file) else []
        for row in rows:
            cell_of(row), [float(row[name]) for name in (*SETTINGS, *_SCORES[:4], "seconds")]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{file}: damaged ({e!r}); remove it, and every cell is made anew"
        ) from None
    return rows


if __name__ == "__main__":
    sys.exit(main())
