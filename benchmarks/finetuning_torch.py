"""finetuning.py's engine for PyTorch: the loop that a PyTorch user would write."""

import argparse
import os
import resource
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.finetuning_inputs import (
    HEAD,
    HEAD_DROPOUT,
    NUM_CLASSES,
    Shape,
    checked,
    learning_rate,
    make_lengths,
    make_states,
    order_file,
    rates,
    shape_of,
    warming,
)
from benchmarks.training_inputs import PRODUCT, Clock
from benchmarks.training_torch import prepare


class Model(nn.Module):
    """Post-norm transformer layers, a mean over time and a classifier as ours."""

    def __init__(self, shape: Shape, start: int, head_dropout: float):
        super().__init__()
        config, (hidden, attention, activation) = shape.config, rates(shape)
        width, heads = config["hidden_size"], config["num_attention_heads"]
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            config["intermediate_size"],
            dropout=hidden,
            activation="gelu",
            layer_norm_eps=config["layer_norm_eps"],
            batch_first=True,
        )
        layer.self_attn.dropout = attention
        layer.dropout.p = activation
        num_layers = config["num_hidden_layers"] - start
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.dropout = nn.Dropout(0.0 if start else hidden)
        self.project, self.norm = nn.Linear(width, HEAD), nn.LayerNorm(HEAD, eps=1e-6)
        self.conv, self.hidden = nn.Linear(HEAD, HEAD), nn.Linear(HEAD, HEAD)
        self.head_dropout = nn.Dropout(head_dropout)
        self.classifier = nn.Linear(HEAD, NUM_CLASSES)

    def forward(self, x, mask):
        """`[B, T, D]` and `[B, T]`, False = padding -> mean vectors `[B, D]`, logits `[B, C]`."""
        x = self.encoder(self.dropout(x), src_key_padding_mask=~mask)
        weights = mask[..., None].to(x.dtype)
        pooled = (x * weights).sum(dim=1) / weights.sum(dim=1)
        hidden = self.conv(self.norm(self.project(pooled)))
        hidden = self.head_dropout(self.hidden(hidden).relu())
        return pooled, self.classifier(hidden)


def make_optimizer(model: Model, steps: int) -> tuple:
    """AdamW, the layers' rate beside the head's, decay on matrices only."""
    groups = []
    for of_encoder, rate in ((True, 1e-4), (False, 5e-4)):
        own = [p for n, p in model.named_parameters() if n.startswith("encoder.") == of_encoder]
        for of_matrices, decay in ((True, 0.01), (False, 0.0)):
            some = [p for p in own if (p.ndim > 1) == of_matrices]
            groups.append({"params": some, "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, steps)
    )


def load(model: Model, ours: dict[str, np.ndarray]) -> None:
    """Copies our parameters, "upper_layers/text/layer_0/query/kernel" -> array, into the model.

    Raises:
      KeyError: one is missing.
      ValueError: one is left over, or is of another shape.
    """
    left = dict(ours)
    first = min(int(n.split("/")[2].removeprefix("layer_")) for n in ours if "/layer_" in n)
    prefix = next(n for n in ours if "/layer_" in n).split("layer_")[0]
    modality = prefix.split("/")[1]

    def take(name, transpose=True):
        value = left.pop(name)
        return value.reshape(value.shape[-2:]).T if value.ndim > 1 and transpose else value

    def put(target, value):
        if value.shape != tuple(target.shape):
            raise ValueError(f"{value.shape}, wanted {tuple(target.shape)}")
        target.copy_(torch.from_numpy(np.array(value, order="C")))

    def put_layer(module, name, scale="kernel"):
        put(module.weight, take(f"{name}/{scale}"))
        put(module.bias, take(f"{name}/bias"))

    with torch.no_grad():
        for k, layer in enumerate(model.encoder.layers):
            own, attention = f"{prefix}layer_{first + k}", layer.self_attn
            parts = [f"{own}/{name}" for name in ("query", "key", "value")]
            put(attention.in_proj_weight, np.concatenate([take(f"{p}/kernel") for p in parts]))
            put(attention.in_proj_bias, np.concatenate([take(f"{p}/bias") for p in parts]))
            put_layer(attention.out_proj, f"{own}/out")
            put_layer(layer.linear1, f"{own}/expand")
            put_layer(layer.linear2, f"{own}/contract")
            put_layer(layer.norm1, f"{own}/attention_norm", "scale")
            put_layer(layer.norm2, f"{own}/feed_forward_norm", "scale")
        put_layer(model.project, f"project_{modality}")
        put_layer(model.norm, f"norm_{modality}", "scale")
        put_layer(model.conv, f"conv_{modality}")
        put_layer(model.hidden, "fusion/Dense_0")
        put_layer(model.classifier, "fusion/classifier")
    if left:
        raise ValueError(f"left over: {', '.join(left)}")


def answers(args: argparse.Namespace) -> dict[str, Callable[[str], float]]:
    """See `engines.serve`."""
    device, cast = prepare(args)
    gpu = device.type == "cuda"
    clock, shape, (from_layer,) = Clock(), shape_of(args), args.from_layer
    lengths = make_lengths(shape, args.utterances)
    states, labels = make_states(shape, lengths)
    states = [torch.from_numpy(x).to(device) for x in states]
    labels, counts = (torch.from_numpy(x).long().to(device) for x in (labels, lengths))
    model = Model(shape, from_layer, 0.0 if args.check else HEAD_DROPOUT).to(device).train()
    order = np.load(order_file(args.folder)).astype(np.int64)
    optimizer, schedule = make_optimizer(model, 4 * len(order))
    a = torch.ones(PRODUCT, PRODUCT, device=device)

    def take(rows):
        x = nn.utils.rnn.pad_sequence([states[k] for k in rows], batch_first=True).float()
        return x, torch.arange(x.shape[1], device=device) < counts[rows][:, None]

    def train(order):
        mean_loss = torch.zeros((), device=device)
        for rows in order:
            with cast:
                _, logits = model(*take(rows))
                loss = nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            mean_loss += loss.detach()
        mean_loss.item()  # on a GPU: waits

    def warm(_):
        first = warming(lengths, *order.shape).astype(np.int64)
        for _ in range(2):
            train(first[first[:, 0] >= 0])
        return 0.0

    def multiply():
        with cast:
            a @ a
        if gpu:
            torch.cuda.synchronize()

    def memory(_):
        if gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def check(_):
        """The gradients' difference over our gradient's norm."""
        load(model, np.load(os.path.join(args.folder, "params.npz")))
        rows = checked(lengths)
        pooled, logits = model(*take(rows))
        loss = nn.functional.cross_entropy(logits, labels[rows])
        loss.backward()
        gradient = {n: p.grad.double() for n, p in model.named_parameters()}
        norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
        outputs = {"features": pooled, "logits": logits, "loss": loss, "gradient norm": norm}
        outputs = {key: value.detach().cpu().numpy() for key, value in outputs.items()}
        np.savez(os.path.join(args.folder, "torch.npz"), **outputs)
        load(model, np.load(os.path.join(args.folder, "gradient.npz")))
        ours = dict(model.named_parameters())
        parts = [(g - ours[n].detach().double()).flatten() for n, g in gradient.items()]
        return float(torch.cat(parts).norm() / norm)

    return {
        "gpu": lambda _: float(gpu),
        "cpu": clock.cpu,
        "parameters": lambda _: float(sum(p.numel() for p in model.parameters())),
        "product": lambda _: clock.time(multiply),
        "warm": warm,
        "run": lambda _: clock.time(lambda: train(order)),
        "memory": memory,
        "check": check,
    }
