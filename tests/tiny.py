"""A small model and a small sweep that the tests share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.data import protocol
from cmarr_jax.experiment import prepare
from cmarr_jax.training import loop
from cmarr_jax.training.experiment import Experiment, Sweep
from cmarr_jax.training.runs import RunId, Settings, make_runs
from cmarr_jax.workdir import model_folder
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


def experiment(corpus, *configs, run_ids=None, folds=(1, 2, 3), teachers=None, **fold_fields):
    """An `Experiment` of sweeps that are alike, on some folds; one seed unless `run_ids` say so."""
    if run_ids is None:
        every = protocol.make_folds(corpus.columns, corpus.labels, **fold_fields)
        run_ids = [RunId(fold, 0) for fold in every if fold.number in folds]
    conditions = protocol.make_conditions(corpus.modalities)

    make_system = prepare.system_maker(configs[0], corpus)
    identity = {"corpus": corpus.name, "variant": "default", "protocol": "tests"}
    return Experiment(
        sweeps=[
            Sweep(
                each,
                identity | {"system": each.system},
                run_ids,
                Settings.of(each, prepare.system_maker(each, corpus)(None).stages),
            )
            for each in configs
        ],
        corpus=corpus,
        conditions=conditions,
        masking=prepare.make_masking(configs[0].masking, conditions, corpus.modalities),
        make_system=make_system,
        teachers=teachers or NoTeachers(),
        digest=corpus.digest,
    )


def export_model(folder, corpus, config, folds):
    """A model folder with random parameters; each fold is trained on the whole corpus.

    Returns:
      Parameters `[R, P]`, `train_step.Run` of the runs, the system and its vector.
    """
    everything = np.arange(len(corpus.labels))
    run_ids = [
        RunId(protocol.Fold(k + 1, "", everything, everything, everything), 0) for k in range(folds)
    ]
    made = experiment(corpus, config, run_ids=run_ids)
    vector = made.vectors[-1]
    rng = np.random.default_rng(0)
    params = rng.normal(scale=0.3, size=(folds, vector.size)).astype(np.float32)
    config = config.copy_and_resolve_references()
    config.train.balance_classes = False
    runs = make_runs(made.seen, run_ids, config, "train")
    # Folds that all train on the same would have the same statistics.
    factors = 1 + np.arange(folds, dtype=np.float32)[:, None] / 4
    mean = {m: x * factors for m, x in runs.statistics.mean.items()}
    runs = runs._replace(statistics=runs.statistics._replace(mean=mean))
    model_folder.write(
        folder,
        identity=made.sweeps[0].identity,
        corpus=corpus,
        config=config,
        run_ids=run_ids,
        best=loop.Best(params, np.ones(folds, np.int32), np.zeros(folds)),
        statistics=runs.statistics,
        tree_of=vector.unravel,
        upper={e.modality: e.facts for e in made.stages[-1].encoders},
    )
    return params, runs, made.make_system(None), vector


class Memory:
    """Stands in for `Checkpoints`: keeps what was saved, in memory."""

    def __init__(self):
        self.saved = {}

    def resume(self, stage, like):
        return None

    def save(self, stage, kind, epoch, state, stopped=()):
        self.saved[f"{stage}_{kind}".lstrip("_")] = state


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
    configs = [config(argument, **fields, **own) for own in together]
    every = protocol.make_folds(corpus.columns, corpus.labels, scheme=scheme, validation=validation)
    run_ids = [RunId(f, s) for s in seeds for f in every if f.number in folds]
    made = experiment(corpus, *configs, run_ids=run_ids, teachers=teachers)
    best, scorer, ends = loop.train(made, checkpoints, report, leave)
    assert stopped is not None or not any(ends)
    if stopped is not None:
        stopped += ends
    test = [fold.test for fold, _ in made.run_ids]
    return made.run_ids, best, scorer.score_best(best.params, test, made.conditions)
