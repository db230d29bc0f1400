"""From a pack to padded arrays: every modality pooled to one length, with one mask in time."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import pooling
from cmarr_jax.data.rows_on_disk import RowsOnDisk, blocks
from cmarr_jax.errors import UserError

if TYPE_CHECKING:  # seconds to import, so only when used
    import tensorflow_datasets as tfds


_Features = dict[str, np.ndarray | RowsOnDisk]  # modality -> [N, T, D]
_Make = Callable[[int, dict[str, tuple[int, np.dtype]]], _Features]  # see `_make_features`
_Progress = Callable[[int, int], None]


class Corpus(NamedTuple):
    """N utterances as padded arrays, M modalities, all T positions long.

    But modalities in `rows` keep their own length, `[N, L_m, D_m]`.
    """

    name: str
    class_names: tuple[str, ...]
    columns: dict[str, np.ndarray]  # column name -> [N] str
    labels: np.ndarray  # [N] int32; -1 = unlabelled
    features: _Features  # zero where absent or padded
    mask: np.ndarray  # [N, T] bool; False = padding
    present: np.ndarray  # [N, M] bool; False = this utterance lacks this modality
    provenance: dict[str, Any]
    fingerprint: str = ""  # of the pack's files, whatever was made of them here; "" = unknown
    longest: int = 0  # rows that an utterance has at most in the pack; 0 = unknown
    # [N, M] bool; what nothing may be learned from, see `missing.drop`; None = nothing is dropped
    dropped: np.ndarray | None = None
    # Modality -> [N] int32, how many of the L_m rows are an utterance's
    rows: Mapping[str, np.ndarray] = MappingProxyType({})
    cut: Mapping[str, int] = MappingProxyType({})  # modality -> utterances longer than L_m

    @property
    def modalities(self) -> tuple[str, ...]:
        """M names, in the order of `present`."""
        return tuple(self.features)

    @property
    def learnable(self) -> np.ndarray:
        """`[N, M]` bool: what is present, where an utterance is learned from and not tested."""
        return self.present if self.dropped is None else self.present & ~self.dropped

    @property
    def total_rows(self) -> np.ndarray | None:
        """`[N]`, rows of the modalities that keep their own length; None = none does."""
        return np.sum(list(self.rows.values()), axis=0) if self.rows else None

    @property
    def on_disk(self) -> bool:
        """Whether the features are read when they are needed."""
        return any(isinstance(values, RowsOnDisk) for values in self.features.values())

    def digest(self) -> bytes:
        """Of what a model can see: features, labels, what is there."""
        digest = hashlib.blake2b()
        arrays = (*self.features.values(), self.mask, self.present, self.labels)
        arrays += tuple(self.rows.values())
        for array in arrays if self.dropped is None else (*arrays, self.dropped):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            for block in blocks(len(array)):
                digest.update(np.ascontiguousarray(array[block]))
        return digest.digest()


def load(
    *,
    pack: str,
    data_dir: str = "",
    loader: str = "tfds",
    align: str = "pool",
    length: int = 32,
    statistics: str = "mean",
    whole: Mapping[str, int] = MappingProxyType({}),
    stream: str = "",
    limit: float = float("inf"),
    progress: _Progress = lambda done, total: None,
) -> Corpus:
    """Reads a corpus into memory, or its features into a file.

    Args:
      pack: folder of a feature pack; may be empty if `data_dir` holds it prepared.
      data_dir: place of prepared TFDS datasets, see `tfds_builder.prepare`.
      loader: "tfds" (tf.data over the prepared dataset) or "numpy" (straight from the pack,
        for machines without TensorFlow). The same numbers but for rounding.
      align: "pool" or "interp" (every modality averaged or interpolated to `length` positions;
        1 = one vector an utterance), or "none" (modalities already share a length per
        utterance; padded to `length`).
      length: T, at least 1.
      statistics: what a position holds of its frames; "mean_max" (the mean and, after it, the
        maximum of each feature: 2 D) wants one position.
      whole: modality -> rows; it keeps its own length and is cut after so many.
      stream: a folder on a local disk, where the features shall lie in a nameless file until the
        process ends; "" = in memory.
      limit: bytes that features may take in memory.
      progress: called with (utterances read, N).

    Raises:
      UserError: the pack is invalid, or does not fit `align` and `length`.
    """
    if align not in (*pooling.KINDS, "none"):
        raise UserError(f"--config.data.align={align}: wanted pool, interp or none")
    if statistics not in pooling.STATISTICS:
        raise UserError(f"--config.data.statistics={statistics}: wanted mean or mean_max")
    if statistics == "mean_max" and (length > 1 or align == "none"):
        raise UserError(
            "--config.data.statistics=mean_max: wanted one position an utterance; add "
            "--config.data.length=1 --config.data.align=pool"
        )
    if loader not in ("numpy", "tfds"):
        raise UserError(f"--config.data.loader={loader}: wanted tfds or numpy")
    shape = _Shape(align, length, statistics, whole)
    make = functools.partial(_make_features, shape, stream, limit)
    if loader == "numpy":
        return _load_numpy(pack_lib.read(pack), shape, make, progress)
    return _load_tfds(pack, data_dir, shape, make, progress)


class _Shape(NamedTuple):
    """How sequences become arrays; fields as `load` has them."""

    align: str
    length: int
    statistics: str
    whole: Mapping[str, int]


def _make_features(
    shape: _Shape, stream: str, limit: float, num: int, kinds: dict[str, tuple[int, np.dtype]]
) -> _Features:
    """Zeros for `num` utterances; `kinds`: modality -> dims and dtype of its rows."""
    if strange := sorted({*shape.whole} - {*kinds}):
        raise UserError(
            f"--config.encoders.{strange[0]}: the pack has no {strange[0]}; it has "
            f"{', '.join(kinds)}"
        )
    times = pooling.times(shape.statistics)
    shapes = {
        m: (num, shape.whole[m], dim) if m in shape.whole else (num, shape.length, times * dim)
        for m, (dim, _) in kinds.items()
    }
    if stream:
        return {m: RowsOnDisk(stream, shape, kinds[m][1]) for m, shape in shapes.items()}
    needs = sum(np.prod(shape) * np.dtype(kinds[m][1]).itemsize for m, shape in shapes.items())
    if needs > limit:
        raise UserError(
            f"--config.data.pack: its features take {needs / 1e9:.1f} GB in memory, at most "
            f"{limit / 1e9:.1f} fit here; keep them on a local disk with "
            "--config.data.stream=FOLDER, or lower --config.data.length"
        )
    return {m: np.zeros(shape, kinds[m][1]) for m, shape in shapes.items()}


def _own_lengths(corpus: Corpus, lengths: np.ndarray, whole: Mapping[str, int]) -> Corpus:
    """The corpus with the rows of modalities that keep their own length; `lengths` `[N, M]`."""
    if not whole:
        return corpus
    features, rows, cut = dict(corpus.features), {}, {}
    for m, most in whole.items():
        own = lengths[:, corpus.modalities.index(m)]
        rows[m], cut[m] = np.minimum(own, most).astype(np.int32), int((own > most).sum())
        values = features[m]
        if isinstance(values, np.ndarray):  # of what was reserved, what is used
            features[m] = values[:, : rows[m].max()].copy()
    return corpus._replace(features=features, rows=rows, cut=cut)


def _load_numpy(pack: pack_lib.Pack, shape: _Shape, make: _Make, progress: _Progress) -> Corpus:
    num, (align, length, statistics, whole) = len(pack.labels), shape
    lengths = np.stack([np.diff(pack.offsets[m]) for m in pack.modalities], axis=1)
    mask, present = time_mask(lengths, align, length, pack.columns["id"])
    features = make(num, {m: (x.shape[1], x.dtype) for m, x in pack.features.items()})
    for i in range(num):
        for m in pack.modalities:
            sequence = pack.sequence(m, i)
            if m in whole or align == "none":
                most = whole.get(m, length)
                sequence = sequence[:most]
                features[m][i] = np.pad(sequence, [(0, most - len(sequence)), (0, 0)])
            else:
                features[m][i] = pooling.fix_length(sequence, length, align, statistics)
        progress(i + 1, num)
    pack_lib.check_unchanged(pack)
    corpus = Corpus(
        pack.name,
        pack.class_names,
        pack.columns,
        pack.labels,
        features,
        mask,
        present,
        pack.provenance,
        pack_lib.fingerprint(pack),
        int(lengths.max()),
    )
    return _own_lengths(corpus, lengths, whole)


def _load_tfds(
    pack_dir: str, data_dir: str, shape: _Shape, make: _Make, progress: _Progress
) -> Corpus:
    import tensorflow as tf  # seconds to import, so only when used

    from cmarr_jax.data import tfds_builder

    builder = tfds_builder.prepare(pack_dir, data_dir)
    try:
        return _read_tfds(builder, shape, make, progress)
    except tf.errors.DataLossError as e:  # a checksum
        tfds_builder.remove_damaged(builder, e.message.splitlines()[0], pack_dir)
    builder = tfds_builder.prepare(pack_dir, data_dir)
    return _read_tfds(builder, shape, make, progress)


def _read_tfds(
    builder: "tfds.core.DatasetBuilder", shape: _Shape, make: _Make, progress: _Progress
) -> Corpus:
    from cmarr_jax.data import tfds_reader

    num = builder.info.splits["corpus"].num_examples
    spec = dict(builder.info.features.items())
    modalities = {n.removeprefix("modality_"): n for n in spec if n.startswith("modality_")}
    columns = {n.removeprefix("column_"): n for n in spec if n.startswith("column_")}
    order = builder.info.metadata["modalities"]
    tensors = {m: spec[modalities[m]] for m in order}
    features = make(num, {m: (x.shape[-1], x.np_dtype) for m, x in tensors.items()})
    lengths = np.zeros((num, len(order)), np.int64)
    text = {name: [""] * num for name in columns}
    done = 0
    align, length, statistics, whole = shape
    batches = tfds_reader.batches(
        builder, align=align, length=length, statistics=statistics, whole=whole
    )
    for batch in batches.as_numpy_iterator():
        rows = batch["index"]
        for k, m in enumerate(order):
            features[m][rows] = batch[modalities[m]]
            lengths[rows, k] = batch[f"length_{m}"]
        for name, feature in columns.items():
            for row, value in zip(rows, batch[feature], strict=True):
                text[name][row] = value.decode()
        done += len(rows)
        progress(done, num)
    text = {name: np.array(values) for name, values in text.items()}
    class_names = tuple(builder.info.metadata["class_names"])
    index = {"": -1} | {name: k for k, name in enumerate(class_names)}
    mask, present = time_mask(lengths, align, length, text["id"])
    corpus = Corpus(
        builder.info.metadata["corpus"],
        class_names,
        text,
        np.array([index[label] for label in text["label"]], np.int32),
        features,
        mask,
        present,
        builder.info.metadata["provenance"],
        builder.builder_config.name,
        int(lengths.max()),
    )
    return _own_lengths(corpus, lengths, whole)


def time_mask(
    lengths: np.ndarray, align: str, length: int, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`[N, M]` row counts -> time mask `[N, T]` and presence `[N, M]`.

    Raises:
      UserError: the counts do not fit `align` and `length`; names one of `ids` `[N]`.
    """
    present = lengths > 0
    if align != "none":
        return np.ones((len(lengths), length), bool), present
    longest = lengths.max(axis=1)
    ragged = (present & (lengths != longest[:, None])).any(axis=1)
    if ragged.any():
        i = int(np.argmax(ragged))
        raise UserError(
            f"--config.data.align=none: utterance {str(ids[i])!r} has {lengths[i].tolist()} rows "
            "in its modalities, wanted one length; use --config.data.align=pool"
        )
    if longest.max() > length:
        i = int(np.argmax(longest))
        raise UserError(
            f"--config.data.length={length}: utterance {str(ids[i])!r} has {longest[i]} rows; "
            "raise the length or use --config.data.align=pool"
        )
    return np.arange(length) < longest[:, None], present
