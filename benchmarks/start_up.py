"""How long it takes until something happens: commands that answer, and the sweep's compilation.

    python benchmarks/start_up.py [--rounds N] [--cores N] [--json FILE]

Each row is a process of its own, and they take turns:

    help      train.py --help
    import    import cmarr_jax
    library   import of all that trains, evaluates and predicts
    cold      train.py on the demo corpus for one epoch, with an empty compilation cache
    warm      the same with the cache that a cold one left

From `library` on TensorFlow is hidden: the core runs without it. "compile" is what cold and warm
spend on tracing, lowering, compiling and fetching what is compiled, by JAX's own clock. The cache
is a folder of the benchmark's, the user's stays as it is. A round takes about two minutes of one
core.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

TARGETS = {"help": 3.0, "import": 1.5, "cold": 20.0, "warm": 4.0}  # seconds; of the latter, compile
_HIDE = "import sys; sys.modules['tensorflow'] = None; "
_LIBRARY = "from cmarr_jax import evaluation, predictor, systems, train_step, training"

# Runs train.py and tells how long JAX was at each of the four; they nest, so as intervals.
_CHILD = f"""
import atexit, runpy, time
{_HIDE}
import jax
ends = ("trace_duration", "to_mlir_module_duration", "backend_compile_duration")
spans = []

def hear(name, seconds, **_):
    if name.endswith(ends):
        spans.append((time.monotonic() - seconds, time.monotonic()))

def tell():
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    print("compile", total, len(spans), file=sys.__stdout__, flush=True)

jax.monitoring.register_event_duration_secs_listener(hear)
atexit.register(tell)
sys.path.insert(0, {ROOT!r})
runpy.run_path({os.path.join(ROOT, "train.py")!r}, run_name="__main__")
"""


def main() -> int:
    parser = command.make_parser(__doc__, rounds=3)
    args = parser.parse_args()
    command.use_cores(args.cores)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(folder, args.rounds)
    rows = {
        case: {key: statistics.median(t[key] for t in each) for key in each[0]}
        for case, each in times.items()
    }
    report = command.machine() | {"rounds": args.rounds, "rows": rows}
    print(
        f"{report['machine']}, {report['cores']} cores, load average {report['load']:.1f}, "
        f"{args.rounds} rounds\n"
    )
    print(f"{'median seconds':16}{'wall':>10}{'CPU':>10}{'compile':>10}{'target':>10}")
    for case, row in rows.items():
        compiled = f"{row['compile']:10.2f}" if "compile" in row else f"{'':10}"
        target = f"{TARGETS[case]:10.1f}" if case in TARGETS else ""
        print(f"{case:16}{row['wall']:10.2f}{row['cpu']:10.2f}{compiled}{target}")
    print("\ntargets are of wall seconds; of cold and warm, of compile")
    command.write(report, args.json)
    return 0


def measure(folder: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Case -> what each round took."""
    from cmarr_jax.data import demo

    pack = os.path.join(folder, "pack")
    demo.make(pack)
    python, config = sys.executable, os.path.join(ROOT, "configs", "demo.py")
    sweep = [
        python, "-c", _CHILD, "--config", config, f"--config.data.pack={pack}",
        "--config.data.loader=numpy", "--config.train.epochs=1",
    ]  # fmt: skip
    cases = {
        "help": [python, os.path.join(ROOT, "train.py"), "--help"],
        "import": [python, "-c", "import cmarr_jax"],
        "library": [python, "-c", _HIDE + _LIBRARY],
        "cold": sweep,
        "warm": sweep,
    }
    times = {case: [] for case in cases}
    for turn in range(rounds):
        cache = os.path.join(folder, f"cache_{turn}")  # cold fills it, warm finds it
        for case, line in cases.items():
            print(f"{turn + 1}/{rounds} {case} ...", file=sys.stderr)
            if line is sweep:
                line = [*sweep, f"--workdir={os.path.join(folder, f'{case}_{turn}')}"]
            times[case].append(run(line, cache))
            seconds = ", ".join(f"{key} {t:.2f}" for key, t in times[case][-1].items())
            print(f"  seconds: {seconds}", file=sys.stderr)
    return times


def run(line: list[str], cache: str) -> dict[str, float]:
    """Wall and CPU seconds of a process, and of what it compiled."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if out.returncode:
        sys.exit(f"{' '.join(line[-4:])} failed:\n{out.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = [line.split() for line in out.stdout.splitlines() if line.startswith("compile ")]
    return {"wall": wall, "cpu": cpu} | ({"compile": float(told[0][1])} if told else {})


if __name__ == "__main__":
    sys.exit(main())
