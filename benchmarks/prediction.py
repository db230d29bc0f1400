"""How quickly a trained model predicts: from a cold start, one utterance at a time, in batches.

    python benchmarks/prediction.py DIR PACK [OUT.json]

DIR is a sweep's work directory (or its folder `model`), PACK a pack that it knows. Where the model
knows the encoder of text, one sentence is timed from its characters too. Prints a table and,
if asked, writes the same as JSON. CPU seconds stand beside wall seconds: they are what counts
where other work runs on the same cores.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
sys.modules["tensorflow"] = None  # as the command has it

import jax
import numpy as np

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.predictor import BATCH, Predictor

_REPEATS = 50
_SENTENCE = "I told you so, and you did not listen to me!"


def main(argv: list[str]) -> int:
    if len(argv) not in (2, 3):
        print(__doc__)
        return 2
    workdir, path = argv[:2]
    pack = pack_lib.read(path)
    with open("/proc/loadavg", encoding="ascii") as f:
        load = float(f.read().split()[0])
    rows = [cold(workdir, path)]
    for fold in (0, 1):
        predictor = Predictor(workdir, fold=fold)
        models = f"{predictor.num_models} models" if fold == 0 else "1 model"
        rows += [
            one(predictor, pack, f"one utterance, {models}"),
            many(predictor, pack, f"{len(pack.labels)} utterances, {models}"),
        ]
    if (predictor.facts["encoders"].get("text") or {}).get("model"):
        rows.append(sentence(Predictor(workdir)))
    result = {
        "model": predictor.facts["system"],
        "corpus": pack.name,
        "batch": BATCH,
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {_cpu()}",
        "jax": jax.__version__,
        "load_average": load,
        "rows": rows,
    }
    print(f"{result['model']} on {result['corpus']}; {result['device']}; load average {load:.1f}")
    print(f"{'what':<34}{'first s':>9}{'median ms':>11}{'p95 ms':>9}{'CPU ms':>9}{'utt/s':>8}")
    for row in rows:
        shown = [row.get(k) for k in ("first_s", "median_ms", "p95_ms", "cpu_ms", "per_second")]
        digits = (2, 1, 1, 1, 0)
        cells = ["" if x is None else f"{x:.{d}f}" for x, d in zip(shown, digits, strict=True)]
        print(
            f"{row['what']:<34}{cells[0]:>9}{cells[1]:>11}{cells[2]:>9}{cells[3]:>9}{cells[4]:>8}"
        )
    if len(argv) == 3:
        with open(argv[2], "w", encoding="utf-8") as f:
            json.dump(result, f, indent=2)
    return 0


def cold(workdir: str, path: str) -> dict:
    """A process from nothing to its first prediction, with the programs compiled before."""
    script = (
        "import sys; sys.modules['tensorflow'] = None; from cmarr_jax import cli; "
        "cli.enable_compilation_cache(); from cmarr_jax.predictor import Predictor; "
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


def sentence(predictor: Predictor) -> dict:
    """A sentence from its characters, tokens and BERT included."""
    from cmarr_jax.extract import raw

    encoders = predictor.facts["encoders"]
    sources = raw.open_sources(encoders, {"text": None}, alone=True)
    stored_as = {"text": encoders["text"]["stored_as"]}

    def predict(i):
        features, _ = raw.encode(sources, [raw.utterance("one", _SENTENCE)], stored_as)
        list(predictor.of_features(["one"], features, batch_size=1))

    return _timed(f"a sentence, {predictor.num_models} models", predict, 1)


def _timed(what: str, predict, num: int) -> dict:
    start = time.monotonic()
    predict(0)
    first = time.monotonic() - start
    wall, cpu = [], []
    for k in range(_REPEATS):
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


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
