"""training_speed.py's engine for PyTorch: the loop that a PyTorch user would write."""

import argparse
import os
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import torch_cmarr
from benchmarks.training_inputs import (
    DIMS,
    NUM_CLASSES,
    NUM_UTTERANCES,
    PRODUCT,
    Clock,
    availability,
    make_check,
    make_evaluated,
    make_features,
    make_order,
)


def prepare(args: argparse.Namespace) -> tuple[torch.device, torch.autocast]:
    """Where and in what to compute."""
    gpu = args.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if gpu and args.precision != "float32":
        torch.set_float32_matmul_precision("high")
    cast = torch.autocast(device.type, torch.bfloat16, enabled=gpu and args.precision == "bf16")
    torch.manual_seed(0)
    return device, cast


def answers(args: argparse.Namespace) -> dict[str, Callable[[str], float]]:
    """See `engines.serve`."""
    device, cast = prepare(args)
    gpu = device.type == "cuda"
    clock, runners = Clock(), {}
    data = _tensors(make_features(NUM_UTTERANCES, args.length), device)
    mean, deviation = {}, {}
    for k, (name, values) in enumerate(data["features"].items()):
        frames = values[data["mask"] & data["present"][:, k, None]]
        mean[name], deviation[name] = frames.mean(dim=0), frames.std(dim=0)

    def take(rows):
        features = {m: (x[rows] - mean[m]) / deviation[m] for m, x in data["features"].items()}
        return features, data["mask"][rows], data["present"][rows], data["labels"][rows]

    def train(batch_size):
        model = torch_cmarr.CMARR(DIMS, NUM_CLASSES).to(device).train()
        optimizer, schedule = torch_cmarr.make_optimizer(model, rate=1e-3, steps=1000)
        order = torch.from_numpy(make_order(args, batch_size)).long().to(device)
        patterns = torch.from_numpy(availability()).to(device)
        weights = torch.ones(batch_size, device=device)

        def run():
            mean_loss = torch.zeros((), device=device)
            for rows in order:
                features, mask, present, labels = take(rows)
                drawn = torch.randint(len(patterns), (batch_size,), device=device)
                available = patterns[drawn] & present
                available = torch.where(available.any(1, keepdim=True), available, present)
                with cast:
                    out = model(features, mask, available)
                    terms = torch_cmarr.losses(
                        model, out, mask, present, available, labels, weights
                    )
                    loss = torch_cmarr.total(terms)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                mean_loss += loss.detach()
            mean_loss.item()  # on a GPU: waits

        return run

    def evaluate(conditions):
        model = torch_cmarr.CMARR(DIMS, NUM_CLASSES).to(device).eval()
        available = torch.from_numpy(conditions).to(device)
        batches = torch.from_numpy(make_evaluated(args)).long().to(device)

        @torch.inference_mode()
        def run():
            for condition in available:
                for rows in batches:
                    features, mask, present, _ = take(rows)
                    with cast:
                        logits = model(features, mask, condition & present)["logits"]
                    logits.float().softmax(dim=-1).cpu()

        return run

    def runner(case):
        kind, _, number = case.partition(" ")
        if case not in runners and kind == "product":
            a = torch.ones(PRODUCT, PRODUCT, device=device)

            def product():
                with cast:
                    a @ a
                if gpu:
                    torch.cuda.synchronize()

            runners[case] = product
        elif case not in runners and kind == "train":
            runners[case] = train(int(number))
        elif case not in runners:
            runners[case] = evaluate(availability() if number == "7" else availability()[-1:])
        return runners[case]

    def check(name):
        """The gradients' difference over our gradient's norm."""
        model = torch_cmarr.CMARR(DIMS, NUM_CLASSES).to(device).eval()  # no dropout
        torch_cmarr.load(model, np.load(os.path.join(args.folder, "params.npz")))
        batch = _tensors(make_check(name), device)
        out = model(batch["features"], batch["mask"], batch["available"])
        rest = (batch[n] for n in ("mask", "present", "available", "labels", "weights"))
        terms = torch_cmarr.losses(model, out, *rest)
        loss = torch_cmarr.total(terms)
        loss.backward()
        gradient = {n: p.grad.double() for n, p in model.named_parameters()}
        norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
        outputs = {"logits": out["logits"], **terms, "loss": loss, "gradient norm": norm}
        outputs = {key: value.detach().cpu().numpy() for key, value in outputs.items()}
        np.savez(os.path.join(args.folder, "torch.npz"), **outputs)
        torch_cmarr.load(model, np.load(os.path.join(args.folder, "gradient.npz")))
        ours = model.state_dict()
        difference = torch.cat(
            [(g - ours[n].double()).flatten() for n, g in gradient.items()]
        ).norm()
        return float(difference / norm)

    return {
        "gpu": lambda _: float(gpu),
        "cpu": clock.cpu,
        "run": lambda case: clock.time(runner(case)),
        "check": check,
    }


def _tensors(tree, device):
    if isinstance(tree, dict):
        return {name: _tensors(leaf, device) for name, leaf in tree.items()}
    tensor = torch.from_numpy(np.ascontiguousarray(tree)).to(device)
    return tensor.long() if tensor.dtype == torch.int32 else tensor
