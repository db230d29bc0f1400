"""finetuning.py's engine for this library."""

import argparse
import resource
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.finetuning_inputs import (
    CONFIG,
    NUM_CLASSES,
    checked,
    make_lengths,
    make_states,
    order_file,
    shape_of,
    warming,
)
from benchmarks.training_inputs import PRODUCT, Clock
from benchmarks.training_jax import prepare, products, save_check
from benchmarks.training_sweep import CompiledSweep
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.experiment import encoders as opened
from cmarr_jax.extract.upper import upper_module
from cmarr_jax.systems.precision import BF16, Precision
from cmarr_jax.systems.system import Batch, Encoder, objective
from cmarr_jax.training import encoders
from cmarr_jax.training.normalise import Statistics
from cmarr_jax.training.runs import RunId, epoch_order
from configs import common


def answers(args: argparse.Namespace) -> dict[str, Callable[[str], float]]:
    """See `engines.serve`."""
    device, precision = prepare(args)
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    (from_layer,) = args.from_layer
    encoder = random_encoder(args, from_layer, precision)
    lengths = make_lengths(shape_of(args), args.utterances)
    states, labels = make_states(shape_of(args), lengths)
    corpus = padded(encoder.modality, states, labels)
    config = make_config(args)
    made = CompiledSweep(config, corpus, 1, precision, (encoder,))
    clock, order = Clock(), make_order(args, lengths)
    np.save(order_file(args.folder), order)
    run, warm = (
        (None, None) if args.check else _runners(made, order, warming(lengths, *order.shape))
    )

    a = jnp.ones((PRODUCT, PRODUCT), precision.dtype)
    with precision.multiplying():
        multiply = jax.jit(jnp.matmul).lower(a, a).compile()

    def compiling(_):
        """Seconds that a first call takes longer than a second one."""
        first = clock.time(warm)
        return first - clock.time(warm)

    def gflop(what):
        if what == "product":
            return 2e-9 * PRODUCT**3
        return float(np.sum(needed(encoder)(lengths[order.reshape(-1)])))

    def memory(_):
        if device.platform == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return device.memory_stats()["peak_bytes_in_use"]

    def check(_):
        (stage,) = (made.stage,)
        noise = 0.02 * np.random.default_rng(2).standard_normal(made.vector.size, np.float32)
        tree = made.vector.unravel(jnp.asarray(np.asarray(made.params[0]) + noise))
        rows = checked(lengths)
        batch, own = batch_of(corpus, rows)
        still = _no_statistics(encoder)

        def loss(params):
            shown = encoders.see(stage, params, batch, own, still)
            total, _ = objective(stage)(params, shown, batch.present, jax.random.key(0))
            logits = stage.predict(
                params, stage.encode(params, shown), batch.mask, batch.present
            ).logits
            return total, {"features": shown.features[encoder.modality][:, 0], "logits": logits}

        with precision.multiplying():
            (total, outputs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(tree)
        norm = np.linalg.norm(np.asarray(made.vector.ravel(gradient), np.float64))
        outputs |= {"loss": total, "gradient norm": norm}
        save_check(args.folder, outputs, tree, gradient)
        return 0.0

    return {
        "gpu": lambda _: float(device.platform == "gpu"),
        "cpu": clock.cpu,
        "parameters": lambda _: float(made.vector.size),
        "gflop": gflop,
        "product": lambda _: clock.time(lambda: jax.block_until_ready(multiply(a, a))),
        "warm": compiling,
        "run": lambda _: clock.time(run),
        "memory": memory,
        "check": check,
    }


def random_encoder(args: argparse.Namespace, start: int, precision: Precision) -> Encoder:
    """The layers above state `start` of --shape, trained as the variant finetune trains them."""
    shape = shape_of(args)
    dtype = "bfloat16" if precision is BF16 else "float32"
    module = upper_module(shape.kind, shape.config, dtype=dtype)
    x, mask = jnp.zeros((1, 2, module.features)), jnp.ones((1, 2), bool)
    init = jax.jit(lambda key: module.init(key, x, mask, start=start)["params"])
    params = jax.tree.map(np.asarray, init(jax.random.key(start)))
    facts = {
        "kind": shape.kind,
        "config": shape.config,
        "start": start,
        "dim": module.features,
        "positions": shape.lengths.most,
    }
    own = common.get_config().encoders[shape.modality]
    return opened.from_facts(shape.modality, facts, dtype)._replace(
        params=params,
        depths=jax.tree.map(lambda _: 0, params),
        learning_rate=own.learning_rate,
        weight_decay=own.weight_decay,
        warmup=own.warmup,
    )


def make_config(args: argparse.Namespace):
    """The augmented baseline, at one position; with --check without dropout."""
    config = common.with_variants(common.get_config(), "augmented,finetune")
    config.update_from_flattened_dict(CONFIG | {"train.batch_size": args.batch})
    if args.check:
        config.update_from_flattened_dict({"model.classifier.dropout": 0.0})
    return config


def padded(modality: str, states: list[np.ndarray], labels: np.ndarray) -> pipeline.Corpus:
    """The utterances as the pipeline gives them, each at its own length."""
    rows = np.array([len(x) for x in states], np.int32)
    values = np.zeros((len(states), max(rows), states[0].shape[1]), states[0].dtype)
    for k, x in enumerate(states):
        values[k, : len(x)] = x
    there = np.ones((len(states), 1), bool)
    classes = tuple("abcd"[:NUM_CLASSES])
    return pipeline.Corpus(
        "random", classes, {}, labels, {modality: values}, there, there, {}, rows={modality: rows}
    )


def make_order(args: argparse.Namespace, lengths: np.ndarray) -> np.ndarray:
    """Rows of a round, `[S, B]`: an epoch of all utterances but the longest."""
    train = np.arange(args.utterances)
    fold = protocol.Fold(1, "none", train, train, train)
    return epoch_order([RunId(fold, 0)], 1, args.batch, rows=lengths)[0]


def batch_of(corpus: pipeline.Corpus, rows: np.ndarray) -> tuple[Batch, dict[str, jax.Array]]:
    """Some utterances and their lengths, as `encoders.see` takes them."""
    features = {m: jnp.asarray(x[rows]) for m, x in corpus.features.items()}
    there = jnp.ones((len(rows), 1), bool)
    batch = Batch(features, there, there, jnp.asarray(corpus.labels[rows]), jnp.ones(len(rows)))
    return batch, {m: jnp.asarray(x[rows]) for m, x in corpus.rows.items()}


def needed(encoder: Encoder) -> Callable[[np.ndarray], np.ndarray]:
    """Lengths -> GFLOP of the layers' products to train on an utterance of that length alone.

    They are a polynomial of the second degree in the length, and counted at three.
    """

    def count(length):
        x, mask = np.zeros((1, length, encoder.dim), np.float32), np.ones((1, length), bool)

        def total(params):
            return encoder.encode(params, x, mask, jax.random.key(0)).sum()

        return products(jax.make_jaxpr(jax.grad(total))(encoder.params).jaxpr)

    at = np.array([8, 64, 256])
    return lambda lengths: np.polyval(np.polyfit(at, [count(int(n)) for n in at], 2), lengths)


def _no_statistics(encoder: Encoder) -> Statistics[jax.Array]:
    mean, scale = jnp.zeros(encoder.dim), jnp.ones(encoder.dim)
    return Statistics({encoder.modality: mean}, {encoder.modality: scale}, {})


def _runners(made: CompiledSweep, order: np.ndarray, first: np.ndarray) -> list[Callable]:
    """The same compiled epoch for the rows of `order` and of `first`, both `[S, B]`."""
    epoch, (state, runs, rows, arrays) = made.epoch(order)

    def runner(rows):
        def run():
            nonlocal state
            state, terms = epoch(state, runs, rows, arrays)
            terms = made.layout.collect(terms)
            if not all(np.isfinite(x).all() for x in terms.values()):
                raise FloatingPointError("a step was not taken")

        return run

    return [runner(rows), runner(made.layout.deal_rows(first[None]))]
