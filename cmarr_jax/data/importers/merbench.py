"""The format of MERBench: one label archive and, for each modality, a folder of .npy files.

    label-4way.npz  `whole_corpus`, or `train_corpus`, `val_corpus` and `test_corpus`:
                    a dict {id: {"emo": class, "val": score}} kept as an array of one object
    FOLDER/ID.npy   [D] or [T, D];  or FOLDER/ID/FRAME.npy, one [D] a frame

Source: https://github.com/zeroQiaoba/MERTools.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers import naming, stores
from cmarr_jax.data.importers.assemble import Archive, unread
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError

_CORPORA = {
    "whole_corpus": "",
    "train_corpus": "train",
    "val_corpus": "val",
    "test_corpus": "test",
}


def read(
    labels_file: str,
    features: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    polarity: str = "",
) -> Archive:
    """Reads the labels without running what the archive holds, see `pickles`.

    Args:
      labels_file: path of the .npz archive.
      features: modality -> folder.
      classes: see `labels.to_classes`.
      polarity: makes two classes of `val`, see `labels.to_classes`; "" = takes `emo`.

    Raises:
      UserError: the file is refused, or not of this format.
    """
    archive = stores.open_npz(labels_file)
    field = "val" if polarity else "emo"
    ids, values, split = [], [], []
    others: set[str] = set()
    for key, name in _CORPORA.items():
        if key not in archive:
            continue
        corpus = archive[key]()
        corpus = corpus.item() if np.size(corpus) == 1 else None
        if not isinstance(corpus, dict):
            raise UserError(f"{labels_file}: {key!r} is no dict by id")
        for i, entry in corpus.items():
            if not isinstance(entry, dict) or field not in entry:
                raise UserError(f"{labels_file}: {key!r} has no {field!r} of {i!r}")
            ids.append(values_lib.text(i))
            values.append(entry[field])
            others |= {str(k) for k in entry if k != field}
            split.append(name)
    if not ids:
        raise UserError(
            f"{labels_file}: found {', '.join(archive) or 'nothing'}, "
            f"wanted some of {', '.join(_CORPORA)}"
        )
    labels, class_names = to_classes(values, labels_file, classes=classes, polarity=polarity)
    columns = {} if "" in split else {"split": split}
    if columns and any(naming.parse(i) is None for i in ids):
        columns |= {"session": split, "speaker": [i.rpartition("_")[0] or i for i in ids]}
        columns["group"] = columns["speaker"]
    return Archive(
        ids,
        labels,
        class_names,
        {m: stores.open_store(path) for m, path in features.items()},
        columns,
        {
            "layout": "merbench",
            "labels": os.path.basename(labels_file),
            "features": {m: stores.short(p) for m, p in features.items()},
        },
        (
            *unread(f"{stores.short(labels_file)}: arrays", set(archive) - set(_CORPORA)),
            *unread(f"{stores.short(labels_file)}: fields of utterances", others),
        ),
    )
