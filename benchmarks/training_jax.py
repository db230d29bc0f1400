"""training_speed.py's engine for this library, see `training_sweep`."""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from benchmarks import command
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
from benchmarks.training_sweep import CompiledSweep, corpus_of
from cmarr_jax.data import protocol
from cmarr_jax.runtime.devices import prepare_to_compile
from cmarr_jax.systems import cmarr
from cmarr_jax.systems.precision import FLOAT32, PRECISIONS, Precision
from cmarr_jax.systems.system import Batch, objective
from configs import common


def prepare(args: argparse.Namespace) -> tuple[jax.Device, Precision]:
    """Where and in what to compute; both are described in ours.json of --folder."""
    if args.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    prepare_to_compile()
    device = jax.local_devices()[0]
    described = {
        "machine": command.processor(),
        "device": device.device_kind,
        "gpu": device.platform == "gpu",
        "jax": jax.__version__,
    }
    with open(os.path.join(args.folder, "ours.json"), "w", encoding="utf-8") as f:
        json.dump(described, f)
    return device, FLOAT32 if device.platform == "cpu" else PRECISIONS[args.precision]


def save_check(folder: str, outputs: Mapping, params: Any, gradient: Any) -> None:
    """What the other engine compares itself with, and the parameters that it copies."""
    contents = {"ours": outputs, "params": named(params), "gradient": named(gradient)}
    for file, content in contents.items():
        np.savez(os.path.join(folder, f"{file}.npz"), **content)


def answers(args: argparse.Namespace) -> dict[str, Callable[[str], float]]:
    """See `engines.serve`."""
    device, precision = prepare(args)
    config, clock, runners = common.get_config(), Clock(), {}
    data = make_features(NUM_UTTERANCES, args.length)
    made = CompiledSweep(config, corpus_of(data), 1, precision)
    stage, vector = made.stage, made.vector
    params = np.asarray(made.params)
    conditions = protocol.make_conditions(tuple(DIMS))

    def chosen(number):
        return conditions if number == "7" else conditions[-1:]

    def runner(case):
        kind, _, number = case.partition(" ")
        if case not in runners and kind == "product":
            a = jnp.ones((PRODUCT, PRODUCT), precision.dtype)
            with precision.multiplying():
                product = jax.jit(jnp.matmul).lower(a, a).compile()
            runners[case] = lambda: jax.block_until_ready(product(a, a))
        elif case not in runners and kind == "train":
            runners[case] = made.train(make_order(args, int(number)))
        elif case not in runners:
            runners[case] = made.evaluate(make_evaluated(args), chosen(number))
        return runners[case]

    def gflop(case):
        """Of one run of a case, of the matrix products that it needs."""
        kind, _, number = case.partition(" ")
        if kind == "product":
            return 2e-9 * PRODUCT**3
        batch = _example(data)

        def count(function, *inputs):
            return products(jax.make_jaxpr(function)(*inputs).jaxpr) / len(batch.labels)

        tree = jax.eval_shape(vector.unravel, params[0])
        network = cmarr.CMARR(FrozenConfigDict(config.model), tuple(DIMS), NUM_CLASSES)

        def apply(method):
            return lambda params, *inputs: network.apply(params, *inputs, method=method)

        encoded = jax.eval_shape(stage.encode, tree, batch)
        fuse = count(apply(lambda net, *inputs: net.fusion(*inputs)), tree, encoded.x, batch.mask)
        decide = count(apply("decide"), tree, encoded, batch.mask, batch.present)
        recover = decide - fuse  # all modalities; what is missing alone has to be
        encode = count(stage.encode, tree, batch)
        if kind == "train":
            step = jax.grad(objective(stage), has_aux=True)
            each = count(step, tree, batch, batch.present, jax.random.key(0))
            # The gradient of what is recovered takes twice what recovering takes.
            each -= 3 * recover * np.mean([c.available for c in conditions])
            return each * make_order(args, int(number)).size
        rows = make_evaluated(args).reshape(-1)
        available = [c.available & data["present"][rows] for c in chosen(number)]
        recover *= 1 - np.mean(available)
        return rows.size * (encode + len(available) * (fuse + recover))

    def check(name):
        model = config.model.copy_and_resolve_references()
        model.umc.dropout = model.fusion.dropout = model.classifier.dropout = 0.0
        (still,) = cmarr.make(FrozenConfigDict(model), tuple(DIMS), NUM_CLASSES).stages
        fields = jax.tree.map(jnp.asarray, make_check(name))
        available = fields.pop("available")
        batch = Batch(**fields)
        noise = 0.02 * np.random.default_rng(2).standard_normal(params.shape[1], np.float32)
        tree = vector.unravel(params[0] + noise)
        key = jax.random.key(0)
        (total, terms), gradient = jax.jit(jax.value_and_grad(objective(still), has_aux=True))(
            tree, batch, available, key
        )
        predict = jax.jit(
            lambda p: still.predict(p, still.encode(p, batch), batch.mask, available).logits
        )
        norm = np.linalg.norm(np.asarray(vector.ravel(gradient), np.float64))
        outputs = {"logits": predict(tree), **terms, "loss": total, "gradient norm": norm}
        save_check(args.folder, outputs, tree, gradient)
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


def named(tree: dict) -> dict:
    """ "umc/Dense_0/kernel" -> array."""
    leaves = jax.tree_util.tree_flatten_with_path(tree["params"])[0]
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


def products(jaxpr, dtype: str = "") -> float:
    """GFLOP of the matrix products of a jaxpr, those in its loops as often as they run.

    `dtype`: of those whose operands are of this type alone.
    """
    count = 0.0
    for equation in jaxpr.eqns:
        kinds = {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}
        if equation.primitive.name == "dot_general" and (not dtype or kinds == {dtype}):
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = np.prod([shape[axis] for axis in contracted])
            count += 2e-9 * float(depth * np.prod(equation.outvars[0].aval.shape))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                count += equation.params.get("length", 1) * products(inner, dtype)
    return count
