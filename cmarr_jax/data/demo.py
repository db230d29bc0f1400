"""A synthetic corpus in IEMOCAP's shape, so that everything runs without a licence.

    python -m cmarr_jax.data.demo PACK

NOTHING IN IT IS HUMAN: numbers measured on it say whether the software works and whether a
method does what it claims, never how well emotion is recognised.

Generative model, for utterance i of class y_i by speaker p_i, modality m, time tau in [0, 1]:

    content   c_i(tau) = sum_k a_ik cos(pi k tau)             shared by all modalities
    evidence  u_im = g_m (onehot(y_i) - 1/4) + noise          strong in speech, weak in video
    frames    x_im(tau) = W_m tanh(V_m [c_i(tau), u_im, p_i]) + noise

so that one modality predicts another through c, and through the part of the evidence's noise
that modalities share; no modality is redundant for y.
"""

import sys
from collections.abc import Iterator

import numpy as np

from cmarr_jax.cli import boundary
from cmarr_jax.data import pack as pack_lib

CLASS_NAMES = ("ang", "hap", "neu", "sad")
_CLASS_COUNTS = (1103, 1636, 1708, 1084)  # IEMOCAP's, for the proportions
_DIMS = {"text": 768, "speech": 768, "video": 342}
_FRAMES_PER_SECOND = {"text": 2.9, "speech": 50.0, "video": 10.0}
_EVIDENCE = {"text": 1.6, "speech": 1.8, "video": 1.1}
_SHARED_NOISE = 0.5  # share of the evidence noise's variance that all modalities see
_FRAME_NOISE = 1.0
_CONTENT_DIM, _CONTENT_WAVES, _HIDDEN = 12, 3, 64
_SPEAKERS_PER_SESSION, _SESSIONS, _DIALOGUE_LENGTH = 2, 5, 10
_NO_FACE = 0.02  # share of utterances without video, as real packs have them


def make(path: str, num_utterances: int = 600, seed: int = 0) -> pack_lib.Pack:
    """Generates the corpus and writes it as a feature pack to the new folder `path`.

    Args:
      path: a folder that does not exist yet.
      num_utterances: over all five sessions.
      seed: of everything random.

    Raises:
      UserError: `path` exists.
    """
    rng = np.random.default_rng(seed)
    share = np.array(_CLASS_COUNTS) / sum(_CLASS_COUNTS)
    labels = np.repeat(np.arange(4), np.round(share * num_utterances).astype(int))
    labels = rng.permutation(np.resize(labels, num_utterances))
    session = np.arange(num_utterances) * _SESSIONS // num_utterances
    speaker = session * _SPEAKERS_PER_SESSION + rng.integers(
        _SPEAKERS_PER_SESSION, size=num_utterances
    )
    dialogue = np.arange(num_utterances) // _DIALOGUE_LENGTH
    names = [f"demo{session[i] + 1:02d}_{dialogue[i]:03d}_{i:04d}" for i in range(num_utterances)]
    columns = {
        "id": names,
        "session": [str(s + 1) for s in session],
        "speaker": [f"{s // 2 + 1}{'FM'[s % 2]}" for s in speaker],
        "label": [CLASS_NAMES[y] for y in labels],
        "group": [f"demo{s + 1:02d}_{d:03d}" for s, d in zip(session, dialogue, strict=True)],
    }
    seconds = np.clip(rng.lognormal(np.log(3.8), 0.55, num_utterances), 0.6, 9.0)
    content = rng.normal(size=(num_utterances, _CONTENT_WAVES, _CONTENT_DIM))
    content /= np.arange(1, _CONTENT_WAVES + 1)[:, None]
    speakers = rng.normal(size=(_SESSIONS * _SPEAKERS_PER_SESSION, 4))
    shared_noise = rng.normal(size=(num_utterances, 4))

    def sequences(modality: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
        latent_dim = _CONTENT_DIM + 4 + speakers.shape[1]
        inner = rng.normal(size=(latent_dim, _HIDDEN)) * 0.7 / np.sqrt(latent_dim)
        outer = rng.normal(size=(_HIDDEN, _DIMS[modality])) / np.sqrt(_HIDDEN)
        for i in range(num_utterances):
            length = max(1, round(seconds[i] * _FRAMES_PER_SECOND[modality]))
            noise = np.sqrt(_SHARED_NOISE) * shared_noise[i]
            noise = noise + np.sqrt(1 - _SHARED_NOISE) * rng.normal(size=4)
            evidence = _EVIDENCE[modality] * (np.eye(4)[labels[i]] - 0.25) + noise
            time = (np.arange(length) + 0.5) / length
            waves = np.cos(np.pi * np.arange(_CONTENT_WAVES) * time[:, None])
            still = np.concatenate([evidence, 0.7 * speakers[speaker[i]]])
            latent = np.concatenate([waves @ content[i], np.tile(still, (length, 1))], axis=1)
            frames = np.tanh(latent @ inner) @ outer
            frames += _FRAME_NOISE * rng.standard_normal(frames.shape, np.float32)
            absent = modality == "video" and rng.random() < _NO_FACE
            yield frames[: 0 if absent else length].astype(np.float16)

    streams = dict(zip(_DIMS, rng.spawn(len(_DIMS)), strict=True))
    return pack_lib.write(
        path,
        name="demo (synthetic)",
        class_names=CLASS_NAMES,
        columns=columns,
        sequences={m: sequences(m, stream) for m, stream in streams.items()},
        provenance={"made_by": __name__, "synthetic": True, "seed": seed},
    )


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print(__doc__)
        return 0 if argv in (["-h"], ["--help"]) else 2
    return boundary.run(lambda: _run(argv[0]), "nothing was written")


def _run(path: str) -> int:
    pack = make(path)
    print(f"{path}: {len(pack.labels)} synthetic utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
