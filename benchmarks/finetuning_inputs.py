"""What finetuning.py's engines are given: an encoder's shape and random hidden states."""

import argparse
import math
import os
import statistics
from typing import Any, NamedTuple

import numpy as np

NUM_CLASSES = 4
EPOCH = 4400  # utterances of a training part of IEMOCAP
CHECKED = 12  # utterances of --check
HEAD, HEAD_DROPOUT = 128, 0.3
# Beside the variant finetune: a head of plain layers, on one vector.
CONFIG = {
    "data.length": 1,
    "data.normalise": False,
    "model.conv_kernel": 1,
    "model.fusion.self_layers": 0,
    "model.width": HEAD,
    "model.classifier.hidden": HEAD,
    "model.classifier.dropout": HEAD_DROPOUT,
}
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout")  # see `rates`


class Lengths(NamedTuple):
    """A log-normal distribution, cut at both ends."""

    median: float
    deviation: float  # of the logarithm
    least: int
    most: int


class Shape(NamedTuple):
    """A published encoder without its weights."""

    modality: str
    kind: str
    config: dict[str, Any]  # as its `config.json` has it
    lengths: Lengths


# As MiniLM's tokenizer cuts IEMOCAP's 5,531 transcripts: 18.1 tokens, at most 124.
TOKENS = Lengths(14.2, 0.70, 3, 124)
# Of 4.5 s in the mean, at 50 frames a second, cut after 512.
FRAMES = Lengths(183.0, 0.65, 29, 512)


def _bert(layers: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }


_WAV2VEC2 = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "layer_norm_eps": 1e-5,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
SHAPES = {
    "minilm": Shape("text", "bert", _bert(6, 384), TOKENS),
    "bert-base": Shape("text", "bert", _bert(12, 768), TOKENS),
    "wav2vec2-base": Shape("speech", "wav2vec2", _WAV2VEC2, FRAMES),
    "tiny": Shape("text", "bert", _bert(3, 48), TOKENS._replace(most=40)),
}


def shape_of(args: argparse.Namespace) -> Shape:
    """With --check without dropout."""
    shape = SHAPES[args.shape]
    off = {name: 0.0 for name in shape.config if "dropout" in name} if args.check else {}
    return shape._replace(config=shape.config | off)


def rates(shape: Shape) -> tuple[float, ...]:
    """Of `DROPOUTS`; BERT has none after the activation."""
    config = shape.config
    named = {"attention_dropout": "attention_probs_dropout_prob"}
    return tuple(
        config.get(name, config.get(named.get(name, f"{name}_prob"), 0.0)) for name in DROPOUTS
    )


def make_lengths(shape: Shape, utterances: int) -> np.ndarray:
    """`[N + 1]`: the distribution's quantiles, and one of its greatest length."""
    normal = statistics.NormalDist()
    drawn = np.array([normal.inv_cdf((i + 0.5) / utterances) for i in range(utterances)])
    median, deviation, least, most = shape.lengths
    lengths = np.clip(np.round(median * np.exp(deviation * drawn)), least, most)
    return np.append(lengths, most).astype(np.int32)


def make_states(shape: Shape, lengths: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Hidden states of each utterance, `[n, D]` float16 as packs keep them, and labels `[N]`."""
    rng = np.random.default_rng(0)
    width = shape.config["hidden_size"]
    states = [rng.standard_normal((n, width), np.float32).astype(np.float16) for n in lengths]
    return states, rng.integers(NUM_CLASSES, size=len(lengths)).astype(np.int32)


def warming(lengths: np.ndarray, steps: int, batch: int) -> np.ndarray:
    """Rows of an untimed round, `[steps, batch]`, -1 = none: the longest batch, the shortest."""
    order = np.full((steps, batch), -1, np.int32)
    ranked = np.argsort(lengths, kind="stable")
    order[0], order[1] = ranked[-batch:], ranked[:batch]
    return order


def checked(lengths: np.ndarray) -> np.ndarray:
    """Rows of the batch of --check: of all lengths, the greatest among them."""
    ranked = np.argsort(lengths, kind="stable")
    return ranked[np.linspace(0, len(lengths) - 1, CHECKED).astype(int)]


def order_file(folder: str) -> str:
    return os.path.join(folder, "order.npy")


def learning_rate(step: int, steps: int) -> float:
    """Factor of the variant finetune: warm-up over a tenth of `steps`, then linear to 0."""
    return min(1, (step + 1) / math.ceil(0.1 * steps)) * max(0.0, 1 - step / steps)
