"""Lets every utterance bring the rest of its speaker's dialogue along: a pack from a pack.

    python -m cmarr_jax.data.dialogue PACK OUT

Each row of features `[D]` becomes `[2 D]`: after its own numbers the mean over all turns of the
same speaker in the same dialogue (column `group`), each turn counting by the mean of its rows.
Every system then reads both, at any --config.data.length. Emotion lasts over turns, so this is
the simplest use of what recurrent models of conversations learn from (Poria et al.,
Context-Dependent Sentiment Analysis in User-Generated Videos, ACL 2017).

Modalities stay apart: a turn that lacks one lends nothing to the others' mean, and has neither
its own numbers nor the context. Dialogues are never cut by a split, and the other speaker's turns
are left out, so no part of a fold sees another. Labels are not looked at.

The corpus' name says it in every results file, since these results stand beside none that judge
an utterance by itself: turns still to come count too, and where actors played the same scenes in
every session, as in IEMOCAP, the mean of a dialogue's text tells which scene it is.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from cmarr_jax.cli import boundary
from cmarr_jax.cli.arguments import make_parser
from cmarr_jax.cli.bar import track
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError

SUFFIX = " + dialogue context"


def contexts(features: np.ndarray, present: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Means over what each utterance's dialogue has.

    Args:
      features: `[N, D]` float, one vector an utterance.
      present: `[N]` bool.
      turns: `[N]` int; utterances of one number are one speaker's turns in one dialogue.

    Returns:
      `[N, D]` float64; of no use where no turn is present.
    """
    sums = np.zeros((turns.max() + 1, features.shape[1]))
    np.add.at(sums, turns[present], features[present])
    counts = np.bincount(turns[present], minlength=len(sums))
    return (sums / np.maximum(counts, 1)[:, None])[turns]


def make(path: str, out: str) -> pack_lib.Pack:
    """Writes the pack `path` with its dialogues' context to the new folder `out`.

    Raises:
      UserError: `path` is no pack, does not name its dialogues, or has their context already;
        `out` exists.
    """
    pack = pack_lib.read(path)
    if pack.name.endswith(SUFFIX):
        raise UserError(f"{path}: has the context of its dialogues already")
    groups = pack.columns.get("group", np.array([""]))
    if not (groups != "").any():
        raise UserError(
            f"{path}/utterances.csv: names no dialogues; fill in the column group, or train on "
            "the pack as it is"
        )
    ids = np.where(groups == "", pack.columns["id"], "")  # without a dialogue: one of its own
    keys = np.stack([groups, pack.columns["speaker"], ids])
    _, turns = np.unique(keys, axis=1, return_inverse=True)
    return pack_lib.write(
        out,
        name=pack.name + SUFFIX,
        class_names=pack.class_names,
        columns=pack.columns,
        sequences={m: _sequences(pack, m, turns.reshape(-1)) for m in pack.modalities},
        provenance={
            "made_by": "cmarr_jax.data.dialogue",
            "from": {"fingerprint": pack_lib.fingerprint(pack), "provenance": pack.provenance},
        },
    )


def _sequences(pack: pack_lib.Pack, modality: str, turns: np.ndarray) -> Iterator[np.ndarray]:
    """Each utterance's rows, its context beside each: `[T_i, 2 D]`."""
    num, dtype = len(turns), pack.features[modality].dtype
    present = np.diff(pack.offsets[modality]) > 0
    means = np.zeros((num, pack.features[modality].shape[1]), np.float32)
    for i in np.flatnonzero(present).tolist():
        means[i] = pack.sequence(modality, i).mean(axis=0, dtype=np.float64)
    means = contexts(means, present, turns).astype(dtype)
    for i in track(range(num), modality):
        rows = pack.sequence(modality, i)
        yield np.concatenate([rows, np.broadcast_to(means[i], rows.shape)], axis=1)
    pack_lib.check_unchanged(pack)


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = make_parser("python -m cmarr_jax.data.dialogue", __doc__, "; see --help")
    parser.add_argument("pack", metavar="PACK", help="folder of a feature pack with dialogues")
    parser.add_argument("out", metavar="OUT", help="folder of the pack to write; a new one")
    return boundary.run(lambda: _run(parser.parse_args(argv)), "nothing was written")


def _run(arguments: argparse.Namespace) -> int:
    pack = make(arguments.pack, arguments.out)
    widths = ", ".join(f"{m} {x.shape[1]}-d" for m, x in pack.features.items())
    print(f"{pack.path}: {len(pack.labels)} utterances with their dialogues' context; {widths}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
