"""Whether reading keeps up with training: the tf.data pipeline beside the training step.

    python benchmarks/pipeline.py [--pack PACK] [--rounds N] [--cores N] [--json FILE]

train.py reads a pack through tf.data once, before the first step; its arrays then stay in memory,
and a step gathers its batch there. The pipeline's rate beside the step's says how much faster
reading is than one epoch, and what a loop that read each batch anew would have. Rates are in
utterances a second, of the prepared dataset (its first preparation is timed by itself; it is opened
once, as the step is compiled once), pooled to the positions that the step takes. Without --pack the
demo corpus is made for it. Five minutes for IEMOCAP on two cores, most of them the first case's.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command
from cmarr_jax.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
TARGET = 5.0  # times the fastest step
_UTTERANCES = 20_000  # read at least so many a round, so that opening the files hardly counts
# Systems of one stage, as a config's argument names them; the last two are the fastest there are.
CASES = ("", "augmented", "pooled", "pooled,augmented")


def main() -> int:
    parser = command.make_parser(__doc__, rounds=5)
    parser.add_argument("--pack", help="folder of a feature pack")
    parser.add_argument("--case", nargs="+", default=CASES, help="arguments of configs/iemocap.py")
    args = parser.parse_args()
    command.use_cores(args.cores)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, folder)
    print(f"\ntarget: {TARGET:.0f} times the fastest step")
    command.write(report, args.json)
    return 0


def measure(args: argparse.Namespace, folder: str) -> dict:
    import jax
    import numpy as np

    from benchmarks.training_sweep import CompiledSweep
    from cmarr_jax.data import demo, pipeline, tfds_builder, tfds_reader
    from cmarr_jax.runtime.devices import prepare_to_compile
    from configs import iemocap

    jax.config.update("jax_num_cpu_devices", 1)
    prepare_to_compile()
    pack = args.pack or demo.make(os.path.join(folder, "pack")).path
    start = time.monotonic()
    builder = tfds_builder.prepare(pack, os.path.join(folder, "tfds"))
    report = command.machine() | {
        "prepared_s": time.monotonic() - start,
        "rounds": args.rounds,
        "cases": {},
    }

    print(f"{report['machine']}, {report['cores']} cores, load average {report['load']:.1f}")
    print(
        f"prepared in {report['prepared_s']:.1f} s; medians of {args.rounds} interleaved rounds\n"
    )
    print(f"{'utterances/s':28}{'pipeline':>12}{'step':>12}{'ratio':>10}{'of CPU time':>14}")
    for case in args.case:
        config = iemocap.get_config(case)
        corpus = pipeline.load(
            pack=pack,
            data_dir=os.path.join(folder, "tfds"),
            align=config.data.align,
            length=config.data.length,
            statistics=config.data.statistics,
        )
        num, size = len(corpus.labels), config.train.batch_size
        order = np.random.default_rng(0).permutation(num)[: num // size * size]
        step = CompiledSweep(config, corpus).train(order.reshape(-1, size).astype(np.int32))

        passes = -(-_UTTERANCES // num)
        batches = tfds_reader.batches(
            builder,
            align=config.data.align,
            length=config.data.length,
            statistics=config.data.statistics,
        ).repeat(passes)

        def read(batches=batches, wanted=num * passes):
            assert sum(len(b["index"]) for b in batches.as_numpy_iterator()) == wanted

        row = {f"{name}_{t}": [] for name in ("pipeline", "step") for t in ("wall", "cpu")}
        for turn in range(args.rounds + 1):
            for name, call in (("pipeline", read), ("step", step)):
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                if turn:  # the first one compiles
                    row[f"{name}_cpu"].append(time.process_time() - cpu)
                    row[f"{name}_wall"].append(time.perf_counter() - wall)
        medians = {key: statistics.median(values) for key, values in row.items()}
        name = f"{case or 'cmarr'}, T = {config.data.length}"
        report["cases"][name] = medians | {"read": num * passes, "trained": len(order)}
        rates = [num * passes / medians[f"pipeline_{t}"] for t in ("wall", "cpu")]
        steps = [len(order) / medians[f"step_{t}"] for t in ("wall", "cpu")]
        print(
            f"{name:28}{rates[0]:12.0f}{steps[0]:12.0f}{rates[0] / steps[0]:10.1f}"
            f"{rates[1] / steps[1]:14.1f}",
            flush=True,
        )
        report |= {"corpus": corpus.name, "utterances": num}
    return report


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as e:
        sys.exit(f"error: {e}")
