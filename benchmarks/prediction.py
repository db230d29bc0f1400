"""How quickly a trained model predicts: from a cold start, one utterance at a time, in batches.

    python benchmarks/prediction.py DIR PACK [--wav FILE] [--video FILE] [--out FILE.json]

DIR is a sweep's work directory (or its folder `model`), PACK a pack that it knows. Where the model
knows the encoders, raw input is timed too: a sentence from its characters, the sound file, the
video, and each combination of them, from files to probabilities. Prints a table and, if asked,
writes the same as JSON. CPU time stands beside wall time: it is what counts where other work
runs on the same cores.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
sys.modules["tensorflow"] = None  # as the command has it

import jax
import numpy as np

from benchmarks import command
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from cmarr_jax.predictor import BATCH, Predictor

_REPEATS = 50
_REPEATS_OF_VIDEO = 5  # finding faces takes a tenth of a second a frame
_SENTENCE = "I told you so, and you did not listen to me!"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", metavar="DIR")
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("--wav", metavar="FILE")
    parser.add_argument("--video", metavar="FILE")
    parser.add_argument("--out", metavar="FILE.json")
    args = parser.parse_args(argv)
    pack = pack_lib.read(args.pack)
    result = {
        "corpus": pack.name,
        "batch": BATCH,
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {command.processor()}",
        "jax": jax.__version__,
        "load_average": command.load(),
        "rows": [],
    }
    print(f"{pack.name}; {result['device']}; load average {result['load_average']:.1f}")
    print(f"{'what':<34}{'first s':>9}{'median ms':>11}{'p95 ms':>9}{'CPU ms':>9}{'utt/s':>8}")
    for row in _rows(args, pack):
        result["rows"].append(row)
        shown = [row.get(k) for k in ("first_s", "median_ms", "p95_ms", "cpu_ms", "per_second")]
        digits = (2, 1, 1, 1, 0)
        cells = ["" if x is None else f"{x:.{d}f}" for x, d in zip(shown, digits, strict=True)]
        print(
            f"{row['what']:<34}{cells[0]:>9}{cells[1]:>11}{cells[2]:>9}{cells[3]:>9}{cells[4]:>8}",
            flush=True,
        )
    command.write(result, args.out)
    return 0


def _rows(args: argparse.Namespace, pack: pack_lib.Pack) -> Iterator[dict]:
    workdir = args.workdir
    yield cold(workdir, args.pack)
    for fold in (0, 1):
        predictor = Predictor(workdir, fold=fold)
        models = f"{predictor.num_models} models" if fold == 0 else "1 model"
        yield one(predictor, pack, f"one utterance, {models}")
        yield many(predictor, pack, f"{len(pack.labels)} utterances, {models}")
    given = {"text": _SENTENCE, "speech": args.wav, "video": args.video}
    known = predictor.facts["encoders"]
    given = {m: x for m, x in given.items() if x and (known.get(m) or {}).get("model")}
    if given:
        yield cold_command(workdir, given)
        yield from raw_inputs(Predictor(workdir), given)


def cold(workdir: str, path: str) -> dict:
    """A process from nothing to its first prediction, with the programs compiled before."""
    script = (
        "import sys; sys.modules['tensorflow'] = None; from cmarr_jax.runtime import devices; "
        "from cmarr_jax.predictor import Predictor; devices.prepare_to_compile(); "
        "from cmarr_jax.data import pack; p = pack.read(sys.argv[2]); "
        "next(Predictor(sys.argv[1]).of_features(p.columns['id'][:1], "
        "{m: [p.sequence(m, 0)] for m in p.modalities}, batch_size=1))"
    )
    seconds = []
    for _ in range(2):  # the first fills the cache of compiled programs
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", script, workdir, path], cwd=ROOT, check=True)
        seconds.append(time.monotonic() - start)
    return {"what": "cold start, compiled before", "first_s": seconds[1]}


def one(predictor: Predictor, pack: pack_lib.Pack, what: str) -> dict:
    """One utterance with all modalities, again and again."""

    def predict(i):
        sequences = {m: [pack.sequence(m, i)] for m in pack.modalities}
        list(predictor.of_features([pack.columns["id"][i]], sequences, batch_size=1))

    return _timed(what, predict, len(pack.labels))


def many(predictor: Predictor, pack: pack_lib.Pack, what: str) -> dict:
    """The whole pack, after one batch that compiles."""
    start = time.monotonic()
    rows = predictor.of_read_pack(pack)
    next(rows)
    first = time.monotonic() - start
    rows.close()
    start = time.monotonic()
    num = sum(1 for _ in predictor.of_read_pack(pack))
    return {"what": what, "first_s": first, "per_second": num / (time.monotonic() - start)}


def cold_command(workdir: str, given: dict[str, str]) -> dict:
    """The whole command on raw input, with the programs compiled before."""
    flags = {"text": "--text", "speech": "--wav", "video": "--video"}
    argv = [sys.executable, "-m", "cmarr_jax.predict", "--workdir", os.path.abspath(workdir)]
    for m, value in given.items():
        argv += [flags[m], value if m == "text" else os.path.abspath(value)]
    used = []
    for _ in range(2):  # the first fills the cache of compiled programs
        start, before = time.monotonic(), os.times()
        subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        cpu = sum(after[2:4]) - sum(before[2:4])  # user and system time of ended children
        used.append((time.monotonic() - start, 1000 * cpu))
    return {"what": "command, " + "+".join(given), "first_s": used[1][0], "cpu_ms": used[1][1]}


def raw_inputs(predictor: Predictor, given: dict[str, str]) -> Iterator[dict]:
    """Each subset of raw input, from characters and files to probabilities."""
    from cmarr_jax.extract import raw

    encoders = predictor.facts["encoders"]
    sources = raw.open_sources(encoders, dict.fromkeys(given), alone=True)
    stored_as = {m: encoders[m]["stored_as"] for m in given}
    fields = {"text": "text", "speech": "wav", "video": "video"}
    for size in range(1, len(given) + 1):
        for subset in itertools.combinations(given, size):
            one = raw.utterance("one", **{fields[m]: given[m] for m in subset})
            chosen = {m: sources[m] for m in subset}

            def predict(i, one=one, chosen=chosen):
                features, problems = raw.encode(chosen, [one], stored_as)
                if not all(len(features[m][0]) for m in chosen):
                    sys.exit(f"error: {problems[0]}")
                list(predictor.of_features(["one"], features, batch_size=1))

            repeats = _REPEATS_OF_VIDEO if "video" in subset else _REPEATS
            yield _timed("raw " + "+".join(subset), predict, 1, repeats)


def _timed(what: str, predict, num: int, repeats: int = _REPEATS) -> dict:
    start = time.monotonic()
    predict(0)
    first = time.monotonic() - start
    wall, cpu = [], []
    for k in range(repeats):
        start, used = time.monotonic(), time.process_time()
        predict(k % num)
        wall.append(1000 * (time.monotonic() - start))
        cpu.append(1000 * (time.process_time() - used))
    return {
        "what": what,
        "first_s": first,
        "median_ms": statistics.median(wall),
        "p95_ms": float(np.quantile(wall, 0.95)),
        "cpu_ms": statistics.median(cpu),
    }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as e:
        sys.exit(f"error: {e}")
