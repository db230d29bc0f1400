"""How near each family of encoders is to its published implementation, in every hidden state.

    python benchmarks/parity.py [--json FILE]

For each model in tests/extract/golden, whose states PyTorch computed there once with transformers
5 (make.py beside them), one input at a time: the largest relative L2 error of any hidden state of
any input, when we encode all of them in one padded batch, in float32 and in bfloat16. The models
are tiny and random; tests/extract/test_real_speech.py has published weights. About a minute.
"""

import argparse
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command
from cmarr_jax.extract import audio, pretrained, speech, text, video, weights
from tests.extract import samples

GOLDEN = os.path.join(ROOT, "tests", "extract", "golden")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    report = {}
    for name, modality, row in rows():
        report[name] = {"modality": modality} | row
        if len(report) == 1:
            print(f"{'model':<20}{'modality':<10}{'states':>7}{'float32':>10}{'bfloat16':>10}")
        print(
            f"{name:<20}{modality:<10}{row['states']:>7}"
            f"{row['float32']:>10.1e}{row['bfloat16']:>10.1e}"
        )
    command.write(report, args.json)
    return 0


def rows():
    """Each model's name, modality and errors, by modality."""
    for modality, (families, cases) in MODALITIES.items():
        for name in sorted(os.listdir(GOLDEN)):
            folder = os.path.join(GOLDEN, name)
            if os.path.exists(os.path.join(folder, "config.json")):
                config = pretrained.config(folder)
                if config["model_type"] in families:
                    yield name, modality, _row(folder, config, families, cases)


def _row(folder: str, config: dict, families: dict, cases) -> dict:
    import jax
    import jax.numpy as jnp

    family, row = families[config["model_type"]], {}
    for dtype in ("float32", "bfloat16"):
        module = family.from_config(folder, config, jnp.dtype(dtype))
        file = os.path.join(folder, "model.safetensors")
        params = weights.load(file, module, family.tensors(module))
        inputs, wanted = cases(folder, module)
        with pretrained.precision(jnp.dtype(dtype)):
            found = np.stack(jax.jit(module.apply)(params, *inputs), axis=1)
        found = found.reshape(*found.shape[:2], -1, found.shape[-1])  # [B, states, T, D]
        errors = []
        for ours, theirs in zip(found, wanted, strict=True):
            ours = ours[:, : theirs.shape[1]]
            assert ours.shape == theirs.shape
            apart = np.linalg.norm(ours - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))
            errors.append(apart.max())
        row |= {"states": found.shape[1], dtype: float(max(errors))}
    return row


def _speech(folder: str, module):
    """Clips in one batch, and the states `[states, T, D]` of each."""
    with np.load(os.path.join(folder, "expected.npz")) as f:
        wanted = [f[f"states_{k}"] for k in range(sum(n.startswith("states") for n in f))]
    lengths = np.int32([*samples.CLIPS, 40_000][: len(wanted)])
    padded = -(-(max(lengths) + 4_000) // module.window) * module.window
    batch = np.zeros((len(lengths), padded), np.float32)
    for k, length in enumerate(lengths):
        x = samples.clip(k, length)
        batch[k, :length] = audio.normalise(x) if module.normalised else x
    return (batch, lengths), wanted


def _text(folder: str, module):
    """As `_speech`, of rows of tokens."""
    with np.load(os.path.join(folder, "states.npz")) as f:
        ids = [f[f"ids_{k}"] for k in range(sum(n.startswith("ids") for n in f))]
        wanted = [f[f"states_{k}"] for k in range(len(ids))]
    shape = len(ids), max(map(len, ids))
    batch, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for k, row in enumerate(ids):
        batch[k, : len(row)], mask[k, : len(row)] = row, True
    return (batch, mask), wanted


def _video(folder: str, module):
    """As `_speech`, of pictures; the class token alone."""
    with np.load(os.path.join(folder, "expected.npz")) as f:
        pixels, wanted = f["pixels"].transpose(0, 2, 3, 1), f["states"]
    scale_and_shift = np.ones(3, np.float32), np.zeros(3, np.float32)
    return (pixels, *scale_and_shift), list(wanted[:, :, None])


MODALITIES = {
    "speech": (speech.FAMILIES, _speech),
    "text": (text.FAMILIES, _text),
    "video": (video.FAMILIES, _video),
}


if __name__ == "__main__":
    sys.exit(main())
