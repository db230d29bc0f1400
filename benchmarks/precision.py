"""What a precision costs in UAR: the demo corpus, five folds x three seeds, the same runs in each.

    python benchmarks/precision.py [--precision float32 bf16] [--epochs 12] [--json FILE]

The first precision is what the others are compared with, run by run: a fold with a seed begins
with the same weights and sees the same batches in all of them. A row is printed when it is known.
On two idle CPU cores float32 takes about ten minutes, bf16 up to three times as long.
"""

import os
import statistics
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

_SEEDS = 3


def main() -> int:
    parser = command.make_parser(__doc__, rounds=0)
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=_SEEDS)
    args = parser.parse_args()
    command.use_cores(args.cores)
    import cmarr_jax
    from cmarr_jax.data import demo

    report = command.machine() | {"epochs": args.epochs, "seeds": args.seeds, "rows": []}
    print(f"{report['machine']}, {report['cores']} cores; demo corpus, {args.epochs} epochs\n")
    print(
        f"{'precision':<10}{'missing UAR %':>14}{'full UAR %':>12}{'difference':>12}"
        f"{'its error':>11}{'worst run':>11}{'seconds':>9}"
    )
    config = os.path.join(ROOT, "configs", "demo.py")
    with tempfile.TemporaryDirectory() as folder:
        pack = os.path.join(folder, "pack")
        demo.make(pack)
        first = None
        for precision in args.precision:
            start = time.monotonic()
            workdir = os.path.join(folder, precision)
            fields = {"precision": precision, "num_seeds": args.seeds, "train.epochs": args.epochs}
            cmarr_jax.train(config, pack, workdir, **fields)
            missing, full = _scores(workdir)
            first = first or missing
            differences = [missing[run] - first[run] for run in first]
            row = {
                "precision": precision,
                "missing": statistics.fmean(missing.values()),
                "full": statistics.fmean(full.values()),
                "difference": statistics.fmean(differences),
                "error": statistics.stdev(differences) / len(differences) ** 0.5,
                "worst": min(differences),
                "seconds": time.monotonic() - start,
                "runs": {" ".join(run): uar for run, uar in missing.items()},
            }
            report["rows"].append(row)
            command.write(report, args.json)
            print(
                f"{precision:<10}{row['missing']:>14.2f}{row['full']:>12.2f}"
                f"{row['difference']:>+12.2f}{row['error']:>11.2f}{row['worst']:>+11.2f}"
                f"{row['seconds']:>9.0f}",
                flush=True,
            )
    print("\ndifference: to the first row, run by run; its error: the standard error of that mean")
    return 0


def _scores(workdir: str) -> tuple[dict, dict]:
    """(fold, seed) -> UAR in percent: mean over the missing conditions, and of complete data."""
    from cmarr_jax.results.rows import read_results

    rows = read_results(workdir)
    complete = max((row["condition"] for row in rows), key=len)
    missing: dict[tuple, list] = {}
    full = {}
    for row in rows:
        run, uar = (row["fold"], row["seed"]), 100 * float(row["uar"])
        if row["condition"] == complete:
            full[run] = uar
        else:
            missing.setdefault(run, []).append(uar)
    return {run: statistics.fmean(each) for run, each in missing.items()}, full


if __name__ == "__main__":
    sys.exit(main())
