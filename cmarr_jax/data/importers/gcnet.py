"""The format of GCNet: one label pickle and, for each modality, a folder of .npy files.

    LABELS.pkl     (videoIDs, videoLabels, videoSpeakers, videoSentences, train, [val,] test):
                   dicts by video of lists by utterance, and sets of videos
    FOLDER/ID.npy  [D] or [T, D];  or FOLDER/ID/FRAME.npy, one [D] a face

Faces of IEMOCAP end in _F.npy or _M.npy; those of the turn's speaker are taken.
Source: https://github.com/zeroQiaoba/GCNet.
"""

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers import naming, pickles, stores
from cmarr_jax.data.importers.assemble import Archive, unread
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError

_FACE = re.compile(r"_([FM])\.npy$")


def read(
    labels_file: str,
    features: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    polarity: str = "",
) -> Archive:
    """Reads the labels without running the pickle, see `pickles`, and opens the features.

    Videos are groups. Where ids name no speaker, the video stands for the speaker and the split
    for the session.

    Args:
      labels_file: path of the pickle.
      features: modality -> folder.
      classes: see `labels.to_classes`.
      polarity: see `labels.to_classes`; "" = labels are classes.

    Raises:
      UserError: the file is refused, or not of this format.
    """
    content = pickles.load(labels_file)
    if not isinstance(content, tuple | list) or len(content) not in (6, 7):
        size = len(content) if isinstance(content, tuple | list) else type(content).__name__
        raise UserError(
            f"{labels_file}: found {size}, wanted a tuple of 6 or 7: videoIDs, videoLabels, "
            "videoSpeakers, videoSentences, train, [val,] test"
            + ("; a dict of parts is read by the format mmsa" if isinstance(content, dict) else "")
        )
    of_video, values, speakers, sentences, *parts = content
    tables = (of_video, values, speakers, sentences)
    if not all(isinstance(t, dict) for t in tables):
        raise UserError(f"{labels_file}: its first four entries must be dicts by video")
    for table in tables:
        for video, row in table.items():
            if not isinstance(row, list | tuple | np.ndarray):
                raise UserError(f"{labels_file}: {video!r} is a {type(row).__name__}, not a list")
    if not all(isinstance(p, list | tuple | set | frozenset | np.ndarray) for p in parts):
        raise UserError(f"{labels_file}: its last {len(parts)} entries must be sets of videos")
    names = ("train", "test") if len(parts) == 2 else ("train", "val", "test")
    split_of: dict[str, str] = {}
    for name, videos in zip(names, parts, strict=True):
        for video in videos:
            if split_of.setdefault(video, name) != name:
                raise UserError(f"{labels_file}: video {video!r} is in two parts")
    rows = []
    for video in sorted(split_of):
        if any(video not in table for table in tables):
            raise UserError(f"{labels_file}: video {video!r} is in a part, but not in every dict")
        columns = [list(table[video]) for table in tables]
        if len({len(c) for c in columns}) > 1:
            raise UserError(f"{labels_file}: video {video!r} has unequal lists")
        rows += [(video, split_of[video], *row) for row in zip(*columns, strict=True)]
    if not rows:
        raise UserError(f"{labels_file}: names no utterance")
    groups, split, ids, values, speakers, sentences = (list(c) for c in zip(*rows, strict=True))
    ids = [values_lib.text(i) for i in ids]
    labels, class_names = to_classes(values, labels_file, classes=classes, polarity=polarity)
    columns = {"split": split, "group": [str(g) for g in groups]}
    columns["text"] = [" ".join(values_lib.text(s).split()) for s in sentences]
    if any(naming.parse(i) is None for i in ids):
        columns |= {"session": split, "speaker": columns["group"]}
    letter = dict(zip(ids, map(str, speakers), strict=True))
    return Archive(
        ids,
        labels,
        class_names,
        {m: _own_faces(stores.open_store(path), letter) for m, path in features.items()},
        columns,
        {
            "layout": "gcnet",
            "labels": os.path.basename(labels_file),
            "features": {m: stores.short(p) for m, p in features.items()},
        },
        tuple(
            unread(f"{stores.short(labels_file)}: videos in no part", set(of_video) - set(split_of))
        ),
    )


def _own_faces(store: stores.Store, letter: Mapping[str, str]) -> stores.Store:
    def read(i: str) -> np.ndarray:
        folder = os.path.join(store.path, i)
        if not os.path.isdir(folder):
            return store.read(i)
        files = stores.frames_of(folder)
        if files and all(_FACE.search(f) for f in files):
            files = [f for f in files if (face := _FACE.search(f)) and face[1] == letter[i]]
        store.unread.extend(f"{i}/{f}" for f in {*os.listdir(folder)} - {*files})
        return stores.stack_frames(folder, files)

    return store._replace(read=read)
