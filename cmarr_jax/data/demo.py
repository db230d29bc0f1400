"""A synthetic corpus in IEMOCAP's shape, so that everything runs without a licence.

    python -m cmarr_jax.data.demo PACK
    python -m cmarr_jax.data.demo PACK --shared 0.5 --noise 2 --utterances 6000 --seed 1

NOTHING IN IT IS HUMAN: numbers measured on it say whether the software works and whether a
method does what it claims, never how well emotion is recognised.

Generative model, for utterance i of class y_i by speaker p_i, modality m, time tau in [0, 1]:

    content   c_im(tau) = sum_k a_imk cos(pi k tau)           of no class
    evidence  u_im = g_m (onehot(y_i) - 1/4) + n_im           g: strong in speech, weak in video
    frames    x_im(tau) = W_m tanh(V_m [c_im(tau), u_im, p_im]) + LEVEL noise

Each latent z of a, n and p is a mixture of what is common to the modalities and the modality's own,
both standard normal, so that a single modality is distributed alike whatever the share is:

    z_m = sqrt(share_m) z_common + sqrt(1 - share_m) z_own,m

Without --shared, the corpus of `make demo`: the share is 1 in a and p, 1/2 in n. One modality
predicts another, and none is redundant for y. With --shared S the share is S in a and p, and
S (g_m / max g)^2 in n, so that u_m = g_m (onehot(y) - 1/4 + sqrt(S) z_common / max g) + own noise:

    S = 0   given y the modalities are independent: of a new speaker, nothing but the class can be
            recovered
    S = 1   all modalities show one expression of the class, the weaker ones through noise of their
            own: what is missing can be predicted, and the clearest one tells all that they tell

A modality alone tells as much of y at every S. Together they tell the less, the more they share:
`ceiling` says how much.
"""

import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.stats

from cmarr_jax.cli import arguments, boundary
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError

CLASS_NAMES = ("ang", "hap", "neu", "sad")
_CLASS_COUNTS = (1103, 1636, 1708, 1084)  # IEMOCAP's, for the proportions
_DIMS = {"text": 768, "speech": 768, "video": 342}
_FRAMES_PER_SECOND = {"text": 2.9, "speech": 50.0, "video": 10.0}
_EVIDENCE = {"text": 1.6, "speech": 1.8, "video": 1.1}
_SHARED_NOISE = 0.5  # share of the noise of the evidence, where nothing else is asked for
_CONTENT_DIM, _CONTENT_WAVES, _HIDDEN = 12, 3, 64
_SPEAKERS_PER_SESSION, _SESSIONS, _DIALOGUE_LENGTH = 2, 5, 10
_NO_FACE = 0.02  # share of utterances without video, as real packs have them
_FEWEST = 40  # utterances: of fewer, a fold or its validation part may lack a class


def make(
    path: str,
    num_utterances: int = 600,
    seed: int = 0,
    shared: float | None = None,
    noise: float = 1.0,
) -> pack_lib.Pack:
    """Generates the corpus and writes it as a feature pack to the new folder `path`.

    Args:
      path: a folder that does not exist yet.
      num_utterances: over all five sessions.
      seed: of everything random.
      shared: share of their content that the modalities have in common, 0 to 1; None = the demo's.
      noise: standard deviation of each feature's noise.

    Raises:
      UserError: `path` exists, or a number is out of its range.
    """
    check(num_utterances, seed, shared, noise)
    share_of_noise = dict(zip(_EVIDENCE, _noise_shares([*_EVIDENCE], shared), strict=True))
    share_of_rest = 1.0 if shared is None else shared
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
    content = _content(rng, num_utterances)
    speakers = rng.normal(size=(_SESSIONS * _SPEAKERS_PER_SESSION, 4))
    shared_noise = rng.normal(size=(num_utterances, 4))

    def sequences(modality: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
        latent_dim = _CONTENT_DIM + 4 + speakers.shape[1]
        inner = rng.normal(size=(latent_dim, _HIDDEN)) * 0.7 / np.sqrt(latent_dim)
        outer = rng.normal(size=(_HIDDEN, _DIMS[modality])) / np.sqrt(_HIDDEN)
        own = rng.spawn(1)[0]  # a stream of its own, so that no share moves the other draws
        said = _mix(content, _content(own, num_utterances), share_of_rest)
        voices = _mix(speakers, own.normal(size=speakers.shape), share_of_rest)
        for i in range(num_utterances):
            length = max(1, round(seconds[i] * _FRAMES_PER_SECOND[modality]))
            deviation = _mix(shared_noise[i], rng.normal(size=4), share_of_noise[modality])
            evidence = _EVIDENCE[modality] * (np.eye(4)[labels[i]] - 0.25) + deviation
            time = (np.arange(length) + 0.5) / length
            waves = np.cos(np.pi * np.arange(_CONTENT_WAVES) * time[:, None])
            still = np.concatenate([evidence, 0.7 * voices[speaker[i]]])
            latent = np.concatenate([waves @ said[i], np.tile(still, (length, 1))], axis=1)
            frames = np.tanh(latent @ inner) @ outer
            frames += np.float32(noise) * rng.standard_normal(frames.shape, np.float32)
            absent = modality == "video" and rng.random() < _NO_FACE
            yield frames[: 0 if absent else length].astype(np.float16)

    streams = dict(zip(_DIMS, rng.spawn(len(_DIMS)), strict=True))
    asked = {} if shared is None else {"shared": shared}
    asked |= {} if noise == 1 else {"noise": noise}
    return pack_lib.write(
        path,
        name="; ".join(["demo (synthetic)", *(f"{k} {v:g}" for k, v in asked.items())]),
        class_names=CLASS_NAMES,
        columns=columns,
        sequences={m: sequences(m, stream) for m, stream in streams.items()},
        provenance={"made_by": __name__, "synthetic": True, "seed": seed} | asked,
    )


def ceiling(modalities: Sequence[str], shared: float | None = None) -> float:
    """The UAR of the best guess from the evidence of some modalities themselves, 0 to 1.

    No model's expected UAR is above it, however much it learns from: features are the evidence
    behind a network and noise. With noise n of the covariance R (x) I between modalities, all that
    u tells of y is g R^-1 u, one number a class: that of the true one is d^2 = g R^-1 g above the
    others, in noise of the variance d^2.

    Args:
      modalities: those that are available, at least one.
      shared: as for `make`.
    """
    shares = np.array(_noise_shares(modalities, shared))
    correlation = np.sqrt(np.outer(shares, shares))
    np.fill_diagonal(correlation, 1)
    gain = np.array([_EVIDENCE[m] for m in modalities])
    d = np.sqrt(gain @ np.linalg.solve(correlation, gain))
    x = np.linspace(-9, 9 + d, 10_001)
    normal = scipy.stats.norm
    return float(np.trapezoid(normal.pdf(x - d) * normal.cdf(x) ** 3, x))


def _noise_shares(modalities: Sequence[str], shared: float | None) -> list[float]:
    """Share of the evidence's noise that each modality has in common with the others."""
    if shared is None:
        return [_SHARED_NOISE for _ in modalities]
    clearest = max(_EVIDENCE.values())
    return [shared * (_EVIDENCE[m] / clearest) ** 2 for m in modalities]


def _mix(common: np.ndarray, own: np.ndarray, share: float) -> np.ndarray:
    """A latent of one modality, `share` of whose variance is common to all."""
    return np.sqrt(share) * common + np.sqrt(1 - share) * own


def _content(rng: np.random.Generator, num: int) -> np.ndarray:
    """The waves' amplitudes, `[num, waves, D]`."""
    drawn = rng.normal(size=(num, _CONTENT_WAVES, _CONTENT_DIM))
    return drawn / np.arange(1, _CONTENT_WAVES + 1)[:, None]


def check(num_utterances: int, seed: int, shared: float | None, noise: float) -> None:
    """Refuses, by a UserError, numbers that `make` makes no corpus of."""
    if num_utterances < _FEWEST:
        raise UserError(f"--utterances={num_utterances}: wanted {_FEWEST} or more")
    if seed < 0:
        raise UserError(f"--seed={seed}: wanted 0 or more")
    if shared is not None and not 0 <= shared <= 1:
        raise UserError(f"--shared={shared:g}: wanted a share, 0 to 1")
    if not 0 <= noise < math.inf:
        raise UserError(f"--noise={noise:g}: wanted a standard deviation, 0 or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = arguments.make_parser("python -m cmarr_jax.data.demo", __doc__)
    parser.add_argument("pack", metavar="PACK", help="folder that does not exist yet")
    parser.add_argument(
        "--shared",
        type=float,
        metavar="SHARE",
        help="share of their content that the modalities have in common, 0 to 1, as above",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=1.0,
        metavar="LEVEL",
        help="standard deviation of each feature's noise (default: 1; without noise about 0.5)",
    )
    parser.add_argument(
        "--utterances", type=int, default=600, metavar="N", help="over five sessions (default: 600)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")

    def command() -> int:
        args = parser.parse_args(argv)
        return _run(args.pack, args.utterances, args.seed, args.shared, args.noise)

    return boundary.run(command, "nothing was written")


def _run(path: str, num_utterances: int, seed: int, shared: float | None, noise: float) -> int:
    pack = make(path, num_utterances, seed, shared, noise)
    print(f"{path}: {len(pack.labels)} synthetic utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
