"""A trained model as one folder, which `cmarr_jax.predict` loads without the corpus.

    model.json    facts: system, classes, modalities, widths, alignment, runs, encoders
    config.json   the sweep's config
    weights.npz   each parameter under its path, `[R, ...]`, and the runs' normalisation,
                  "mean/MODALITY" and "scale/MODALITY" `[R, D_m]`, and "quantiles/MODALITY"
                  `[R, K, D_m]` where features are normalised by quantiles

Where encoders' upper layers were trained, model.json says of which ("upper"), and D_m is the width
of what they give.

NumPy is enough to read it. `train.py` writes it to WORKDIR/model when a sweep is finished.
"""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax.data import pooling, provenance
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Fold
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import draft, write_whole
from cmarr_jax.runtime.processes import PyTree
from cmarr_jax.workdir import files

FORMAT_VERSION = 2
WITH_ENCODERS = 3  # of a model with upper layers, that earlier versions must not run without
_FIELDS = {
    "corpus": str,
    "system": str,
    "variant": str,
    "protocol": str,
    "classes": list,
    "modalities": list,
    "dims": dict,
    "align": str,
    "length": int,
    "statistics": str,
    "runs": list,
    "encoders": dict,
}


class Model(NamedTuple):
    """R trained models of one system, and all that says what input they take."""

    path: str
    facts: dict[str, Any]  # model.json
    config: FrozenConfigDict  # the config's section `model`
    params: dict[str, Any]  # the last stage's variables, leaves [R, ...]
    mean: dict[str, np.ndarray]  # modality -> [R, D_m]
    scale: dict[str, np.ndarray]  # modality -> [R, D_m]
    quantiles: dict[str, np.ndarray]  # modality -> [R, K, D_m]; empty = not used


def write(
    folder: str,
    *,
    identity: Mapping[str, str],
    corpus: Corpus,
    config: ConfigDict,
    run_ids: Sequence[tuple[Fold, int]],
    best: Any,
    statistics: Any,
    tree_of: Callable[[np.ndarray], PyTree],
    upper: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Writes the model folder, whole or not at all, in place of an earlier one.

    Args:
      folder: such as WORKDIR/model.
      identity: corpus, system, variant and protocol, as in the results.
      corpus: what the runs were trained on.
      config: the whole config.
      run_ids: (fold, seed) of each of the R runs.
      best: `training.loop.Best`, on the host.
      statistics: `training.normalise.Statistics` of the runs, on the host.
      tree_of: parameters `[P]` -> the last stage's tree.
      upper: modality -> the `facts` of its `systems.system.Encoder`.
    """
    facts = {
        "format_version": WITH_ENCODERS if upper else FORMAT_VERSION,
        **identity,
        "classes": list(corpus.class_names),
        "modalities": list(corpus.modalities),
        "dims": {
            m: int(x.shape[-1]) // pooling.times(config.data.statistics)
            for m, x in corpus.features.items()
        },
        "align": config.data.align,
        "length": config.data.length,
        "statistics": config.data.statistics,
        "runs": [
            {
                "fold": fold.number,
                "seed": seed,
                "epoch": int(epoch),
                "val_uar": None if np.isnan(uar) else float(uar),
            }
            for (fold, seed), epoch, uar in zip(run_ids, best.epoch, best.val_uar, strict=True)
        ],
        "encoders": provenance.encoders(corpus.provenance, corpus.modalities),
    }
    if upper:
        facts["upper"] = dict(upper)
    each = [flax.traverse_util.flatten_dict(tree_of(p), sep="/") for p in best.params]
    # Any, because a keyword of `savez` may also be one of its options.
    arrays: dict[str, Any] = {
        name: np.stack([np.asarray(run[name]) for run in each]) for name in each[0]
    }
    for m in corpus.modalities:
        arrays |= {f"mean/{m}": statistics.mean[m], f"scale/{m}": statistics.scale[m]}
        if statistics.quantiles:
            arrays[f"quantiles/{m}"] = statistics.quantiles[m]
    weights = io.BytesIO()
    np.savez(weights, **arrays)
    contents = {
        "weights.npz": weights.getvalue(),
        "config.json": config.to_json_best_effort(indent=2).encode() + b"\n",
        "model.json": json.dumps(facts, indent=2).encode() + b"\n",
    }
    with draft(folder) as unfinished:
        os.makedirs(unfinished)
        for name, content in contents.items():
            write_whole(os.path.join(unfinished, name), content)
        shutil.rmtree(folder, ignore_errors=True)


def read(path: str) -> Model:
    """Reads a model folder, or the one in a work directory of train.py.

    Raises:
      UserError: there is none, or its files are damaged or contradict each other.
    """
    folder = _folder(path)
    facts = _read_json(os.path.join(folder, "model.json"))
    known = FORMAT_VERSION, WITH_ENCODERS
    if (version := facts.get("format_version")) not in known:
        raise UserError(
            f"{folder}/model.json: format_version is {version!r}, this library reads "
            f"{' and '.join(map(str, known))}; train again or change the library's version"
        )
    fields = _FIELDS | ({"upper": dict} if version == WITH_ENCODERS else {})
    for field, kind in fields.items():
        if not isinstance(facts.get(field), kind):
            raise UserError(
                f"{folder}/model.json: field {field!r} is {facts.get(field)!r}, wanted a "
                f"{kind.__name__}; copy the folder again"
            )
    config = _read_json(os.path.join(folder, "config.json")).get("model")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json: has no part 'model'; copy the folder again")
    arrays = _read_weights(os.path.join(folder, "weights.npz"), len(facts["runs"]))
    statistics: dict[str, dict[str, np.ndarray]] = {"mean": {}, "scale": {}}
    for kind, of_modality in statistics.items():
        for m in facts["modalities"]:
            array = arrays.pop(f"{kind}/{m}", None)
            width = facts["dims"].get(m, 0) * pooling.times(facts["statistics"])
            width = facts.get("upper", {}).get(m, {}).get("dim", width)
            wanted = (len(facts["runs"]), width)
            if array is None or array.shape != wanted:
                raise UserError(
                    f"{folder}/weights.npz: {kind}/{m} is "
                    f"{'missing' if array is None else array.shape}, wanted {wanted}; "
                    "copy the folder again"
                )
            of_modality[m] = array
    known = {m: f"quantiles/{m}" for m in facts["modalities"] if f"quantiles/{m}" in arrays}
    quantiles = {m: arrays.pop(name) for m, name in known.items()}
    params = flax.traverse_util.unflatten_dict(arrays, sep="/")
    return Model(folder, facts, FrozenConfigDict(config), params, quantiles=quantiles, **statistics)


def _folder(path: str) -> str:
    for folder in (path, os.path.join(path, "model")):
        if os.path.exists(os.path.join(folder, "model.json")):
            return folder
    if not os.path.isdir(path):
        raise UserError(f"--workdir={path}: no such folder; wanted one that train.py made")
    status = os.path.join(path, "status.json")
    if not os.path.exists(status):
        raise UserError(
            f"--workdir={path}: neither a model (no model.json) nor a sweep of train.py; wanted "
            "a finished sweep's folder, or its folder 'model', copied whole"
        )
    status = _read_json(status)
    if "sweeps" in status:
        names = [n for n in sorted(os.listdir(path)) if os.path.isdir(f"{path}/{n}/model")]
        example = os.path.join(path, names[0] if names else "MEMBER")
        raise UserError(
            f"--workdir={path}: holds several sweeps ({', '.join(names) or 'none finished'}); "
            f"name one, such as --workdir={example}"
        )
    if "trials" in status:
        raise UserError(
            f"--workdir={path}: holds results of the trials that each fold chose, and no model; "
            f"name one of the trials, the folders beside it, which {files.TUNING} lists"
        )
    if not status.get("complete"):
        raise UserError(
            f"--workdir={path}: the sweep is not complete, so there is no model yet; run train.py "
            "with the same flags to resume"
        )
    raise UserError(
        f"{path}/model: missing; this sweep was trained by a version that did not export models, "
        "or the folder was left behind; train again with a new --workdir"
    )


def _read_json(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as f:
            content = json.load(f)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the folder again, whole") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{file}: damaged, not JSON ({e}); copy the folder again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found a {type(content).__name__}, wanted an object")
    return content


def _read_weights(file: str, num_runs: int) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the folder again, whole") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as e:
        raise UserError(f"{file}: damaged ({e}); copy the folder again") from None
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape[:1] != (num_runs,):
            raise UserError(
                f"{file}: {name} is {array.dtype} {array.shape}, wanted float32 of {num_runs} "
                "runs, as model.json has; copy the folder again"
            )
    return arrays
