"""Which sweeps one program can train together: those whose runs differ in numbers alone."""

import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from cmarr_jax.workdir.ownership import WorkDir


def alike(workdirs: Sequence[WorkDir]) -> list[WorkDir]:
    """The first of `workdirs`, and all that one program can train together with it.

    Their runs differ in numbers alone, and their newest checkpoints are of the same epochs.
    """
    keys = [(program(each.config), each.newest()) for each in workdirs]
    return [each for each, key in zip(workdirs, keys, strict=True) if key == keys[0]]


def program(config: ConfigDict) -> str:
    """The fields, as JSON, in which configs must agree for one program to train them together.

    All but names, seeds, and the numbers that each run can have of its own.
    """

    def unweighed(tree: dict) -> dict:
        kept = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                kept[name] = unweighed(value)
            else:  # a term of weight 0 may be absent from the program
                kept[name] = value != 0 if name.split("_")[-1] == "weight" else value
        return kept

    kept = config.to_dict()
    kept["model"] = unweighed(kept["model"])
    for name in ("variant", "fold", "seed", "num_seeds", "members", "teachers"):
        del kept[name]
    for name in ("learning_rate", "weight_decay"):
        del kept["train"][name]
    return json.dumps(kept, sort_keys=True)
