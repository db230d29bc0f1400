"""A trained model in use: features in, class probabilities out, averaged over its runs.

    from cmarr_jax.predictor import Predictor

    predictor = Predictor("DIR")
    predictions = list(predictor.of_pack("PACK"))

Each run of a sweep (a fold with a seed) is one member of an ensemble. The mean over the members is
the prediction, the deviation between them an uncertainty (Lakshminarayanan, Pritzel and Blundell,
"Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017). A
missing modality is recovered, or left out, exactly as in the test of the sweep.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data import dialogue, pipeline, pooling, provenance, values
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from cmarr_jax.experiment.encoders import from_facts
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch, Stage
from cmarr_jax.training import encoders
from cmarr_jax.training.normalise import Statistics, normalise
from cmarr_jax.workdir import model_folder

BATCH = 64  # utterances; all batches have one shape, so that one program serves a whole pack


class Prediction(NamedTuple):
    """The prediction for one utterance; None where there is no value."""

    id: str
    posterior: dict[str, float] | None  # class -> mean probability over the runs
    predicted: str | None  # the class of the highest probability
    spread: dict[str, float] | None  # class -> deviation between the runs; None for one run
    variance: dict[str, float] | None  # modality -> mean variance of its embedding, if it has one
    present: tuple[str, ...]  # modalities that were given
    reconstructed: tuple[str, ...]  # modalities that the system recovered


class Predictor:
    """The models of one folder, on JAX's default device.

    Attributes:
      facts: model.json, see `cmarr_jax.workdir.model_folder`.
    """

    def __init__(self, path: str, *, fold: int = 0):
        """Reads WORKDIR or its folder `model`; `fold` = 0 takes the models of all folds.

        Raises:
          UserError: no model lies there, this library cannot run it, or it has no such fold.
        """
        model = model_folder.read(path)
        self.facts, self._path = model.facts, model.path
        name = self.facts["system"]
        if name not in SYSTEMS:
            raise UserError(
                f"{self._path}/model.json: system {name!r} is not among this library's "
                f"({', '.join(SYSTEMS)}); add its file, see README.md"
            )
        folds = sorted({run["fold"] for run in self.facts["runs"]})
        if fold and fold not in folds:
            raise UserError(
                f"--fold={fold}: the model has the folds {', '.join(map(str, folds))} (0 = all)"
            )
        chosen = [r for r, run in enumerate(self.facts["runs"]) if fold in (0, run["fold"])]
        self._modalities = tuple(self.facts["modalities"])
        try:
            system = SYSTEMS[name](model.config, self._modalities, len(self.facts["classes"]))
        except (AttributeError, KeyError) as e:
            raise UserError(
                f"{self._path}/config.json: lacks a setting of {name} ({str(e).splitlines()[0]}); "
                "it was made by another version of this library"
            ) from None
        self._upper = [from_facts(m, f) for m, f in self.facts.get("upper", {}).items()]
        self._whole = {e.modality: e.positions for e in self._upper if e.positions}
        system = encoders.with_encoders(system, self._upper)
        statistics = Statistics(model.mean, model.scale, model.quantiles)
        self._members = jax.device_put(
            jax.tree.map(lambda leaf: leaf[np.array(chosen)], (model.params, statistics))
        )
        self.num_models = len(chosen)
        self._run = jax.jit(_make_run(system.stages[-1]))

    def of_pack(self, path: str, *, batch_size: int = BATCH) -> Iterator[Prediction]:
        """Predictions for every utterance of the feature pack `path`, in its order.

        Raises:
          UserError: it is no pack, or its features are not of the kind that the model knows.
        """
        yield from self.of_read_pack(pack_lib.read(path), batch_size=batch_size)

    def of_read_pack(self, pack: pack_lib.Pack, *, batch_size: int = BATCH) -> Iterator[Prediction]:
        """`of_pack` for a pack that is already read."""
        known = [m for m in pack.modalities if m in self._modalities]
        if not known:
            raise UserError(
                f"{pack.path}: has {', '.join(pack.modalities)}, and the model knows "
                f"{', '.join(self._modalities)}"
            )
        odd = [m for m in pack.modalities if m not in self._modalities]
        lacks = [m for m in self._modalities if m not in pack.modalities]
        if odd and lacks:
            raise UserError(
                f"{pack.path}: the model does not know {', '.join(odd)}, and {', '.join(lacks)} is "
                "not there: if they are the same, name them alike; else write a pack without"
            )
        theirs = provenance.encoders(pack.provenance, known)
        remedy = "wanted features of the kind that it was trained on"
        if self.facts["corpus"].endswith(dialogue.SUFFIX):
            remedy = "add the context of dialogues with python -m cmarr_jax.data.dialogue"
        for m in known:
            if (width := pack.features[m].shape[1]) != (wanted := self.facts["dims"][m]):
                raise UserError(
                    f"{pack.path}: its {m} features are {width}-d, the model's {wanted}-d; {remedy}"
                )
            ours = self.facts["encoders"].get(m)
            if ours and theirs[m] and ours["recipe"] != theirs[m]["recipe"]:
                odd = provenance.difference(theirs[m]["recipe"], ours["recipe"])
                raise UserError(
                    f"{pack.path}: its {m} features come from another encoder or other options "
                    f"than the model's; {odd}; extract them again with the model's"
                )
        ids = pack.columns["id"].tolist()
        for start in range(0, len(ids), batch_size):
            rows = range(start, min(start + batch_size, len(ids)))
            sequences = {m: [pack.sequence(m, i) for i in rows] for m in known}
            yield from self.of_features(ids[start : rows.stop], sequences, batch_size=batch_size)

    def of_features(
        self,
        ids: Sequence[str],
        sequences: Mapping[str, Sequence[np.ndarray]],
        *,
        batch_size: int = BATCH,
    ) -> Iterator[Prediction]:
        """Predictions for n utterances.

        Args:
          ids: n names.
          sequences: modality -> n arrays `[T_i, D]` of numbers; None or `T_i = 0` where an
            utterance lacks it. A modality that is not a key is missing everywhere. Odd numbers
            are taken as docs/packs.md says, with a warning that counts them.
          batch_size: utterances that are computed together; the last batch is padded.

        Raises:
          UserError: an array does not have the model's width, or does not hold numbers.
        """
        sequences = {m: self._clean(ids, m, arrays) for m, arrays in sequences.items()}
        for start in range(0, len(ids), batch_size):
            chunk = slice(start, start + batch_size)
            yield from self._predict(
                ids[chunk], {m: arrays[chunk] for m, arrays in sequences.items()}, batch_size
            )

    def _clean(self, ids: Sequence[str], modality: str, arrays: Sequence) -> list[np.ndarray]:
        """The arrays as a pack would hold them; warns of what that changes."""
        if modality not in self._modalities:
            raise UserError(f"{modality}: the model knows {', '.join(self._modalities)}")
        if len(arrays) != len(ids):
            raise UserError(f"{modality}: {len(arrays)} arrays, wanted {len(ids)}, one an id")
        width = self.facts["dims"][modality]
        cleaned, zeroed, dropped, first = [], 0, 0, ""
        for identifier, given in zip(ids, arrays, strict=True):
            array = values.sequence(given, f"{identifier}: {modality}")
            if array.shape[1] != width and (len(array) or array.shape[1]):
                raise UserError(
                    f"{identifier}: {modality} has the shape {array.shape}, wanted (rows, {width})"
                )
            kept = values.finite(array.reshape(-1, width), values.stored(array))
            zeroed, dropped = zeroed + kept.zeroed, dropped + kept.dropped
            first = first or (kept.said and str(identifier))
            cleaned.append(kept.rows)
        if said := values.Finite(np.zeros(0, np.float32), zeroed, dropped).said:
            warnings.warn(f"{modality}: {said} ({first} first)", stacklevel=3)
        return cleaned

    def _predict(self, ids, sequences, size: int) -> Iterator[Prediction]:
        """One batch of at most `size` utterances, padded to exactly `size`."""
        present, posteriors, variances, recovers = self._posteriors(ids, sequences, size)
        classes = self.facts["classes"]
        for i, identifier in enumerate(ids):
            given = tuple(m for m, has in zip(self._modalities, present[i], strict=True) if has)
            if not given:
                yield Prediction(str(identifier), None, None, None, None, (), ())
                continue
            mean, spread = posteriors[:, i].mean(axis=0), posteriors[:, i].std(axis=0)
            variance = None
            if variances is not None:
                means = zip(self._modalities, variances[:, :, i].mean(axis=0), strict=True)
                variance = {m: float(value) for m, value in means if m in given}
            yield Prediction(
                str(identifier),
                dict(zip(classes, mean.tolist(), strict=True)),
                classes[int(mean.argmax())],
                dict(zip(classes, spread.tolist(), strict=True)) if self.num_models > 1 else None,
                variance,
                given,
                tuple(m for m in self._modalities if m not in given) if recovers else (),
            )

    def _posteriors(self, ids, sequences, size: int):
        """-> present `[n, M]`, posteriors `[R, n, C]`, variances `[R, M, n]` or None, recovers."""
        align, length, num = self.facts["align"], self.facts["length"], len(ids)
        lengths = np.zeros((num, len(self._modalities)), np.int64)
        features, rows = {}, {}
        for k, m in enumerate(self._modalities):
            for i, sequence in enumerate(sequences.get(m, ())):
                lengths[i, k] = len(sequence)
            width = self.facts["dims"][m] * pooling.times(self.facts["statistics"])
            positions = length
            if m in self._whole:  # in one of few lengths, since each is compiled
                own = np.minimum(lengths[:, k], self._whole[m])
                fits = encoders.buckets(self._whole[m])
                positions = next(x for x in fits if x >= own.max(initial=1))
                rows[m] = np.pad(own, (0, size - num), constant_values=1).astype(np.int32)
            features[m] = np.zeros((size, positions, width), np.float32)
        mask, present = pipeline.time_mask(lengths, align, length, np.asarray(ids))
        for m, arrays in sequences.items():
            for i, sequence in enumerate(arrays):
                if m in self._whole:
                    sequence = sequence[: self._whole[m]]
                    features[m][i, : len(sequence)] = sequence
                elif align == "none":
                    features[m][i, : len(sequence)] = sequence
                else:  # rounded as the corpus is when it is read for training
                    fixed = pooling.fix_length(sequence, length, align, self.facts["statistics"])
                    features[m][i] = fixed.astype(sequence.dtype)
        rest = size - num  # padded with utterances of zeros that have every modality
        batch = (
            features,
            rows,
            np.pad(mask, ((0, rest), (0, 0)), constant_values=True),
            np.pad(present, ((0, rest), (0, 0)), constant_values=True),
        )
        try:
            posteriors, variances, recovers = self._run(self._members, *batch)
        except flax.errors.FlaxError as e:
            raise UserError(
                f"{self._path}/weights.npz: does not fit this library's {self.facts['system']} "
                f"({str(e).splitlines()[0][:200]}); it was made by another version"
            ) from None
        if variances is not None:
            variances = np.asarray(variances)
        return present, np.asarray(posteriors)[:, :num], variances, bool(recovers[0])


def _make_run(stage: Stage) -> Callable:
    """A function of the members and of features, their rows, mask and `present` of B utterances.

    It returns posteriors `[R, B, C]`, variances `[R, M, B]` or None, and whether missing modalities
    are recovered `[R]`.
    """

    def run(members, features, rows, mask, present):
        # A batch needs labels and weights, but prediction reads neither.
        labels, weights = jnp.zeros(len(mask), jnp.int32), jnp.ones(len(mask))

        def one(member):
            params, statistics = member
            plain = {m: x for m, x in features.items() if m not in stage.encoded}
            shown = features | normalise(plain, statistics)
            batch = Batch(shown, mask, present, labels, weights)
            batch = encoders.see(stage, params, batch, rows, statistics)
            encoded = stage.encode(params, batch)
            said = stage.predict(params, encoded, batch.mask, batch.present)
            posteriors = jax.nn.softmax(said.logits.astype(jnp.float32))
            return posteriors, said.variance, jnp.array(said.recovered is not None)

        # vmap takes half as long as map for one utterance, and as long for 64 (not in training).
        return jax.lax.map(one, members) if stage.encoders else jax.vmap(one)(members)

    return run
