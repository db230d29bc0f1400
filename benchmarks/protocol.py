"""The whole protocol on one device: CM-ARR on a corpus of IEMOCAP's size, one run and fifteen.

    python benchmarks/protocol.py [--minutes 10] [--precision bf16 tf32 float32] [--json FILE]
    python benchmarks/protocol.py --torch-python PYTHON     PyTorch's rates in the same call
    python benchmarks/protocol.py --trace FOLDER            a trace of two steps, under 10 MB

5,531 random utterances at the paper's dims and 32 positions, default configuration. Fifteen runs
are five folds x three seeds in one program. For each precision, in a process of its own:

    ceiling    what one large product and one large copy reach, the roofline of the rows below
    step       a training step; TFLOP/s of its matrix products, GB/s of what it has to move if
               all is fused (benchmarks/ideal_bytes.py), and their shares of the ceilings
    compile    from nothing to the end of an epoch of --steps steps: cold, then from the cache
    evaluate   posteriors under all seven conditions
    protocol   train, validate after each epoch, test; as many epochs as the minutes allow, and
               from these the time of --epochs

Each row is printed, and kept in FILE, when it is known. What would not end within --minutes is
left out by a line that says so. PYTHON is an interpreter with torch: benchmarks/torch_cmarr.py is
then timed first, eagerly, at batch 16 and 64.

TensorFlow is not needed, and kept out. A rehearsal on a CPU, about three minutes:

    python benchmarks/protocol.py --precision float32 --utterances 64 --length 4 --steps 2 \\
        --runs 1 2 --epochs 2 --argument train.batch_size=8,model.width=32,model.flow.hidden=32
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

PRECISIONS = ("bf16", "tf32", "float32")
_SEEDS = 3
_TRACE_LIMIT = 10e6  # bytes


def main() -> int:
    parser = command.make_parser(__doc__, rounds=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything together")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 5 * _SEEDS])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--utterances", type=int, default=5531)
    parser.add_argument("--length", type=int, default=32, help="positions T")
    parser.add_argument("--steps", type=int, default=20, help="of a timed epoch")
    parser.add_argument("--argument", default="", help="variants and fields, as a config's")
    parser.add_argument("--trace", metavar="FOLDER", help="trace two steps of the last --runs")
    parser.add_argument("--torch-python", help="interpreter with torch")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # a child's time.time()
    args = parser.parse_args()
    command.use_cores(args.cores)
    if args.until:
        sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
        return Case(args).run()
    args.until = time.time() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        args.json = args.json or os.path.join(folder, "report.json")
        command.write(command.machine() | {"minutes": args.minutes, "rows": []}, args.json)
        if args.torch_python:
            _time_torch(args, folder)
        return max(_in_a_process(args, k) for k in range(len(args.precision)))


def _in_a_process(args: argparse.Namespace, number: int) -> int:
    """Runs one precision, with its share of the time that is left."""
    left = args.until - time.time()
    until = time.time() + left / (len(args.precision) - number)
    line = [sys.executable, os.path.abspath(__file__), "--precision", args.precision[number]]
    for flag in ("rounds", "cores", "epochs", "utterances", "length", "steps", "argument", "json"):
        line += [f"--{flag}={getattr(args, flag)}"]
    line += ["--runs", *map(str, args.runs), f"--until={until}"]
    line += [f"--trace={args.trace}"] if args.trace else []
    return subprocess.run(line).returncode


def _keep(args: argparse.Namespace, row: dict) -> None:
    """Adds a row to the JSON."""
    with open(args.json, encoding="utf-8") as f:
        report = json.load(f)
    report["rows"].append(row)
    command.write(report, args.json)


def _time_torch(args: argparse.Namespace, folder: str) -> None:
    """PyTorch's utterances a second on the same device."""
    from benchmarks.engines import Engine

    file = os.path.join(ROOT, "benchmarks", "training_speed.py")
    line = [args.torch_python, file, "--engine", "torch", "--folder", folder]
    line += ["--length", str(args.length), "--utterances", "256", "--precision", "tf32"]
    engine = Engine(line, {})
    for case in ("train 16", "train 64", "evaluate 7"):
        times = [engine.ask("run", case) for _ in range(args.rounds + 1)]
        row = {"case": f"PyTorch, {case}", "utterances_per_second": 256 / min(times[1:])}
        _keep(args, row)
        print(f"{row['case']:<28}{row['utterances_per_second']:>10.0f} utterances/s", flush=True)
    engine.close()


class Case:
    """All rows of one precision, in this process."""

    def __init__(self, args: argparse.Namespace):
        import jax

        from benchmarks.training_inputs import make_features
        from benchmarks.training_sweep import corpus_of
        from cmarr_jax.runtime.devices import prepare_to_compile
        from cmarr_jax.systems import precision
        from configs import common

        prepare_to_compile()
        self._args = args
        self._config = common.with_variants(common.get_config(), args.argument)
        data = make_features(args.utterances, args.length)
        data["features"] = {m: x.astype("float16") for m, x in data["features"].items()}
        self._corpus = corpus_of(data)
        self._precision = precision.choose(args.precision[0])
        self._device = jax.devices()[0]
        self._ceilings = (0.0, 0.0)  # TFLOP/s, GB/s
        self._step_seconds: dict[int, float] = {}  # by number of runs
        self._evaluated: dict[int, float] = {}  # seconds an utterance, all runs
        self._compile_seconds = 0.0

    def run(self) -> int:
        """Prints and keeps every row that the time allows; returns the exit code."""
        print(f"\n{self._precision.name}, {self._device.device_kind}", flush=True)
        self._ceiling()
        for runs in self._args.runs:
            self._train(runs)
            self._evaluate(runs)
        self._protocol(self._args.runs[-1])
        return 0

    @property
    def _left(self) -> float:
        """Seconds."""
        return self._args.until - time.time()

    def _row(self, case: str, runs: int, text: str, **figures: float) -> None:
        row = {"precision": self._precision.name, "device": self._device.device_kind, "runs": runs}
        _keep(self._args, row | {"case": case} | figures)
        named = f"{case}, {runs} run{'s' * (runs > 1)}" if runs else case
        print(f"{named:<28}{text}", flush=True)

    def _fits(self, case: str, runs: int, seconds: float) -> bool:
        if seconds <= self._left:
            return True
        self._row(case, runs, f"left out: about {seconds:.0f} s, {max(self._left, 0):.0f} are left")
        return False

    def _roof(self, tflops: float, gigabytes: float) -> str:
        most = self._ceilings
        shares = tflops / most[0], gigabytes / most[1]
        return f"{tflops:9.2f} TFLOP/s {shares[0]:4.0%}{gigabytes:9.1f} GB/s {shares[1]:4.0%}"

    # -------------------------------------------------------------------------- rows

    def _ceiling(self) -> None:
        import jax
        import jax.numpy as jnp

        on_cpu = self._device.platform == "cpu"
        size, length = (1024, 1 << 24) if on_cpu else (8192, 1 << 28)
        a, x = jnp.ones((size, size), self._precision.dtype), jnp.ones(length)
        with self._precision.multiplying():
            product = jax.jit(jnp.matmul).lower(a, a).compile()
        copy = jax.jit(lambda x: x + 1)
        seconds = [
            self._median(lambda: product(a, a)),
            self._median(lambda: copy(x)),
        ]
        self._ceilings = 2e-12 * size**3 / seconds[0], 8e-9 * length / seconds[1]
        figures = {"tflops": self._ceilings[0], "gigabytes_per_second": self._ceilings[1]}
        self._row("ceiling", 0, self._roof(*self._ceilings), **figures)

    def _median(self, call) -> float:
        import jax

        times = []
        for _ in range(self._args.rounds + 1):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def _train(self, runs: int) -> None:
        """Compiles, cold and from the cache, then times steps."""
        import jax
        import numpy as np

        if not self._fits("step", runs, 2 * self._compile_seconds):
            return
        batch = self._config.train.batch_size
        steps = self._args.steps
        rows = np.random.default_rng(0).integers(0, self._args.utterances, (steps, batch))
        with tempfile.TemporaryDirectory() as cache:
            kept = jax.config.jax_compilation_cache_dir
            self._use_cache(cache)
            cold, made, run = self._first_epoch(runs, rows)
            self._row("compile", runs, f"{cold:10.1f} s to the end of {steps} steps", seconds=cold)
            self._compile_seconds = max(self._compile_seconds, cold)
            seconds = self._median(run) / steps
            self._step_seconds[runs] = seconds
            moved, flops = self._per_run_step()
            rate = runs * batch / seconds
            tflops, gigabytes = runs * flops / seconds / 1e12, runs * moved / seconds / 1e9
            text = f"{1000 * seconds:10.2f} ms{rate:10.0f} utterances/s"
            text += self._roof(tflops, gigabytes) + self._ratio(rate, f"train {batch}")
            self._row(
                "step",
                runs,
                text,
                seconds=seconds,
                utterances_per_second=rate,
                tflops=tflops,
                gigabytes_per_second=gigabytes,
                share_of_product=tflops / self._ceilings[0],
                share_of_copy=gigabytes / self._ceilings[1],
            )
            if self._args.trace and runs == self._args.runs[-1]:
                self._trace(made, rows[:2])
            del made, run
            if self._fits("from cache", runs, cold):
                jax.clear_caches()
                warm, *_ = self._first_epoch(runs, rows)
                self._row("from cache", runs, f"{warm:10.1f} s to the same", seconds=warm)
            self._use_cache(kept)

    def _use_cache(self, folder: str) -> None:
        import jax
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", folder)

    def _first_epoch(self, runs: int, rows):
        from benchmarks.training_sweep import CompiledSweep

        start = time.perf_counter()
        made = CompiledSweep(self._config, self._corpus, runs, self._precision)
        run = made.train(rows.astype("int32"))
        run()
        return time.perf_counter() - start, made, run

    def _per_run_step(self) -> tuple[float, float]:
        """Bytes that a step of one run has to move if all is fused, and FLOP of its products."""
        import jax

        from benchmarks import ideal_bytes
        from benchmarks.training_jax import products
        from benchmarks.training_sweep import programs

        program = next(iter(programs(self._config, self._corpus, 1, self._precision, steps=1)))
        traced = jax.make_jaxpr(program.function)(*program.shapes)
        return ideal_bytes.Count(traced).total, 1e9 * products(traced.jaxpr)

    def _trace(self, made, rows) -> None:
        """A trace of two steps, by which a step's kernels can be told apart."""
        import jax

        run = made.train(rows.astype("int32"))
        run()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 1
        jax.profiler.start_trace(self._args.trace, profiler_options=options)
        run()
        jax.profiler.stop_trace()
        size = sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(self._args.trace)
            for name in names
        )
        verdict = "" if size < _TRACE_LIMIT else ", MORE than 10 MB"
        text = f"{size / 1e6:10.1f} MB in {self._args.trace}{verdict}"
        self._row("trace", self._args.runs[-1], text, megabytes=size / 1e6)

    def _evaluate(self, runs: int) -> None:
        import numpy as np

        from benchmarks.training_sweep import CompiledSweep
        from cmarr_jax.data import protocol

        if not self._fits("evaluate", runs, self._compile_seconds):
            return
        size = min(self._config.train.eval_batch_size, self._args.utterances)
        rows = np.arange(self._args.utterances // size * size, dtype=np.int32).reshape(-1, size)
        start = time.perf_counter()
        made = CompiledSweep(self._config, self._corpus, runs, self._precision)
        conditions = protocol.make_conditions(self._corpus.modalities)
        run = made.evaluate(rows, conditions)
        run()
        first = time.perf_counter() - start
        seconds = self._median(run)
        rate = runs * rows.size / seconds
        self._evaluated[runs] = seconds / rows.size
        text = f"{rate:10.0f} utterances/s, {len(conditions)} conditions; first {first:.1f} s"
        text += self._ratio(rate, "evaluate 7")
        self._row("evaluate", runs, text, utterances_per_second=rate, first_seconds=first)

    def _ratio(self, rate: float, case: str) -> str:
        """How often PyTorch's rate in a case it is, if that was measured."""
        with open(self._args.json, encoding="utf-8") as f:
            known = {r["case"]: r for r in json.load(f)["rows"] if "PyTorch" in r["case"]}
        theirs = known.get(f"PyTorch, {case}")
        return f"; {rate / theirs['utterances_per_second']:.1f} x PyTorch" if theirs else ""

    def _protocol(self, runs: int) -> None:
        """The loop of train.py with validation and test, for as many epochs as fit."""
        import numpy as np

        if runs not in self._step_seconds or runs not in self._evaluated:
            self._row("protocol", runs, "left out: its step or evaluation was not timed")
            return
        args = self._args
        train, held_out = 0.72 * args.utterances, 0.28 * args.utterances  # five folds' shares
        steps = train / self._config.train.batch_size
        epoch = steps * self._step_seconds[runs] + 0.3 * held_out * self._evaluated[runs]
        fixed = 2.5 * self._compile_seconds + held_out * self._evaluated[runs]
        epochs = min(args.epochs, int((0.8 * self._left - fixed) / epoch))
        if epochs < 2 and not self._fits("protocol", runs, fixed + 2 * epoch):
            return
        epochs = max(epochs, 2)
        seconds, ends = self._loop(runs, epochs)
        each = float(np.median(np.diff(ends)))
        whole = seconds + (args.epochs - epochs) * each
        text = f"{seconds:10.1f} s for {epochs} epochs, validation and test; "
        text += (
            f"first epoch {ends[0]:.1f} s, then {each:.2f} s; {args.epochs} epochs: {whole:.0f} s"
        )
        self._row(
            "protocol",
            runs,
            text,
            seconds=seconds,
            epochs=epochs,
            first_epoch=ends[0],
            epoch=each,
            seconds_of_all_epochs=whole,
        )

    def _loop(self, runs: int, epochs: int) -> tuple[float, list[float]]:
        """Seconds of everything, and from the start to the end of each epoch."""
        import numpy as np
        from ml_collections import FrozenConfigDict

        from cmarr_jax import systems
        from cmarr_jax.data import protocol
        from cmarr_jax.experiment.prepare import make_masking
        from cmarr_jax.training import loop
        from cmarr_jax.training.experiment import Experiment, Sweep
        from cmarr_jax.training.runs import RunId, Settings

        config = self._config.copy_and_resolve_references()
        config.train.epochs, num = epochs, self._args.utterances
        sessions = np.array([str(1 + i % 5) for i in range(num)])
        columns = {"id": np.arange(num).astype(str), "session": sessions, "speaker": sessions}
        corpus = self._corpus._replace(columns=columns)
        folds = protocol.make_folds(corpus.columns, corpus.labels)
        run_ids = [RunId(fold, seed) for seed in range(_SEEDS) for fold in folds][:runs]
        conditions = protocol.make_conditions(corpus.modalities)
        model = FrozenConfigDict(config.model)

        def make_system(axis):
            shape = corpus.modalities, len(corpus.class_names)
            return systems.make(config.system, model, *shape, axis, self._precision)

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
        start, ends = time.monotonic(), []
        best, scorer, _ = loop.train(
            experiment, _NoCheckpoints(), lambda _: ends.append(time.monotonic() - start)
        )
        scorer.score_best(best.params, [fold.test for fold, _ in run_ids], conditions)
        return time.monotonic() - start, ends


class _NoCheckpoints:
    """A disk's speed is not what is measured."""

    def resume(self, stage, like):
        return None

    def save(self, stage, kind, epoch, state, stopped=()):
        pass


if __name__ == "__main__":
    sys.exit(main())
