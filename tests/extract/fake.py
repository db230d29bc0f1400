"""A modality that needs no weights, and a command that kills can be tried on.

python -m tests.extract.fake OUT SECONDS   extracts 40 utterances, SECONDS a batch
"""

import sys
import time

import numpy as np

from cmarr_jax.cli.bar import Bars
from cmarr_jax.extract import engine
from cmarr_jax.extract.result import Corpus
from cmarr_jax.extract.source import Loaded, Source, Utterance

ENVIRONMENT = {"platform": "fake"}


def utterance(i: int, text: str | None = "") -> Utterance:
    text = "x" * (1 + i * 7 % 23) if text == "" else text
    return Utterance(f"u{i:03d}", "1", f"s{i % 2}", "ab"[i % 2], f"d{i // 5}", text, *[None] * 5)


def corpus(utterances) -> Corpus:
    return Corpus("fake", ("a", "b"), utterances, {"made_by": "tests"})


def source(
    modality="text", *, recipe=1, seconds=0.0, batches=None, loads=None, load=None
) -> Source:
    """Rows that tell their utterance and all that shared its batch, so that a changed batch shows.

    `batches` and `loads` collect what was encoded and loaded; `load` replaces the loader.
    """

    def default_load(u: Utterance) -> Loaded:
        if loads is not None:
            loads.append(u.id)
        if u.text is None:
            return Loaded("missing_text", None, "no transcript")
        return Loaded("ok", (u.id, len(u.text)))

    def encode(bucket, items):
        time.sleep(seconds)
        if batches is not None:
            batches.append((bucket, [identifier for identifier, _ in items]))
        mates = sum(int(identifier[1:]) for identifier, _ in items)
        return [
            np.array([[int(identifier[1:]), mates, t] for t in range(length)], np.float32)
            for identifier, length in items
        ]

    return Source(
        modality=modality,
        dim=3,
        unit="letters",
        recipe={"recipe": recipe},
        amount=lambda u: float(len(u.text or "")),
        load=load or default_load,
        bucket=lambda item: 8 if item[1] <= 8 else 32,
        batch_size=lambda bucket: 4 if bucket == 8 else 3,
        encode=encode,
    )


def extract(out, utterances, sources, **options):
    defaults = {"dtype": "float32", "environment": ENVIRONMENT, "cache": None}
    quiet = {"progress": Bars(quiet=True)}
    return engine.extract(str(out), corpus(utterances), sources, **defaults | quiet | options)


if __name__ == "__main__":
    given = [utterance(i, None if i in (3, 17) else "") for i in range(40)]
    pause = float(sys.argv[2])
    extract(sys.argv[1], given, [source(m, seconds=pause) for m in ("text", "speech")])
