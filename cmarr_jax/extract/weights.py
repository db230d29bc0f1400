"""Published checkpoints as parameters: every tensor is used, every parameter is filled.

A checkpoint is a safetensors file, or one that PyTorch saved (`pytorch_file`), with the tensor
names of Hugging Face's models, with or without the model's prefix. Every tensor fills a parameter
or is on the list of parts that the encoders leave out; every parameter is filled. PyTorch's layouts
become linen's: a matrix is transposed, a convolution `[out, in, K]` becomes `[K, in, out]`.
"""

import re
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pytorch_file
from cmarr_jax.extract.models.bert import Bert
from cmarr_jax.extract.models.wav2vec2 import Wav2Vec2

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_BERT = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_BERT_IGNORED = r"(embeddings\.position_ids|(pooler|cls|classifier)\..*)"
_WAV2VEC2 = {
    "conv_norm": "feature_extractor.conv_layers.0.layer_norm",
    "projection_norm": "feature_projection.layer_norm",
    "projection": "feature_projection.projection",
    "position": "encoder.pos_conv_embed.conv",
    "norm": "encoder.layer_norm",
}
_WAV2VEC2_LAYER = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.out_proj",
    "attention_norm": "layer_norm",
    "expand": "feed_forward.intermediate_dense",
    "contract": "feed_forward.output_dense",
    "feed_forward_norm": "final_layer_norm",
}
_WAV2VEC2_IGNORED = (
    r"(masked_spec_embed|layer_weights|"
    r"(quantizer|project_hid|project_q|lm_head|projector|classifier)\..*)"
)


def bert(file: str, module: Bert) -> dict[str, Any]:
    """Variables of `module` from the checkpoint `file`, float32.

    Raises:
      UserError: `file` cannot be read, or is not a checkpoint of `module`'s shape.
    """
    modules = dict(_BERT)
    for k in range(module.num_layers):
        modules |= {f"layer_{k}/{o}": f"encoder.layer.{k}.{t}" for o, t in _BERT_LAYER.items()}
    # The first checkpoints came from TensorFlow and have its names for LayerNorm's parameters.
    tensors = {
        re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name): tensor
        for name, tensor in _read(file, "bert.").items()
    }
    tensors = {re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", k): v for k, v in tensors.items()}
    inputs = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    return _fill(file, tensors, _shapes(module, *inputs), modules, _BERT_IGNORED)


def wav2vec2(file: str, module: Wav2Vec2) -> dict[str, Any]:
    """Variables of `module` from the checkpoint `file`, float32.

    Raises:
      UserError: `file` cannot be read, or is not a checkpoint of `module`'s shape.
    """
    modules = dict(_WAV2VEC2)
    for k in range(len(module.conv_features)):
        modules[f"conv_{k}"] = f"feature_extractor.conv_layers.{k}.conv"
    for k in range(module.num_layers):
        modules |= {f"layer_{k}/{o}": f"encoder.layers.{k}.{t}" for o, t in _WAV2VEC2_LAYER.items()}
    tensors = _fold_weight_norm(_read(file, "wav2vec2."), _WAV2VEC2["position"])
    length = module.receptive_field
    inputs = jnp.zeros((1, length)), jnp.full(1, length, jnp.int32)
    return _fill(file, tensors, _shapes(module, *inputs), modules, _WAV2VEC2_IGNORED)


def _read(file: str, prefix: str) -> dict[str, np.ndarray]:
    if file.endswith(".bin"):
        tensors = pytorch_file.read(file)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    try:
        import safetensors
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: needs safetensors; pip install -r requirements-extract.txt"
        ) from None
    try:
        with safetensors.safe_open(file, "np") as f:
            return {name.removeprefix(prefix): f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as e:
        raise UserError(f"{file}: not a whole safetensors file ({e}); download it again") from None


def _fold_weight_norm(tensors: dict[str, np.ndarray], conv: str) -> dict[str, np.ndarray]:
    """Weight = g v / |v|, the norm over both channel axes; PyTorch has two names for the pair."""
    for g, v in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if {f"{conv}.{g}", f"{conv}.{v}"} <= tensors.keys():
            magnitude = tensors.pop(f"{conv}.{g}").astype(np.float64)
            direction = tensors.pop(f"{conv}.{v}").astype(np.float64)
            norm = np.sqrt(np.sum(direction**2, axis=(0, 1), keepdims=True))
            tensors[f"{conv}.weight"] = magnitude * (direction / norm)
    return tensors


def _shapes(module: nn.Module, *inputs: jax.Array) -> dict[str, Any]:
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def _fill(
    file: str,
    tensors: dict[str, np.ndarray],
    shapes: dict[str, jax.ShapeDtypeStruct],
    modules: dict[str, str],
    ignored: str,
) -> dict[str, Any]:
    """Gives each parameter its tensor; `modules`: module path -> name in the checkpoint."""
    params, unfilled = {}, []
    for path, wanted in shapes.items():
        module, leaf = path.rsplit("/", 1)
        name = f"{modules[module]}.{_LEAVES[leaf]}"
        tensor = tensors.pop(name, None)
        if tensor is None:
            unfilled.append(name)
            continue
        if leaf == "kernel":
            tensor = tensor.T
        if tensor.shape != wanted.shape:
            raise UserError(
                f"{file}: tensor {name} is {tensor.shape} in linen's layout, but config.json "
                f"beside it describes {wanted.shape}; the two belong to different models"
            )
        params[path] = np.ascontiguousarray(tensor, np.float32)
    if unfilled:
        raise UserError(
            f"{file}: lacks {len(unfilled)} of {len(shapes)} tensors, among them {unfilled[0]}; "
            "wanted a checkpoint of the model that config.json beside it describes"
        )
    if extra := sorted(name for name in tensors if not re.fullmatch(ignored, name)):
        raise UserError(
            f"{file}: holds {len(extra)} tensors that the model has no place for, among them "
            f"{extra[0]}; wanted a checkpoint of the model that config.json beside it describes"
        )
    return {"params": flax.traverse_util.unflatten_dict(params, sep="/")}
