"""Text, sound and video files to the features that a model was trained on, by the same encoders.

A model folder says which encoder made the features of each modality: the hashes of its files, its
options and the version of its code. An encoder that differs is refused, because to the model its
features would be noise.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmarr_jax.data.provenance import difference
from cmarr_jax.errors import UserError
from cmarr_jax.extract import engine
from cmarr_jax.extract.source import Source, Utterance

FLAGS = {"text": "--text", "speech": "--wav", "video": "--video"}


def utterance(
    identifier: str, text: str | None = None, wav: str | None = None, video: str | None = None
) -> Utterance:
    """One input; None = not given. Of a video the whole picture and the whole length are used."""
    return Utterance(identifier, "", "", "", "", text, wav, video, None, None, None)


def open_sources(
    encoders: Mapping[str, Any], models: Mapping[str, str | None], *, alone: bool
) -> dict[str, Source]:
    """The encoders of some modalities.

    Args:
      encoders: modality -> what model.json says of it, see `data.provenance.encoders`.
      models: modality -> folder or hub name of its encoder; None = the one that the extraction
        of the training corpus was given. Its keys are the modalities wanted.
      alone: whether only one utterance is encoded: then batches of one are quickest.

    Raises:
      UserError: the features of a modality were not made from raw input here, or the encoder
        is not the one that made them.
    """
    sources = {}
    for modality, model in models.items():
        flag, facts = FLAGS[modality], encoders.get(modality)
        if modality not in encoders:
            raise UserError(f"{flag}: the model knows {', '.join(encoders)} alone; leave it out")
        if facts is None:
            raise UserError(
                f"{flag}: the {modality} features that this model was trained on were not made by "
                "python -m cmarr_jax.extract, so raw input cannot be encoded alike; give features "
                "of the same kind with --pack"
            )
        if not (model or facts["model"]):
            raise UserError(
                f"--{modality}-model: missing, and the corpus does not say where its encoder was; "
                "name its folder"
            )
        try:
            source = _open(modality, facts["recipe"], model or facts["model"], 1 if alone else None)
        except UserError as e:
            if model or os.path.exists(facts["model"]):
                raise
            raise UserError(
                f"{e}; an encoder that lies elsewhere is named by --{modality}-model"
            ) from None
        ours = json.loads(json.dumps(source.recipe))
        if ours != facts["recipe"]:
            raise UserError(
                f"--{modality}-model={model or facts['model']}: not the encoder that the model was "
                f"trained with ({difference(ours, facts['recipe'])}); "
                f"{_remedy(modality, ours, facts['recipe'])}"
            )
        sources[modality] = source
    return sources


def _remedy(modality: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    if any(ours.get(field) != theirs.get(field) for field in ("encoder", "sha256", "weights")):
        return f"name that one's {'file' if 'weights' in theirs else 'folder'}"
    return "the files are the same: install the version that the model was trained with"


def _open(modality: str, recipe: Mapping[str, Any], model: str, budget: int | None) -> Source:
    if modality == "text":
        from cmarr_jax.extract import text

        return text.source(
            model,
            keep_special_tokens=recipe["keep_special_tokens"],
            max_length=recipe["max_length"],
            dtype=recipe["dtype"],
            layers=recipe.get("layers", "last"),
            budget=budget,
        )
    if modality == "speech":
        from cmarr_jax.extract import speech

        return speech.source(
            model,
            max_seconds=recipe["max_seconds"],
            dtype=recipe["dtype"],
            layers=recipe.get("layers", "last"),
            budget=budget,
        )
    from cmarr_jax.extract import video

    if "fps" not in recipe:
        raise UserError(
            "--video: this model was trained on ready features or cropped faces, not on videos; "
            "give features of the same kind with --pack"
        )
    return video.source(
        model=model,
        fps=recipe["fps"],
        margin=recipe.get("margin"),
        size=recipe.get("size"),
        layers=recipe.get("layers", "last"),
        dtype=recipe["dtype"],
    )


def encode(
    sources: Mapping[str, Source],
    utterances: Sequence[Utterance],
    stored_as: Mapping[str, str],
) -> tuple[dict[str, list[np.ndarray]], list[dict[str, str]]]:
    """Features of n utterances, and what went wrong.

    Args:
      sources: modality -> its encoder.
      utterances: made by `utterance`.
      stored_as: modality -> dtype that the training corpus' features were rounded to.

    Returns:
      Modality -> n arrays `[T_i, D]`, `T_i = 0` where it is not given or could not be read; and
      for each utterance: modality -> why it could not be read, or that it was cut.

    Raises:
      UserError: the device fails.
    """
    features, problems = {}, [{} for _ in utterances]
    for modality, source in sources.items():
        dtype = np.dtype(stored_as[modality])
        features[modality] = [np.zeros((0, source.dim), dtype) for _ in utterances]
        buckets: dict[int, list] = {}
        for i, given in enumerate(utterances):
            field = {"text": given.text, "speech": given.wav, "video": given.video}[modality]
            if field is None:
                continue
            loaded = engine.guarded(source.load, given)
            if loaded.item is None:
                problems[i][modality] = f"{loaded.status}: {loaded.detail}"
            else:
                buckets.setdefault(source.bucket(loaded.item), []).append((i, loaded))
        for bucket, waiting in sorted(buckets.items()):
            size = source.batch_size(bucket)
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                try:
                    arrays = source.encode(bucket, [loaded.item for _, loaded in batch])
                except (RuntimeError, MemoryError) as e:  # JAX's device errors are RuntimeErrors
                    reason = (str(e).splitlines() or [type(e).__name__])[0]
                    raise UserError(
                        f"{FLAGS[modality]}: the device failed on a batch of {len(batch)} "
                        f"({reason}); give fewer or shorter inputs"
                    ) from None
                for (i, loaded), array in zip(batch, arrays, strict=True):
                    kept, status, detail = engine.checked(source, loaded, array, dtype)
                    features[modality][i] = kept
                    if status != "ok":
                        problems[i][modality] = f"{status}: {detail}"
    return features, problems
