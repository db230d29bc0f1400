"""A feature pack as a TensorFlow Datasets dataset, so that it can live in a bucket.

The dataset's name carries the pack's fingerprint: a pack that changed is prepared anew and
two packs never mix. Tensors are stored as raw bytes (`Encoding.BYTES`); the default encoding
was measured to take twice the disk and sixty times as long.

It is made in a folder beside its place and sealed: `seal.json` holds the size of every file, and
a digest of what is no TFRecord; the records have checksums of their own.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError

_VERSION = "1.1.0"
_SEAL = "seal.json"


class FeaturePack(tfds.core.GeneratorBasedBuilder):
    """One example an utterance: its index, its columns and `[T_i, D]` of every modality."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, pack: pack_lib.Pack, data_dir: str):
        """Names the dataset after the pack; nothing is written yet."""
        self._pack = pack
        config = tfds.core.BuilderConfig(name=pack_lib.fingerprint(pack), version=_VERSION)
        super().__init__(config=config, data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"index": tfds.features.Scalar(np.int64)}
        features |= {f"column_{name}": tfds.features.Text() for name in self._pack.columns}
        for name, rows in self._pack.features.items():
            features[f"modality_{name}"] = tfds.features.Tensor(
                shape=(None, rows.shape[1]),
                dtype=rows.dtype,
                encoding=tfds.features.Encoding.BYTES,
            )
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Feature pack {self._pack.name}; class names: {self._pack.class_names}.",
            features=tfds.features.FeaturesDict(features),
            # The label column goes by class names; their order is the pack's to say.
            metadata=tfds.core.MetadataDict(
                corpus=self._pack.name,
                modalities=list(self._pack.modalities),
                class_names=list(self._pack.class_names),
                provenance=self._pack.provenance,
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"corpus": self._generate_examples()}

    def _generate_examples(self):
        pack = self._pack
        for i in range(len(pack.labels)):
            example = {"index": i}
            example |= {f"column_{name}": str(values[i]) for name, values in pack.columns.items()}
            example |= {f"modality_{m}": np.asarray(pack.sequence(m, i)) for m in pack.modalities}
            yield i, example
        pack_lib.check_unchanged(pack)  # before the dataset takes the name of what was read


def prepare(pack_dir: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Opens the prepared dataset, preparing it first if need be, or anew if it is damaged.

    Args:
      pack_dir: the feature pack's folder; empty if only the prepared dataset is at hand.
      data_dir: where prepared datasets live, a folder or a bucket (`gs://...`); empty means
        the folder `tfds` inside the pack.

    Raises:
      UserError: no pack and not exactly one sound prepared dataset in `data_dir`; or it cannot
        be written there.
    """
    named = data_dir
    if data_dir and "://" not in data_dir:  # else tfds takes a ~ in front for somebody's home
        data_dir = os.path.abspath(data_dir)
    if not pack_dir:
        folders = _prepared(data_dir)
        if len(folders) != 1:
            raise UserError(
                f"--config.data.data_dir={named}: holds {len(folders)} prepared feature packs, "
                "wanted one; name the pack's folder with --config.data.pack"
            )
        if reason := _damage(folders[0]):
            raise UserError(f"{folders[0]}: {reason}; {_REMEDY}")
        return tfds.builder_from_directory(folders[0])
    pack = pack_lib.read(pack_dir)
    data_dir = data_dir or os.path.join(os.path.abspath(pack_dir), "tfds")
    # Where tfds puts it; asking a builder would read what may be damaged.
    place = tfds.core.Path(data_dir) / "feature_pack" / pack_lib.fingerprint(pack) / _VERSION
    if not _damage(place):
        return FeaturePack(pack=pack, data_dir=data_dir)
    try:
        with _locked(data_dir):
            if reason := _damage(place):
                if place.exists():
                    print(f"{place}: {reason}; preparing it anew", file=sys.stderr)
                    place.rmtree()
                _make(pack, data_dir, place)
    except (OSError, tf.errors.OpError) as e:
        reason = getattr(e, "strerror", None) or getattr(e, "message", None) or str(e)
        raise UserError(
            f"{place}: cannot prepare the dataset ({reason}); "
            "name a place with room and permission with --config.data.data_dir"
        ) from None
    return FeaturePack(pack=pack, data_dir=data_dir)


def _prepared(data_dir: str) -> list[tfds.core.Path]:
    """The folders of prepared packs; listed: a glob takes [ and * in `data_dir` for its own."""
    root = tfds.core.Path(data_dir) / "feature_pack"
    if not root.exists():
        return []
    found = sorted(place / _VERSION for place in root.iterdir())
    return [folder for folder in found if (folder / "dataset_info.json").exists()]


_REMEDY = "prepare it anew by naming its pack with --config.data.pack"


def remove_damaged(builder: tfds.core.DatasetBuilder, reason: str, pack_dir: str) -> None:
    """Removes a dataset whose records turned out damaged, so that `prepare` makes it anew.

    Raises:
      UserError: without a pack it cannot be made anew.
    """
    if not pack_dir:
        raise UserError(f"{builder.data_path}: damaged ({reason}); {_REMEDY}")
    print(f"{builder.data_path}: damaged ({reason}); preparing it anew", file=sys.stderr)
    builder.data_path.rmtree()


def _make(pack: pack_lib.Pack, data_dir: str, place: tfds.core.Path) -> None:
    """Prepares and seals the dataset in a draft, which then becomes `place`.

    By tfds' paths, not by `runtime.files.draft`, which knows no buckets.
    """
    draft = tfds.core.Path(data_dir) / "draft"
    if draft.exists():  # of a process that was killed: only one makes it at a time
        draft.rmtree()
    builder = FeaturePack(pack=pack, data_dir=os.fspath(draft))
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        (builder.data_path / _SEAL).write_text(json.dumps(_inventory(builder.data_path)))
        place.parent.mkdir(parents=True, exist_ok=True)
        builder.data_path.rename(place)
    finally:
        draft.rmtree(missing_ok=True)


def _inventory(folder: tfds.core.Path) -> dict[str, list]:
    """Name -> size and, of what is no TFRecord, digest."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _SEAL:
            plain = "tfrecord" not in path.name
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
            found[path.name] = [tf.io.gfile.stat(os.fspath(path)).length, digest]
    return found


def _damage(folder: tfds.core.Path) -> str:
    """What is wrong with a prepared dataset, "" if nothing is."""
    if not folder.exists():
        return "missing"
    try:
        seal = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return "not prepared to the end"
    except ValueError:
        return f"{_SEAL} is damaged"
    found = _inventory(folder)
    wrong = sorted(name for name in seal.keys() | found if seal.get(name) != found.get(name))
    return f"{wrong[0]} is not as it was written" if wrong else ""


@contextlib.contextmanager
def _locked(data_dir: str) -> Iterator[None]:
    """Waits until no other process on this machine prepares; a bucket knows no locks."""
    if "://" in data_dir:
        yield
        return
    os.makedirs(data_dir, exist_ok=True)
    with open(os.path.join(data_dir, "lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
