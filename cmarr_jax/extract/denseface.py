"""Weights of the face network: a file of arrays under the names of the TensorFlow 1 original.

    python -m cmarr_jax.extract.denseface CHECKPOINT WEIGHTS.npz --mean 131.0754 --std 47.858177

turns the checkpoint of the original (CHECKPOINT.index, CHECKPOINT.data-...) into such a file.
`mean` and `std` of the grey levels (0 to 255) that the network was trained with go into the file:
published scripts disagree on them. No weights can be shipped: the original was trained on FER+ and
was never published; bring your own, or pre-computed features (`--video-features`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.cli import boundary
from cmarr_jax.errors import UserError
from cmarr_jax.extract.models import densenet
from cmarr_jax.runtime.files import cannot_write, opened

_OF_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
SUFFIXES = (".npz", ".safetensors")  # of a file of weights
_LAYER = "composite_function/kernel"
_TRAINING_ONLY = ("/Momentum", "/Adam", "/Adam_1", "global_step", "beta1_power", "beta2_power")


class Weights(NamedTuple):
    """A face network, and how to normalise its input."""

    network: densenet.DenseNet  # of the depth, growth and classes that the arrays have
    variables: dict[str, Any]  # linen's {"params": ..., "batch_stats": ...}, float32
    mean: float  # of grey levels, 0 to 255
    std: float


def read(file: str) -> Weights:
    """Reads a .npz or .safetensors file, whose arrays must be exactly the network's.

    Raises:
      UserError: the file is missing, not of these formats, or does not fit the network.
    """
    return _fit(file, _arrays(file))


def _fit(file: str, arrays: dict[str, np.ndarray]) -> Weights:
    """Puts every array in its place; `file`: where they come from, for errors."""
    arrays = {name.removesuffix(":0"): array for name, array in arrays.items()}
    arrays = {n: a for n, a in arrays.items() if not n.endswith(_TRAINING_ONLY)}
    head = arrays.get("Transition_to_classes/W")
    layers = sum(n.startswith("Block_0/") and n.endswith(_LAYER) for n in arrays)
    blocks = sum(n.endswith(f"/layer_0/{_LAYER}") for n in arrays)
    last = arrays.get(f"Block_0/layer_0/{_LAYER}")
    if head is None or head.ndim != 2 or last is None or last.ndim != 4:
        raise UserError(
            f"{file}: wanted the arrays of a TensorFlow DenseNet under their own names, such as "
            "'Transition_to_classes/W'; see python -m cmarr_jax.extract.denseface --help"
        )
    network = densenet.DenseNet(layers, last.shape[3], blocks, head.shape[1])
    mean, std = (_grey_level(file, arrays, name) for name in ("mean", "std"))
    if not std > 0:
        raise UserError(f"{file}: 'std' is {std:g}, wanted more than 0")
    face = jnp.zeros((1, densenet.INPUT_SIZE, densenet.INPUT_SIZE, 1))
    wanted = flax.traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), face))
    found = {}
    for path, place in wanted.items():
        name = tf_name(path)
        if name not in arrays:
            raise UserError(f"{file}: lacks the array {name!r}, {place.shape}")
        array = arrays.pop(name)
        if array.shape != place.shape:
            raise UserError(f"{file}: {name!r} is {array.shape}, wanted {place.shape}")
        found[path] = np.asarray(array, np.float32)
    if arrays:
        raise UserError(f"{file}: {len(arrays)} arrays have no place, {min(arrays)!r} first")
    variables = flax.traverse_util.unflatten_dict(found)
    return Weights(network, variables, mean, std)


def tf_name(path: Sequence[str]) -> str:
    """The TensorFlow name of a leaf of `DenseNet`'s variables."""
    _, *module, leaf = path
    place = module[0]
    if place == "initial":
        return "Initial_convolution/kernel"
    if place == "classes":
        return f"Transition_to_classes/{'W' if leaf == 'kernel' else 'bias'}"
    if place == "norm":
        return f"Transition_to_classes/BatchNorm/{_OF_NORM[leaf]}"
    kind, number, *inner = place.split("_")
    if kind == "block":
        _, layer, part = inner
        part = "composite_function" if part == "composite" else part
        scope = f"Block_{number}/layer_{layer}/{part}"
    else:
        scope = f"Transition_after_block_{number}/composite_function"
    return f"{scope}/BatchNorm/{_OF_NORM[leaf]}" if module[1] == "norm" else f"{scope}/kernel"


def _arrays(file: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file; wanted weights as .npz or .safetensors")
    try:
        if file.endswith(".npz"):
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        if file.endswith(".safetensors"):
            import safetensors.numpy

            return safetensors.numpy.load_file(file)
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: needs safetensors; pip install -r requirements-extract.txt"
        ) from None
    except Exception as e:  # zipfile, NumPy and safetensors each have their own
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(f"{file}: damaged ({reason})") from None
    raise UserError(
        f"{file}: wanted .npz or .safetensors; for a TensorFlow checkpoint see "
        "python -m cmarr_jax.extract.denseface --help"
    )


def _grey_level(file: str, arrays: dict[str, np.ndarray], name: str) -> float:
    array = arrays.pop(name, None)
    if array is None or array.size != 1 or not np.isfinite(array).all():
        raise UserError(
            f"{file}: wanted one number {name!r}, of the grey levels (0 to 255) in training; "
            "published values are 131.0754 / 47.858177"
        )
    return float(array.reshape(()))


def _convert(checkpoint: str, out: str, mean: float, std: float) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        raise UserError(
            f"{checkpoint}: reading it needs TensorFlow; pip install tensorflow"
        ) from None
    if os.path.exists(out):
        raise UserError(f"{out}: exists already; name a new file or remove it first")
    try:
        reader = tf.train.load_checkpoint(checkpoint)
    except (ValueError, tf.errors.OpError) as e:
        raise UserError(f"{checkpoint}: no checkpoint ({str(e).splitlines()[0]})") from None
    names = [n for n in reader.get_variable_to_shape_map() if not n.endswith(_TRAINING_ONLY)]
    arrays = {name: reader.get_tensor(name) for name in names}
    arrays |= {"mean": np.float32(mean), "std": np.float32(std)}
    _fit(checkpoint, arrays)
    try:
        with opened(out) as f:
            np.savez(f, **arrays)
    except OSError as e:
        raise UserError(cannot_write(out, e)) from None


def main(argv: Sequence[str]) -> int:
    """Converts the checkpoint that `argv` names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cmarr_jax.extract.denseface",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="prefix of the TensorFlow checkpoint's files")
    parser.add_argument("out", help="file to write, .npz")
    parser.add_argument("--mean", type=float, required=True, help="of grey levels in training")
    parser.add_argument("--std", type=float, required=True)
    return boundary.run(lambda: _run(parser.parse_args(argv)), "nothing was written")


def _run(args: argparse.Namespace) -> int:
    _convert(args.checkpoint, args.out, args.mean, args.std)
    print(f"{args.out}: weights of the face network")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
