"""A feature pack as a TensorFlow Datasets dataset, so that it can live in a bucket.

The dataset's name carries the pack's fingerprint: a pack that changed is prepared anew and
two packs never mix. Tensors are stored as raw bytes (`Encoding.BYTES`); the default encoding
was measured to take twice the disk and sixty times as long.
"""

import contextlib
import io
import os

import numpy as np
import tensorflow_datasets as tfds

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError

_VERSION = "1.0.0"


class FeaturePack(tfds.core.GeneratorBasedBuilder):
    """One example an utterance: its index, its columns and `[T_i, D]` of every modality."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, pack: pack_lib.Pack, data_dir: str):
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
    """Opens the prepared dataset, preparing it first if need be.

    Args:
      pack_dir: the feature pack's folder; empty if only the prepared dataset is at hand.
      data_dir: where prepared datasets live, a folder or a bucket (`gs://...`); empty means
        the folder `tfds` inside the pack.

    Raises:
      UserError: no pack and not exactly one prepared dataset in `data_dir`.
    """
    if pack_dir:
        builder = FeaturePack(
            pack=pack_lib.read(pack_dir), data_dir=data_dir or os.path.join(pack_dir, "tfds")
        )
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
        except OSError as e:
            raise UserError(
                f"{builder.data_dir}: cannot prepare the dataset ({e}); "
                "name a writable place with --config.data.data_dir"
            ) from None
        return builder
    found = tfds.core.Path(data_dir).glob(f"feature_pack/*/{_VERSION}/dataset_info.json")
    folders = sorted(str(path.parent) for path in found)
    if len(folders) != 1:
        raise UserError(
            f"--config.data.data_dir={data_dir}: holds {len(folders)} prepared feature packs, "
            "wanted one; name the pack's folder with --config.data.pack"
        )
    return tfds.builder_from_directory(folders[0])
