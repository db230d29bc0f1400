"""A small model and a small sweep that the tests share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.data import protocol
from cmarr_jax.experiment import prepare as experiment
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.training import loop as training
from cmarr_jax.training.runs import RunId, Settings, make_runs
from cmarr_jax.workdir import model_folder as export
from configs import common

MODALITIES = ("text", "speech", "video")


def config(argument: str | None = None, **fields: Any) -> ConfigDict:
    """The shared config under `argument`, made small; `fields` as "model.width": 32."""
    c = common.with_variants(common.get_config(), argument)
    small = {
        "data.length": 4,
        "data.loader": "numpy",
        "checkpoint_seconds": 0.0,
        "train.epochs": 3,
        "train.batch_size": 8,
        "train.eval_batch_size": 16,
        "train.learning_rate": 3e-3,
        "model.width": 16,
        "model.umc.num_heads": 2,
        "model.umc.mlp_ratio": 2,
        "model.flow.num_couplings": 2,
        "model.flow.hidden": 16,
        "model.rec.num_blocks": 1,
        "model.fusion.num_heads": 2,
        "model.classifier.hidden": 16,
        "model.heads.width": 32,
    }
    small |= {f"pre{k}": v for k, v in small.items() if k.startswith("train.")}
    known = {field for field, _ in leaves(c.to_dict())}
    c.update_from_flattened_dict({k: v for k, v in small.items() if k in known} | fields)
    return c


def model_config(**fields: Any) -> FrozenConfigDict:
    return FrozenConfigDict(config(**{f"model.{k}": v for k, v in fields.items()}).model)


def random_params(stage, batch, before=None):
    """Parameters away from any start, without compiling `init`: about unit-variance layers."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape)
        if "kernel" in name:
            return jnp.float32(noise / np.sqrt(leaf.shape[-2]))
        return jnp.float32((1.0 if name == "scale" else 0.0) + 0.05 * noise)

    shapes = jax.eval_shape(stage.init, jax.random.key(0), batch, before)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def export_model(folder, corpus, config, folds):
    """A model folder with random parameters; each fold is trained on the whole corpus.

    Returns:
      Parameters `[R, P]`, `train_step.Run` of the runs, the system and its vector.
    """
    everything = np.arange(len(corpus.labels))
    run_ids = [
        RunId(protocol.Fold(k + 1, "", everything, everything, everything), 0) for k in range(folds)
    ]
    system = SYSTEMS[config.system](
        FrozenConfigDict(config.model), corpus.modalities, len(corpus.class_names)
    )
    vector = training.make_vectors(system, corpus)[-1]
    rng = np.random.default_rng(0)
    params = rng.normal(scale=0.3, size=(folds, vector.size)).astype(np.float32)
    runs = make_runs(
        corpus, run_ids, batch_size=2, epochs=1, normalise=config.data.normalise,
        balance_classes=False,
    )  # fmt: skip
    # Folds that all train on the same would have the same statistics.
    factors = 1 + np.arange(folds, dtype=np.float32)[:, None] / 4
    runs = runs._replace(mean={m: x * factors for m, x in runs.mean.items()})
    export.write(
        folder,
        identity={
            "corpus": corpus.name, "system": config.system, "variant": "default", "protocol": "tests",
        },
        corpus=corpus,
        config=config,
        run_ids=run_ids,
        best=training.Best(params, np.ones(folds, np.int32), np.zeros(folds)),
        runs=runs,
        unravel=vector.unravel,
    )  # fmt: skip
    return params, runs, system, vector


class Memory:
    """Stands in for `Checkpoints`: keeps what was saved, in memory."""

    def __init__(self):
        self.saved = {}

    def resume(self, prefix, like):
        return None

    def save(self, kind, epoch, state, stopped=()):
        self.saved[kind] = state


class NoTeachers:
    """Stands in for `Teachers`: keeps them in memory, by stage and run."""

    def __init__(self):
        self.saved = {}

    def file(self, config, stage, run_id):
        return stage.name, run_id.fold.number, run_id.seed

    def has(self, file):
        return file in self.saved

    def load(self, file, size):
        return self.saved[file]

    def save(self, file, params):
        self.saved[file] = params


def train(
    corpus,
    checkpoints,
    *,
    folds=(1, 2, 3),
    seeds=(0,),
    scheme="session",
    validation="random",
    report=lambda epoch: None,
    teachers=None,
    argument=None,
    stopped=None,
    leave=lambda: False,
    together=({},),
    **fields,
):
    """Trains a small sweep; returns its run ids, best models and their test scores.

    Appends to the list `stopped` where each run was stopped, if it was; else none may be. Of
    several sweeps to be trained as one, `together` has the fields that differ.
    """
    c, *others = (config(argument, **fields, **own) for own in together)
    conditions = protocol.make_conditions(corpus.modalities)
    every = protocol.make_folds(corpus.columns, corpus.labels, scheme=scheme, validation=validation)
    run_ids = [RunId(f, s) for s in seeds for f in every if f.number in folds]

    def make_system(axis, c=c):
        model = FrozenConfigDict(c.model)
        return SYSTEMS[c.system](model, corpus.modalities, len(corpus.class_names), axis)

    settings = [
        Settings.of(each, make_system(None, each).stages) for each in (c, *others) for _ in run_ids
    ]
    run_ids = run_ids * len(together)
    best, scorer, ends = training.train(
        make_system=make_system,
        vectors=training.make_vectors(make_system(None), corpus),
        corpus=corpus,
        run_ids=run_ids,
        conditions=conditions,
        masking=experiment.make_masking(c.masking, conditions),
        config=c,
        checkpoints=checkpoints,
        teachers=teachers or NoTeachers(),
        report=report,
        leave=leave,
        settings=settings,
    )
    assert stopped is not None or not any(ends)
    if stopped is not None:
        stopped += ends
    scored = scorer.score_best(best.params, [fold.test for fold, _ in run_ids], conditions)
    return run_ids, best, scored
