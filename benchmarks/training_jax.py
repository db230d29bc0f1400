"""training_speed.py's engine for this library: what train.py runs, on random utterances."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable

import numpy as np

sys.modules["tensorflow"] = None  # what follows would import it, wherever it is installed

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from benchmarks.training_inputs import (
    DIMS,
    NUM_CLASSES,
    NUM_UTTERANCES,
    PRODUCT,
    Clock,
    make_check,
    make_evaluated,
    make_features,
    make_order,
)
from cmarr_jax import cli, evaluation, sweep, train_step, training
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch
from configs import common


def answers(args: argparse.Namespace) -> dict[str, Callable[[str], float]]:
    """See `engines.serve`."""
    if args.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    cli.enable_compilation_cache()
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        algorithm = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}
        jax.config.update("jax_default_matmul_precision", algorithm[args.precision])
    described = {
        "machine": _machine(),
        "device": device.device_kind,
        "gpu": device.platform == "gpu",
        "jax": jax.__version__,
    }
    with open(os.path.join(args.folder, "ours.json"), "w", encoding="utf-8") as f:
        json.dump(described, f)

    config = common.get_config()
    c, clock, runners = config.train, Clock(), {}
    make_system = SYSTEMS["cmarr"]
    (stage,) = make_system(FrozenConfigDict(config.model), tuple(DIMS), NUM_CLASSES, None).stages
    data = make_features(NUM_UTTERANCES, args.length)
    everything = np.arange(NUM_UTTERANCES, dtype=np.int32)
    corpus = pipeline.Corpus("random", tuple("abcd"), {}, provenance={}, **data)
    arrays = train_step.Arrays(corpus.features, corpus.mask, corpus.present, corpus.labels)
    run_ids = [training.RunId(protocol.Fold(1, "none", everything, everything, everything), 0)]
    conditions = protocol.make_conditions(tuple(DIMS))
    patterns = protocol.make_patterns(conditions, config.masking.patterns)
    probabilities = np.full(len(patterns), 1 / len(patterns), np.float32)
    masking = train_step.Masking(patterns, probabilities, config.masking.per_sample)
    vector = train_step.Vector.of(
        jax.eval_shape(stage.init, jax.random.key(0), _example(data), None)
    )
    layout = sweep.make_layout(1, (1,), config.layout)
    runs = training.make_runs(
        corpus, run_ids, batch_size=c.batch_size, epochs=c.epochs, normalise=True,
        balance_classes=c.balance_classes,
    )  # fmt: skip
    params = training.init_params(stage, vector, runs, arrays, None, None)
    arrays, dealt = layout.share(arrays), layout.deal(runs)

    def train(batch_size):
        optimizer = train_step.make_optimizer(
            vector, clip_norm=c.clip_norm, weight_decay=c.weight_decay, beta1=c.beta1
        )

        def rate(step, total_steps):
            return train_step.learning_rate(
                step, total_steps, peak=c.learning_rate, warmup=c.warmup, schedule=c.schedule
            )

        opt_state = jax.vmap(optimizer.init)(params)
        state = train_step.TrainState(params, params, opt_state, np.zeros(1, np.int32))
        state = layout.deal(state)
        rows = layout.deal_rows(make_order(args, batch_size)[None])
        epoch = layout.compile(
            train_step.make_train_epoch(stage, vector, optimizer, rate, masking, c.averaging),
            donate=(0,),
        )

        def run():
            nonlocal state
            state, terms = epoch(state, dealt, rows, arrays)
            layout.collect(terms)

        return run

    def evaluate(chosen):
        rows = make_evaluated(args)
        scorer = evaluation.Scorer(stage, vector, layout, dealt, arrays, corpus, rows.shape[1])
        on_device = layout.deal(np.asarray(params))
        return lambda: scorer.score(on_device, [rows.reshape(-1)], chosen)

    def runner(case):
        kind, _, number = case.partition(" ")
        if case not in runners and kind == "product":
            a, product = jnp.ones((PRODUCT, PRODUCT)), jax.jit(jnp.matmul)
            runners[case] = lambda: jax.block_until_ready(product(a, a))
        elif case not in runners and kind == "train":
            runners[case] = train(int(number))
        elif case not in runners:
            runners[case] = evaluate(conditions if number == "7" else conditions[-1:])
        return runners[case]

    def gflop(case):
        """Of one run of a case, of its matrix products alone, as PyTorch's eager model has them."""
        kind, _, number = case.partition(" ")
        if kind == "product":
            return 2e-9 * PRODUCT**3
        batch = _example(data)
        tree = jax.eval_shape(vector.unravel, params[0])
        if kind == "train":
            key = jax.random.key(0)
            step = jax.make_jaxpr(jax.grad(stage.loss, has_aux=True))(
                tree, batch, batch.present, key
            )
            return _products(step.jaxpr) / len(batch.labels) * make_order(args, int(number)).size
        encoded = jax.eval_shape(stage.encode, tree, batch)
        parts = (
            jax.make_jaxpr(stage.encode)(tree, batch),
            jax.make_jaxpr(stage.predict)(tree, encoded, batch.mask, batch.present),
        )
        encode, decode = (_products(p.jaxpr) / len(batch.labels) for p in parts)
        return make_evaluated(args).size * (encode + int(number) * decode)

    def check(name):
        model = config.model.copy_and_resolve_references()
        model.umc.dropout = model.fusion.dropout = model.classifier.dropout = 0.0
        (still,) = make_system(FrozenConfigDict(model), tuple(DIMS), NUM_CLASSES, None).stages
        fields = make_check(name)
        available = fields.pop("available")
        batch = Batch(**jax.tree.map(jnp.asarray, fields))
        noise = 0.02 * np.random.default_rng(2).standard_normal(params.shape[1], np.float32)
        tree = vector.unravel(params[0] + noise)
        key = jax.random.key(0)
        (total, terms), gradient = jax.jit(jax.value_and_grad(still.loss, has_aux=True))(
            tree, batch, available, key
        )
        predict = jax.jit(
            lambda p: still.predict(p, still.encode(p, batch), batch.mask, available).logits
        )
        norm = np.linalg.norm(np.asarray(vector.ravel(gradient), np.float64))
        outputs = {"logits": predict(tree), **terms, "loss": total, "gradient norm": norm}
        for file, content in (
            ("ours", outputs),
            ("params", _named(tree)),
            ("gradient", _named(gradient)),
        ):
            np.savez(os.path.join(args.folder, f"{file}.npz"), **content)
        return 0.0

    return {
        "gpu": lambda _: float(device.platform == "gpu"),
        "cpu": clock.cpu,
        "gflop": gflop,
        "run": lambda case: clock.time(runner(case)),
        "check": check,
    }


def _example(data: dict) -> Batch:
    """Two utterances as a system sees them."""
    two = {name: jnp.asarray(data[name][:2]) for name in ("mask", "present", "labels")}
    features = {m: jnp.asarray(values[:2]) for m, values in data["features"].items()}
    return Batch(features, weights=jnp.ones(2), **two)


def _named(tree: dict) -> dict:
    """ "umc/Dense_0/kernel" -> array."""
    leaves = jax.tree_util.tree_flatten_with_path(tree["params"])[0]
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


def _products(jaxpr) -> float:
    """GFLOP of the matrix products of a jaxpr, those in its loops as often as they run."""
    count = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = np.prod([shape[axis] for axis in contracted])
            count += 2e-9 * float(depth * np.prod(equation.outvars[0].aval.shape))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                count += equation.params.get("length", 1) * _products(inner)
    return count


def _machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.machine()
