"""A results folder as train.py leaves it, made without training."""

import json
import os
from types import MappingProxyType, SimpleNamespace

import numpy as np

from cmarr_jax.data import missing, protocol
from cmarr_jax.results.arrays import write_representations
from cmarr_jax.results.history import History
from cmarr_jax.results.rows import join, write_results
from cmarr_jax.runtime.files import write_json
from cmarr_jax.training.evaluation import Scored, Validated
from cmarr_jax.training.loop import Epoch
from cmarr_jax.training.runs import RunId
from tests.tiny import MODALITIES

NASTY = '<script>alert(1)</script> & "quotes" $x$ \'id="a"\''


def run_ids_of(folds: int, seeds: int, num: int) -> list[RunId]:
    parts = np.array_split(np.arange(num), folds)
    empty = np.zeros(0, int)
    every = [protocol.Fold(f + 1, f"session {f + 1}", empty, empty, p) for f, p in enumerate(parts)]
    return [RunId(fold, seed) for seed in range(seeds) for fold in every]


def epoch(number, run_ids, rng, stage="", terms=("loss", "cls"), validated=True) -> Epoch:
    runs = len(run_ids)
    made = {t: rng.uniform(1, 2, runs) * (1e6 if number == 2 else 1) for t in terms}
    uar = rng.uniform(0.3, 0.7, runs) if validated else np.full(runs, np.nan)
    best = np.full(runs, number)
    validated = Validated(uar, 2 - uar)
    return Epoch(stage, number, 3, made, validated, uar, best, 1.0, np.ones(runs, bool), [])


def write(
    workdir,
    *,
    folds=3,
    seeds=2,
    num=48,
    system="cmarr",
    variant="default",
    curves=(),
    further=MappingProxyType({}),
    nasty=False,
    modalities=MODALITIES,
    validated=True,
    draw=0,
):
    """Writes a whole folder of made-up posteriors, better than chance; returns its path."""
    rng = np.random.default_rng(len(system) + 1000 * draw)
    workdir = str(workdir)
    os.makedirs(workdir, exist_ok=True)
    run_ids = run_ids_of(folds, seeds, num)
    labels = np.arange(num) % 4
    ids = [f"u{i:03d}" for i in range(num)]
    classes = ("ang", "hap", "neu", "sad")
    name = "tiny"
    if nasty:
        ids = [f"{NASTY} {i}" for i in range(num)]
        classes = ("ang", NASTY, "neu", "sad")
        name = NASTY
    columns = {"id": np.array(ids), "speaker": np.array([f"speaker {i // 12}" for i in range(num)])}
    columns["group"] = np.array([f"dialogue {i // 4}" for i in range(num)])
    corpus = SimpleNamespace(
        labels=labels, class_names=classes, columns=columns, modalities=modalities
    )
    conditions = protocol.make_conditions(modalities)
    there, mask = np.ones((num, len(modalities)), bool), np.ones((num, 1), bool)
    extra = missing.make_curves(there, mask, missing_rates=curves, **further)
    available = np.array([c.available for c in conditions])
    scored = []
    for fold, _ in run_ids:
        n = len(fold.test)
        shape = (len(conditions) + len(extra), n)
        logits = rng.normal(size=(*shape, 4)) + 1.5 * (labels[fold.test, None] == np.arange(4))
        posteriors = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        recovery = np.zeros((*shape, len(modalities), 2))
        recovery[: len(conditions)][~available[:, None].repeat(n, 1)] = (0.3, 1.0)
        recovery[..., 0] *= rng.uniform(0.5, 1.5, recovery.shape[:-1])
        predictable = np.ones(shape, bool)
        predictable[1:2, ::5] = False
        scored.append(Scored(fold.test, posteriors, recovery, predictable))
    identity = {
        "corpus": name,
        "system": system,
        "variant": variant,
        "protocol": f"{folds} folds by session" if folds > 1 else "official split",
    }
    write_results(
        workdir, identity=identity, corpus=corpus, conditions=conditions, curves=extra,
        run_ids=run_ids, scored=scored,
    )  # fmt: skip
    history = History(workdir, run_ids, "train")
    history.write(epoch(1, run_ids, rng, "teacher", ("loss", "imagined")))
    for number in (1, 2, 3):
        history.write(epoch(number, run_ids, rng, validated=validated))
    pair = rng.normal(size=(2, len(modalities), 24, 8))
    write_representations(workdir, modalities, pair)
    status = {
        "complete": True, "epochs_done": 3, "epochs": 3, "device": "1 x cpu", "jax": "0",
        "versions": {"jax": "0"}, "seconds": 61.0,
    }  # fmt: skip
    write_json(os.path.join(workdir, "status.json"), status)
    protocol_part = {"select_on_test": False, "validation": "random" if validated else "none"}
    config = {"system": system, "fold": 0, "protocol": protocol_part}
    write_json(os.path.join(workdir, "config.json"), config)
    part = {"utterances": 9, "speakers": 2, "classes": dict.fromkeys(classes, 3)}
    fold = {
        "held_out": NASTY,
        "parts": dict.fromkeys(("train", "val", "test"), part),
        "near": {m: {"pairs": 0, "examples": []} for m in modalities},
        "text": {},
        "baseline": {"war": 0.25, "uar": 0.25},
    }
    of_folds = [{"fold": number + 1} | fold for number in range(folds)]
    audit = {"failures": [], "warnings": [NASTY], "folds": of_folds}
    write_json(os.path.join(workdir, "audit.json"), audit)
    return workdir


def write_table(workdir, members=("mmin", "cmarr"), **fields):
    """A table's folder with its members below it."""
    folders = [write(os.path.join(str(workdir), m), system=m, **fields) for m in members]
    content = {"members": [[m, m] for m in members]}
    with open(os.path.join(str(workdir), "config.json"), "w") as f:
        json.dump(content, f)
    join(str(workdir), folders, missing=0)
    return str(workdir)
