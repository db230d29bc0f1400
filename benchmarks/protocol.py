"""The whole protocol on one device: CM-ARR over a corpus of IEMOCAP's size, one run or many.

    python benchmarks/protocol.py [--torch-python PYTHON] [--demo] [--json FILE]

Each row is a process of its own: the loop of train.py over 5,531 random utterances at the paper's
dims and 32 positions, default configuration, every epoch validated and the best model tested under
seven conditions. One run is fold 1; fifteen are five folds x three seeds in one program. On an
accelerator each is done in every precision of the products; a CPU knows float32 alone. With PYTHON,
an interpreter with torch, the same model's steps and evaluations are measured there on the same
device, and the time that its runs would take one after another is computed from them.

--demo trains the demo corpus in each precision instead, and prints what a precision costs in UAR.

TensorFlow is not needed, and kept out. About ten minutes on a GPU; on a CPU take
--epochs 2 --utterances 320 --length 8.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

ALGORITHMS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}
_SEEDS = 3


def main() -> int:
    parser = command.make_parser(__doc__, rounds=1)
    parser.add_argument("--torch-python", help="interpreter with torch")
    parser.add_argument("--demo", action="store_true", help="compare scores, not speed")
    parser.add_argument("--precision", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--utterances", type=int, default=5531)
    parser.add_argument("--length", type=int, default=32, help="positions T")
    parser.add_argument("--case", nargs=2, metavar=("RUNS", "PRECISION"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    command.use_cores(args.cores)
    if args.case:
        sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
        command.write(run(args, int(args.case[0]), args.case[1]), args.json)
        return 0
    with tempfile.TemporaryDirectory() as args.folder:
        report = command.machine() | {"rounds": args.rounds, "cases": measure(args)}
        if args.torch_python and not args.demo:
            report["torch"] = ask_torch(args, report["cases"][0])
    _print(report, args)
    command.write(report, args.json)
    return 0


def measure(args: argparse.Namespace) -> list[dict]:
    """Every case in turn, medians over the rounds."""
    rows: dict[tuple, list[dict]] = {}
    for turn in range(args.rounds):
        for precision in args.precision:
            for runs in (5,) if args.demo else (1, 5 * _SEEDS):
                print(f"{turn + 1}/{args.rounds} {runs} runs, {precision} ...", file=sys.stderr)
                row = _in_a_process(args, runs, precision)
                rows.setdefault((precision, runs), []).append(row)
            if row["platform"] == "cpu":
                break  # where every precision is the same
    medians = []
    for each in rows.values():
        numbers = {k for k, v in each[0].items() if isinstance(v, float)}
        medians.append(each[0] | {k: statistics.median(row[k] for row in each) for k in numbers})
    return medians


def _in_a_process(args: argparse.Namespace, runs: int, precision: str) -> dict:
    file = os.path.join(args.folder, "case.json")
    line = [sys.executable, os.path.abspath(__file__), "--case", str(runs), precision]
    for flag in ("epochs", "utterances", "length", "cores", "folder"):
        line += [f"--{flag}", str(getattr(args, flag))]
    line += ["--json", file] + ["--demo"] * args.demo
    if subprocess.run(line, env=os.environ | {"PYTHONPATH": ""}).returncode:
        sys.exit(f"error: {runs} runs in {precision} stopped; its message is above")
    with open(file, encoding="utf-8") as f:
        return json.load(f)


class _NoCheckpoints:
    """A disk's speed is not what is measured."""

    def resume(self, stage, like):
        return None

    def save(self, stage, kind, epoch, state, stopped=()):
        pass


def run(args: argparse.Namespace, runs: int, precision: str) -> dict:
    """Trains and tests; seconds, rates and, of the demo, the score."""
    import jax
    import numpy as np

    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", ALGORITHMS[precision])
    from cmarr_jax.runtime.devices import prepare_to_compile

    prepare_to_compile()
    from ml_collections import FrozenConfigDict

    from benchmarks.training_inputs import make_features
    from benchmarks.training_sweep import corpus_of
    from cmarr_jax import metrics
    from cmarr_jax.data import demo, pipeline, protocol
    from cmarr_jax.experiment.prepare import make_masking
    from cmarr_jax.systems import cmarr
    from cmarr_jax.training import loop
    from cmarr_jax.training.experiment import Experiment, Sweep
    from cmarr_jax.training.runs import RunId, Settings
    from configs import common
    from configs import demo as demo_config

    if args.demo:
        path = os.path.join(args.folder, "demo")
        if not os.path.exists(path):
            demo.make(path)
        config = demo_config.get_config()
        corpus = pipeline.load(pack=path, loader="numpy", length=config.data.length)
    else:
        config = common.get_config()
        config.train.epochs = args.epochs
        num = args.utterances
        sessions = np.array([str(1 + i % 5) for i in range(num)])
        columns = {"id": np.arange(num).astype(str), "session": sessions, "speaker": sessions}
        corpus = corpus_of(make_features(num, args.length))._replace(columns=columns)
    folds = protocol.make_folds(corpus.columns, corpus.labels)
    run_ids = [RunId(fold, seed) for seed in range(_SEEDS) for fold in folds][:runs]
    conditions = protocol.make_conditions(corpus.modalities)
    model = FrozenConfigDict(config.model)
    epochs, seen = [], [time.monotonic()]

    def report(epoch: loop.Epoch) -> None:
        epochs.append(epoch)
        seen.append(time.monotonic())

    def make_system(axis):
        return cmarr.make(model, corpus.modalities, len(corpus.class_names), axis)

    settings = Settings.of(config, make_system(None).stages)
    experiment = Experiment(
        sweeps=[Sweep(config, {}, run_ids, settings)],
        corpus=corpus,
        conditions=conditions,
        masking=make_masking(config.masking, conditions),
        make_system=make_system,
        teachers=None,
        digest=corpus.digest,
    )
    best, scorer, stopped = loop.train(experiment, _NoCheckpoints(), report)
    scored = scorer.score_best(best.params, [fold.test for fold, _ in run_ids], conditions)
    end = time.monotonic()
    batch = config.train.batch_size
    trained = sum(len(fold.train) // batch * batch for fold, _ in run_ids)
    uar = [metrics.scores(s.confusion(corpus.labels).sum(axis=0)).uar for s in scored]
    later = [e.utterances_per_second for e in epochs[1:]] or [float("nan")]
    rate = statistics.median(later)
    return {
        "runs": runs,
        "precision": precision if jax.default_backend() != "cpu" else "float32",
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "stopped": sum(map(bool, stopped)),
        "seconds": end - seen[0],
        "first_epoch": seen[1] - seen[0],
        "validate_and_rest": statistics.median(np.diff(seen)[1:] if len(epochs) > 1 else [0.0])
        - (trained / rate if rate == rate else 0.0),
        "test": end - seen[-1],
        "trained": trained,
        "validated": sum(len(fold.val) for fold, _ in run_ids),
        "tested": sum(len(fold.test) for fold, _ in run_ids),
        "utterances_per_second": float(rate),
        "tflops": float(rate) * _gflop(scorer.vector, corpus, model) / 1000,
        "ceiling_tflops": _ceiling(),
        "uar": 100 * float(np.mean(uar)),
    }


def _gflop(vector, corpus, model) -> float:
    """Of the matrix products of a training step, an utterance."""
    import jax
    import jax.numpy as jnp

    from benchmarks.training_jax import products
    from cmarr_jax.systems import cmarr
    from cmarr_jax.systems.system import Batch, objective

    (stage,) = cmarr.make(model, corpus.modalities, len(corpus.class_names)).stages
    features = {m: jnp.zeros((2, *x.shape[1:])) for m, x in corpus.features.items()}
    labels = jnp.zeros(2, jnp.int32)
    batch = Batch(
        features, corpus.mask[:2], jnp.ones((2, len(features)), bool), labels, jnp.ones(2)
    )
    tree = jax.eval_shape(vector.unravel, jnp.zeros(vector.size))
    step = jax.grad(objective(stage), has_aux=True)
    counted = jax.make_jaxpr(step)(tree, batch, batch.present, jax.random.key(0))
    return products(counted.jaxpr) / 2


def _ceiling() -> float:
    """TFLOP/s of one large product in the precision that is set."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    product, a = jax.jit(jnp.matmul), jnp.ones((size, size))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - start)
    return 2e-12 * size**3 / statistics.median(times[1:])


def ask_torch(args: argparse.Namespace, ours: dict) -> dict[str, float]:
    """PyTorch's utterances a second on the same device, float32, training and evaluating."""
    from benchmarks.engines import Engine

    file = os.path.join(ROOT, "benchmarks", "training_speed.py")
    line = [args.torch_python, file, "--engine", "torch", "--folder", args.folder]
    line += ["--length", str(args.length), "--utterances", "256"]
    engine = Engine([*line, "--device", "cpu" if ours["platform"] == "cpu" else "auto"], {})
    rates = {}
    for case in ("train 16", "evaluate 7"):
        times = [engine.ask("run", case) for _ in range(4)]
        rates[case] = 256 / statistics.median(times[1:])
    return rates


def _print(report: dict, args: argparse.Namespace) -> None:
    rows = report["cases"]
    print(f"{report['machine']}, {report['cores']} cores; {rows[0]['device']}\n")
    if args.demo:
        print(f"{'precision':12}{'UAR %':>10}{'seconds':>10}")
        for row in rows:
            print(f"{row['precision']:12}{row['uar']:10.2f}{row['seconds']:10.1f}")
        return
    torch = report.get("torch")
    print(f"{args.utterances:,} utterances, T = {args.length}, {args.epochs} epochs\n")
    print(
        f"{'runs':>5}{'precision':>11}{'seconds':>10}{'1st epoch':>11}{'utt/s':>10}{'TFLOP/s':>9}"
        f"{'of product':>12}" + (f"{'PyTorch s':>12}{'ratio':>8}" if torch else "")
    )
    for row in rows:
        line = (
            f"{row['runs']:>5}{row['precision']:>11}{row['seconds']:10.1f}{row['first_epoch']:11.1f}"
            f"{row['utterances_per_second']:10.0f}{row['tflops']:9.2f}"
            f"{row['tflops'] / row['ceiling_tflops']:12.0%}"
        )
        if torch:
            theirs = args.epochs * row["trained"] / torch["train 16"]
            theirs += (args.epochs * row["validated"] + row["tested"]) / torch["evaluate 7"]
            line += f"{theirs:12.0f}{theirs / row['seconds']:8.1f}"
        print(line)
    for precision in dict.fromkeys(row["precision"] for row in rows):
        one, many = (row["seconds"] for row in rows if row["precision"] == precision)
        print(f"\n{precision}: {5 * _SEEDS} runs take {many / one:.2f} times the time of one")
    if torch:
        print("\nPyTorch: its own measured rates, float32, one run after another")


if __name__ == "__main__":
    sys.exit(main())
