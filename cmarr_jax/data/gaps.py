"""Parts of folds that lack a modality altogether: what cannot be scored or learned there."""

from collections.abc import Sequence

import numpy as np

from cmarr_jax.data import protocol


def find(
    present: np.ndarray,
    modalities: Sequence[str],
    folds: Sequence,
    learnable: np.ndarray | None = None,
) -> list[str]:
    """A line for every part of a fold where a condition has no utterance.

    Args:
      present: `[N, M]` bool, which utterance has which modality.
      modalities: M names.
      folds: `protocol.Fold` each.
      learnable: the same where an utterance is not tested; None = the same.
    """
    conditions = protocol.make_conditions(modalities)
    lines = []
    for fold in folds:
        parts = (("training", fold.train), ("validation", fold.val), ("test", fold.test))
        for part, rows in parts:
            seen = present if part == "test" or learnable is None else learnable
            there = seen[rows].any(axis=0)
            if not len(rows) or there.all():
                continue
            lacking = ", ".join(m for m, has in zip(modalities, there, strict=True) if not has)
            empty = [c.name for c in conditions if not (np.asarray(c.available) & there).any()]
            named = ", ".join("{" + ",".join(name) + "}" for name in empty)
            then = {
                "training": f"its models learn nothing of {lacking}",
                "validation": f"epochs are chosen without {named}",
                "test": f"{named} is not scored there, so it and avg have no mean over all folds",
            }
            lines.append(
                f"fold {fold.number} ({fold.held_out}): its {part} part has no {lacking}; "
                f"{then[part]}"
            )
    return lines
