"""How the cost of training grows: seconds and bytes of an epoch by each size of the problem.

    python benchmarks/growth.py [--rounds N] [--cores N] [--json FILE] [--figure FILE ...]

One size grows at a time, the others stay: utterances, positions T, runs (on one device) and
modalities. The model is configs/demo.py's CM-ARR, the features are random, 512 numbers each. Time
is the CPU time of an epoch, the median of rounds in which all sizes take turns; memory is what
XLA says that the compiled epoch needs: its arguments, results and temporaries. The last column is
the slope of a line through the logarithms: 1 = linear, less = a part of the cost does not grow.
With modalities it is more, for a single one has nothing to attend to: from there on each costs
the same.
FILE of --figure ends in .pdf or .png. About ten minutes of one core, half of it compiling.
"""

import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

BASE = {"utterances": 128, "length": 16, "runs": 1, "modalities": 3}
SIZES = {
    "utterances": (64, 128, 256, 512),
    "length": (4, 8, 16, 32),
    "runs": (1, 2, 4, 8),
    "modalities": (1, 2, 3),
}
MEASURES = {"seconds": "CPU seconds", "mebibytes": "memory, MiB"}
_DIM, _BATCH = 512, 32


def main() -> int:
    parser = command.make_parser(__doc__, rounds=5)
    parser.add_argument("--figure", nargs="+", default=[], help="draw them into these files")
    args = parser.parse_args()
    command.use_cores(args.cores)
    sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
    report = measure(args.rounds)
    print(
        f"{report['machine']}, {report['cores']} cores, load average {report['load']:.1f}; "
        f"medians of {args.rounds} interleaved rounds"
    )
    print("otherwise " + ", ".join(f"{n} {size}" for size, n in BASE.items()) + "\n")
    for size, rows in report["sizes"].items():
        print(f"{size:14}" + "".join(f"{n:>10}" for n in rows) + f"{'slope':>10}")
        for key, name in MEASURES.items():
            values = [row[key] for row in rows.values()]
            numbers = "".join(f"{v:10.2f}" for v in values)
            print(f"  {name:12}{numbers}{slope(rows, key):10.2f}")
    command.write(report, args.json)
    if args.figure:
        draw(report, args.figure)
    return 0


def measure(rounds: int) -> dict:
    """-> machine and, of each size, value -> seconds and mebibytes."""
    import jax

    from cmarr_jax.runtime.devices import prepare_to_compile

    jax.config.update("jax_num_cpu_devices", 1)
    prepare_to_compile()
    points = {tuple((BASE | {s: n}).items()) for s, sizes in SIZES.items() for n in sizes}
    runners, memory = {}, {}
    for k, point in enumerate(sorted(points)):
        print(f"compiling {k + 1}/{len(points)} ...", file=sys.stderr)
        runners[point], memory[point] = compiled(**dict(point))
    times = {point: [] for point in points}
    for turn in range(rounds + 1):
        print(f"round {turn}/{rounds} ...", file=sys.stderr)
        for point, run in runners.items():
            start = time.process_time()
            run()
            seconds = time.process_time() - start
            print(f"  {', '.join(f'{n} {v}' for n, v in point)}: {seconds:.2f} s", file=sys.stderr)
            if turn:  # the first one warms
                times[point].append(seconds)
    report = command.machine() | {"rounds": rounds, "base": BASE, "sizes": {}}
    for size, values in SIZES.items():
        of = {n: tuple((BASE | {size: n}).items()) for n in values}
        report["sizes"][size] = {
            n: {"seconds": statistics.median(times[p]), "mebibytes": memory[p] / 2**20}
            for n, p in of.items()
        }
    return report


def compiled(utterances: int, length: int, runs: int, modalities: int):
    """A function that runs an epoch, and the bytes that it needs."""
    import numpy as np

    from benchmarks.training_sweep import CompiledSweep, corpus_of
    from configs import demo

    rng = np.random.default_rng(0)
    features = {
        name: rng.standard_normal((utterances, length, _DIM), np.float32)
        for name in ("text", "speech", "video")[:modalities]
    }
    data = {
        "features": features,
        "mask": np.ones((utterances, length), bool),
        "present": np.ones((utterances, modalities), bool),
        "labels": rng.integers(4, size=utterances).astype(np.int32),
    }
    made = CompiledSweep(demo.get_config(), corpus_of(data), runs)
    epoch, (state, *rest) = made.epoch(np.arange(utterances, dtype=np.int32).reshape(-1, _BATCH))
    program = epoch.lower(state, *rest).compile()
    needs = program.memory_analysis()
    size = needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes

    def run():
        nonlocal state
        state, terms = program(state, *rest)
        made.layout.collect(terms)

    return run, size - needs.alias_size_in_bytes


def slope(rows: dict[int, dict[str, float]], key: str) -> float:
    """Of the least-squares line through log n and log cost."""
    import numpy as np

    return float(np.polyfit(np.log(list(rows)), np.log([r[key] for r in rows.values()]), 1)[0])


def draw(report: dict, files: list[str]) -> None:
    """A panel a size: time and memory over those of its smallest value, and a linear one's."""
    import matplotlib
    import matplotlib.pyplot as plt

    from cmarr_jax.results import figure_files, style

    with matplotlib.rc_context(style.STYLE):
        figure, panels = plt.subplots(1, 4, figsize=(style.TWO_COLUMNS, 1.9), sharey=True)
        for axes, (size, rows) in zip(panels, report["sizes"].items(), strict=True):
            values, least = list(rows), next(iter(rows))
            axes.plot(values, [n / least for n in values], ":", color=style.GREY, linewidth=0.8)
            for key, marker, colour in zip(MEASURES, "os", style.SERIES, strict=False):
                costs = [rows[n][key] / rows[least][key] for n in values]
                label = f"{'time' if key == 'seconds' else 'memory'}, slope {slope(rows, key):.2f}"
                axes.plot(
                    values, costs, color=colour, marker=marker, markersize=3, linewidth=1,
                    label=label,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(values, [str(n) for n in values])
            axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            axes.minorticks_off()
            axes.set_xlabel(size)
            axes.legend(frameon=False, fontsize=6, handlelength=1.5, borderpad=0)
        panels[0].set_ylabel("times the smallest")
    figure_files.write(
        figure,
        files,
        "CPU time and memory of a training epoch as one size grows, over those at its smallest "
        "value; dotted: linear growth. " + report["machine"] + ".",
    )


if __name__ == "__main__":
    sys.exit(main())
