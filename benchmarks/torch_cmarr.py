"""CM-ARR in plain PyTorch: the default configuration of configs/common.py, run eagerly.

What training_speed.py compares with. Written from the formulas as a PyTorch user would: a module
a block, a loop over the modalities and over the couplings, `nn.Conv1d`, fused attention, AdamW.
It needs PyTorch and NumPy, nothing of JAX.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.07  # at the start


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid positions, `[B, T, D]` and `[B, T, 1]` -> `[B, D]`."""
    return (x * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`[B, T, D]` -> `[B, H, T, D / H]`."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    def __init__(self, width: int, ratio: int, dropout: float):
        super().__init__(
            nn.Linear(width, ratio * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(ratio * width, width),
            nn.Dropout(dropout),
        )


class UMC(nn.Module):
    """MAP's distribution encoder: a Gaussian a position."""

    def __init__(self, width: int, num_heads: int = 8, mlp_ratio: int = 4, dropout: float = 0.1):
        super().__init__()
        self.num_heads, self.rate = num_heads, dropout
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_mu, self.to_sigma = (nn.Linear(width // 2, width) for _ in range(2))
        self.norm_mu, self.norm_sigma = (nn.LayerNorm(width) for _ in range(2))
        self.mlp_mu, self.mlp_sigma = (FeedForward(width, mlp_ratio, dropout) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.norm(F.gelu(self.dense(x)))
        query, key, value = (split_heads(y, self.num_heads) for y in self.qkv(hidden).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask[:, None, None, :],
            dropout_p=self.rate if self.training else 0.0,
        )
        for_mu, for_sigma = mixed.transpose(1, 2).flatten(2).chunk(2, dim=-1)
        mu = x + self.dropout(self.to_mu(for_mu))
        log_sigma = self.dropout(self.to_sigma(for_sigma))
        mu = mu + self.mlp_mu(self.norm_mu(mu))
        log_sigma = log_sigma + self.mlp_sigma(self.norm_sigma(log_sigma))
        return mu, log_sigma.clamp(-7.0, 4.0)


class RealNVP(nn.Module):
    """Affine couplings whose halves change places after each."""

    def __init__(self, width: int, num_couplings: int = 8, hidden: int = 256):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width // 2, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, width),
            )
            for _ in range(num_couplings)
        )
        for net in self.nets:
            nn.init.zeros_(net[-1].weight)
            nn.init.zeros_(net[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        for net in self.nets:
            shift, raw = net(a).chunk(2, dim=-1)
            a, b = b * torch.exp(2 * torch.tanh(raw / 2)) + shift, a
        return torch.cat([a, b], dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, dim=-1)
        for net in reversed(self.nets):
            a, b = b, a
            shift, raw = net(a).chunk(2, dim=-1)
            b = (b - shift) * torch.exp(-2 * torch.tanh(raw / 2))
        return torch.cat([a, b], dim=-1)


class RCAB(nn.Module):
    """Residual channel attention over `[B, C, T]`."""

    def __init__(self, width: int, reduction: int = 16, kernel: int = 3):
        super().__init__()
        self.conv_in = nn.Conv1d(width, width, kernel, padding="same")
        self.conv_out = nn.Conv1d(width, width, kernel, padding="same")
        self.squeeze = nn.Linear(width, max(1, width // reduction))
        self.excite = nn.Linear(max(1, width // reduction), width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        y = self.conv_out(F.relu(self.conv_in(x)) * valid)
        mean = (y * valid).sum(dim=2) / valid.sum(dim=2).clamp(min=1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return (x + y * gate[:, :, None]) * valid


class ReconstructionHead(nn.Module):
    def __init__(self, width: int, num_blocks: int = 4, expansion: int = 2, kernel: int = 3):
        super().__init__()
        self.widen = nn.Linear(width, expansion * width)
        self.blocks = nn.ModuleList(RCAB(expansion * width) for _ in range(num_blocks))
        self.conv = nn.Conv1d(expansion * width, expansion * width, kernel, padding="same")
        self.narrow = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        wide = (self.widen(x) * valid).transpose(1, 2)
        valid = valid.transpose(1, 2)
        y = wide
        for block in self.blocks:
            y = block(y, valid)
        y = wide + self.conv(y) * valid
        return self.narrow(y.transpose(1, 2)) * valid.transpose(1, 2)


class AttentionBlock(nn.Module):
    """Pre-norm transformer block; cross-attention if a context is given."""

    def __init__(self, width: int, cross: bool, num_heads: int = 8, dropout: float = 0.1):
        super().__init__()
        self.num_heads, self.rate = num_heads, dropout
        self.norm_query, self.norm_out = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.norm_context = nn.LayerNorm(width, eps=1e-6) if cross else None
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp, self.dropout = FeedForward(width, 4, dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        query = self.norm_query(x)
        context = query if context is None else self.norm_context(context)
        mixed = F.scaled_dot_product_attention(
            split_heads(self.query(query), self.num_heads),
            split_heads(self.key(context), self.num_heads),
            split_heads(self.value(context), self.num_heads),
            attn_mask=mask[:, None, None, :],
            dropout_p=self.rate if self.training else 0.0,
        )
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.mlp(self.norm_out(x))


class Fusion(nn.Module):
    """Text attends to every other modality; self-attention; the mean over time is classified."""

    def __init__(self, width: int, num_modalities: int, num_classes: int, hidden: int = 128):
        super().__init__()
        streams = num_modalities - 1
        self.cross = nn.ModuleList(AttentionBlock(width, cross=True) for _ in range(streams))
        self.mix = AttentionBlock(streams * width, cross=False)
        self.classifier = nn.Sequential(
            nn.Linear(streams * width, hidden),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, inputs: list[Tensor], mask: Tensor) -> Tensor:
        text, *others = inputs
        streams = [
            block(text, mask, other) for block, other in zip(self.cross, others, strict=True)
        ]
        fused = self.mix(torch.cat(streams, dim=-1), mask)
        return self.classifier(masked_mean(fused, mask[..., None].float()))


class CMARR(nn.Module):
    """The network; `dims` maps each modality, text first, to its features' width."""

    def __init__(self, dims: dict[str, int], num_classes: int, width: int = 128):
        super().__init__()
        self.names = list(dims)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims.values())
        self.norm = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in dims)
        self.umc = nn.ModuleList(UMC(width) for _ in dims)
        self.conv = nn.ModuleList(nn.Conv1d(width, width, 3, padding="same") for _ in dims)
        self.flow = nn.ModuleList(RealNVP(width) for _ in dims)
        self.head = nn.ModuleList(ReconstructionHead(width) for _ in dims)
        self.fusion = Fusion(width, len(dims), num_classes)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))

    def forward(self, features: dict[str, Tensor], mask: Tensor, available: Tensor) -> dict:
        """Features `[B, T, D_m]`, mask `[B, T]`, available `[B, M]` -> logits `[B, C]` and what
        the losses read, one `[B, ...]` a modality.
        """
        valid = mask[..., None].float()
        mus, log_sigmas, xs, zs = [], [], [], []
        for k, name in enumerate(self.names):
            tokens = self.norm[k](self.project[k](features[name])) * valid
            mu, log_sigma = self.umc[k](tokens, mask)
            x = self.conv[k]((mu * valid).transpose(1, 2)).transpose(1, 2) * valid
            mus.append(masked_mean(mu, valid))
            log_sigmas.append(masked_mean(log_sigma, valid))
            xs.append(x)
            zs.append(self.flow[k](x))
        has = available.T[:, :, None, None]
        latent = (torch.stack(zs) * has).sum(dim=0) / has.sum(dim=0).clamp(min=1)
        recovered = [
            head(flow.inverse(latent) * valid, valid)
            for flow, head in zip(self.flow, self.head, strict=True)
        ]
        inputs = [torch.where(h, x, r) for h, x, r in zip(has, xs, recovered, strict=True)]
        return {
            "logits": self.fusion(inputs, mask),
            "mu": mus,
            "sigma": [s.exp() for s in log_sigmas],
            "x": xs,
            "recovered": recovered,
            "inputs": inputs,
        }


def losses(
    model: CMARR,
    out: dict,
    mask: Tensor,
    present: Tensor,
    available: Tensor,
    labels: Tensor,
    weights: Tensor,
) -> dict[str, Tensor]:
    """The four terms, of L = cls + udcl + 0.1 spcl + 10 rec."""
    cross_entropy = F.cross_entropy(out["logits"], labels, reduction="none")
    return {
        "cls": (cross_entropy * weights).sum() / weights.sum(),
        "udcl": _distribution_contrast(model, out, present),
        "spcl": _point_contrast(out["inputs"], mask, labels, present),
        "rec": _reconstruction(out, mask, present & ~available),
    }


def total(terms: dict[str, Tensor]) -> Tensor:
    return terms["cls"] + terms["udcl"] + 0.1 * terms["spcl"] + 10.0 * terms["rec"]


def _distribution_contrast(model: CMARR, out: dict, present: Tensor) -> Tensor:
    """InfoNCE on squared 2-Wasserstein distances, both directions, mean over the pairs."""
    points = [torch.cat(both, dim=-1) for both in zip(out["mu"], out["sigma"], strict=True)]
    mean = torch.cat(points).mean(dim=0)  # a common shift: less cancellation below
    points = [p - mean for p in points]
    scale = -1 / 200 * 768 / out["mu"][0].shape[-1]
    temperature = model.log_temperature.exp().clamp(0.01, 1.0)
    pairs = []
    for n, m in itertools.combinations(range(len(points)), 2):
        a, b = points[n], points[m]
        distance = a.square().sum(-1)[:, None] + b.square().sum(-1)[None] - 2 * a @ b.T
        both = present[:, n] & present[:, m]
        logits = (scale * distance.clamp(min=0) + 4.0) / temperature
        logits = logits.masked_fill(~(both[:, None] & both[None]), -1e9)
        target = torch.arange(len(logits), device=logits.device)
        for direction in (logits, logits.T):
            loss = F.cross_entropy(direction, target, reduction="none")
            pairs.append((loss * both).sum() / both.sum().clamp(min=1))
    return 2 * torch.stack(pairs).mean()


def _point_contrast(inputs: list[Tensor], mask: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Supervised contrast between the utterances' points of all modalities."""
    valid = mask[..., None].float()
    points = torch.cat([masked_mean(x, valid) for x in inputs])
    points = points / (points.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    utterance = torch.arange(len(labels), device=labels.device).repeat(len(inputs))
    labels, exists = labels.repeat(len(inputs)), present.T.reshape(-1)
    other = (utterance[:, None] != utterance[None]) & exists[:, None] & exists[None]
    positive = other & (labels[:, None] == labels[None])
    scores = points @ points.T / 0.1
    log_share = scores - scores.masked_fill(~other, -1e9).logsumexp(dim=1, keepdim=True)
    count = positive.sum(dim=1)
    anchors = -(log_share * positive).sum(dim=1) / count.clamp(min=1)
    return (anchors * (count > 0)).sum() / (count > 0).sum().clamp(min=1)


def _reconstruction(out: dict, mask: Tensor, missing: Tensor) -> Tensor:
    """Mean squared error of what was simulated missing; the target is a constant."""
    per_utterance = []
    for recovered, x in zip(out["recovered"], out["x"], strict=True):
        squares = ((recovered - x.detach()) * mask[..., None]).square().sum(dim=(1, 2))
        per_utterance.append(squares / (mask.sum(dim=1).clamp(min=1) * x.shape[-1]))
    errors = torch.stack(per_utterance, dim=1)
    return (errors * missing).sum() / missing.sum().clamp(min=1)


def make_optimizer(model: CMARR, rate: float, steps: int, warmup: float = 0.1) -> tuple:
    """AdamW with decay on matrices only; linear warm-up, then cosine."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)

    def factor(step):
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
        return min(1, (step + 1) / (warmup * steps)) * cosine

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def load(model: CMARR, ours: dict[str, np.ndarray]) -> None:
    """Copies our parameters, "fusion/classifier/kernel" -> array, into the model.

    Raises:
      KeyError: one is missing.
      ValueError: one is left over, or is of another shape.
    """
    left = dict(ours)
    with torch.no_grad():
        for target, name, pick in _pairs(model):
            value = torch.from_numpy(np.array(pick(ours[name]), order="C"))
            if value.shape != target.shape:
                raise ValueError(f"{name}: {tuple(value.shape)}, wanted {tuple(target.shape)}")
            target.copy_(value)
            left.pop(name, None)
    if left:
        raise ValueError(f"left over: {', '.join(left)}")


def _pairs(model: CMARR):
    """(parameter, our name, our array -> its value) of every parameter."""

    def layer(module, name, at=()):
        def value(array):
            array = array[at]
            return np.transpose(array)  # [in, out] and [K, in, out]; vectors stay

        scale = "scale" if isinstance(module, nn.LayerNorm) else "kernel"
        yield module.weight, f"{name}/{scale}", value
        if module.bias is not None:
            yield module.bias, f"{name}/bias", value

    def feed_forward(module, name, at=()):
        yield from layer(module[0], f"{name}/Dense_0", at)
        yield from layer(module[3], f"{name}/Dense_1", at)

    yield model.log_temperature, "log_temperature", lambda array: array
    for k, modality in enumerate(model.names):
        umc, head, at = model.umc[k], model.head[k], (k,)
        yield from layer(model.project[k], f"project_{modality}")
        yield from layer(model.norm[k], "project_norm", at)
        for n, dense in enumerate((umc.dense, umc.qkv, umc.to_mu, umc.to_sigma)):
            yield from layer(dense, f"umc/Dense_{n}", at)
        for n, norm in enumerate((umc.norm, umc.norm_mu, umc.norm_sigma)):
            yield from layer(norm, f"umc/LayerNorm_{n}", at)
        yield from feed_forward(umc.mlp_mu, "umc/FeedForward_0", at)
        yield from feed_forward(umc.mlp_sigma, "umc/FeedForward_1", at)
        yield from layer(model.conv[k], "conv", at)
        for n, net in enumerate(model.flow[k].nets):
            for i, dense in enumerate((net[0], net[2], net[4])):
                pick = lambda array, at=(k, n): np.transpose(array[at])  # noqa: E731
                yield dense.weight, f"flow/kernel_{i}", pick
                yield dense.bias, f"flow/bias_{i}", pick
        yield from layer(head.widen, "reconstruct/Dense_0", at)
        yield from layer(head.narrow, "reconstruct/Dense_1", at)
        yield from layer(head.conv, "reconstruct/Conv1D_0", at)
        for n, block in enumerate(head.blocks):
            for i, module in enumerate((block.conv_in, block.conv_out)):
                yield from layer(module, f"reconstruct/ScanRCAB_0/Conv1D_{i}", (k, n))
            for i, module in enumerate((block.squeeze, block.excite)):
                yield from layer(module, f"reconstruct/ScanRCAB_0/Dense_{i}", (k, n))
    fusion = model.fusion
    blocks = [("cross_0", (k,), block) for k, block in enumerate(fusion.cross)]
    for name, at, block in [*blocks, ("self_0", (), fusion.mix)]:
        norms = [block.norm_query, block.norm_context, block.norm_out]
        for n, norm in enumerate(norm for norm in norms if norm is not None):
            yield from layer(norm, f"fusion/{name}/LayerNorm_{n}", at)
        for part in ("query", "key", "value", "out"):
            yield from layer(getattr(block, part), f"fusion/{name}/{part}", at)
        yield from feed_forward(block.mlp, f"fusion/{name}/FeedForward_0", at)
    yield from layer(fusion.classifier[0], "fusion/Dense_0")
    yield from layer(fusion.classifier[3], "fusion/classifier")
