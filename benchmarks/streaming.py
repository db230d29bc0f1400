"""Peak memory of a sweep whose features stay on disk, as the corpus grows tenfold.

    .venv/bin/python benchmarks/streaming.py [--folder DIR] [--rounds N] [--json FILE]

Each case is a process of train.py that reads a random pack of IEMOCAP's size (5,531 utterances
at the paper's dims, 32 positions), or of ten times that, trains the `full_modality` baseline on
one fold for one epoch, validates and tests. Memory is the most that the process ever held; pages
that the kernel caches are not a process's. Features in memory are measured at the small size
alone: at the large one they would be ten times as many. DIR needs 10 GB. About ten minutes of
two cores.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

UTTERANCES = (5531, 55310)
DIMS = {"text": 768, "speech": 768, "video": 342}
_ROWS = 4  # an utterance and modality; training sees 32 positions whatever it is
_TRAIN = [
    sys.executable, "train.py", "--config=configs/iemocap.py:full_modality", "--config.fold=1",
    "--config.train.epochs=1", "--config.data.loader=numpy",
]  # fmt: skip


def main() -> int:
    parser = command.make_parser(__doc__, rounds=1)
    parser.add_argument("--folder", help="where packs and features shall lie meanwhile")
    args = parser.parse_args()
    command.use_cores(args.cores)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report = command.machine() | {"rounds": args.rounds, "cases": []}
        print(f"{report['machine']}, {report['cores']} cores, load average {report['load']:.1f}\n")
        print(f"{'features':12}{'utterances':>12}{'corpus GB':>12}{'peak GB':>10}{'seconds':>10}")
        for case in measure(folder, args.rounds):
            print(
                f"{case['features']:12}{case['utterances']:12,}{case['corpus'] / 1e9:12.2f}"
                f"{case['peak'] / 1e9:10.2f}{case['seconds']:10.0f}",
                flush=True,
            )
            report["cases"].append(case)
            command.write(report, args.json)
    *_, small, large = (case["peak"] for case in report["cases"])
    print(f"\non disk, ten times the corpus takes {large / small:.2f} times the memory")
    return 0


def measure(folder: str, rounds: int) -> Iterator[dict]:
    """A row for each case, as soon as it is known."""
    cases = [("in memory", UTTERANCES[0]), *(("on disk", num) for num in UTTERANCES)]
    for k, (where, num) in enumerate(cases):
        pack = os.path.join(folder, f"pack_{num}")
        if not os.path.exists(pack):
            print(f"writing a pack of {num:,} utterances ...", file=sys.stderr)
            make_pack(pack, num)
        flags = [f"--config.data.stream={folder}"] if where == "on disk" else []
        peaks, times = [], []
        for turn in range(rounds):
            print(f"{where}, {num:,} utterances, {turn + 1}/{rounds} ...", file=sys.stderr)
            workdir = os.path.join(folder, f"work_{num}_{k}_{turn}")
            line = [*_TRAIN, f"--config.data.pack={pack}", f"--workdir={workdir}", *flags]
            start = time.monotonic()
            peaks.append(peak_of(line))
            times.append(time.monotonic() - start)
        corpus = num * 32 * sum(DIMS.values()) * 2
        yield {
            "features": where,
            "utterances": num,
            "corpus": corpus,
            "peak": statistics.median(peaks),
            "seconds": statistics.median(times),
        }


def peak_of(line: list[str]) -> int:
    """Bytes that the command held at most."""
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"error: {' '.join(line)}: exit code {child.returncode}")
    return used.ru_maxrss * 1024


def make_pack(path: str, num: int) -> None:
    """Random features whose class shows a little, as a pack."""
    import numpy as np

    from cmarr_jax.data import pack

    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=num)
    base = {m: rng.standard_normal((4, dim), np.float32) for m, dim in DIMS.items()}

    def frames(modality):
        for label in labels:
            noise = rng.standard_normal((_ROWS, DIMS[modality]), np.float32)
            yield (noise + 0.2 * base[modality][label]).astype(np.float16)

    sessions = [str(1 + i % 5) for i in range(num)]
    pack.write(
        path,
        name="random",
        class_names=tuple("abcd"),
        columns={
            "id": [f"u{i:06d}" for i in range(num)],
            "session": sessions,
            "speaker": [f"{s}{'FM'[i // 5 % 2]}" for i, s in enumerate(sessions)],
            "label": ["abcd"[y] for y in labels],
        },
        sequences={m: frames(m) for m in DIMS},
        provenance={"made_by": "benchmarks/streaming.py"},
    )


if __name__ == "__main__":
    sys.exit(main())
