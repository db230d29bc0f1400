"""The bar to clear: what simple models get out of a pack's pooled features, on the sweep's folds.

    python benchmarks/simple_models.py PACK [session|split] [ARGUMENT]

ARGUMENT is a config's, `pooled` unless given: the models read what that system reads, as
`pooled,cmarr_plus` reads mean and maximum over time by quantiles.

    SVMs    one RBF machine a condition, trained for that condition alone (C = 2, balanced classes)
    MLP     one network for all conditions, trained on randomly masked modalities: two hidden layers
            of 512, dropout 0.5, AdamW at 1e-3, 30 epochs of batches of 128, balanced classes

They choose nothing, so they learn from the training and
validation parts together and the MLP, the mean of three seeds, is that of its last epoch. Two to
three minutes for IEMOCAP on two cores.
"""

import os
import sys
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.svm import SVC

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from cmarr_jax import metrics
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.training import normalise
from configs import common

_SEEDS, _EPOCHS, _BATCH, _WIDTH = 3, 30, 128, 512


class MLP(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(_WIDTH)(x))
            x = nn.Dropout(0.5, deterministic=not training)(x)
        return nn.Dense(self.num_classes)(x)


def svms(
    x: np.ndarray, labels: np.ndarray, masks: np.ndarray, train: np.ndarray, test: np.ndarray
) -> Iterator[np.ndarray]:
    """Predictions `[n]` of a machine for each condition.

    Args:
      x: `[N, D]`, normalised.
      labels: `[N]`.
      masks: `[K, D]` bool, the features that are available under each condition.
      train, test: utterances.
    """
    for mask in masks:
        model = SVC(C=2, class_weight="balanced").fit(x[train][:, mask], labels[train])
        yield model.predict(x[test][:, mask])


def mlp(
    x: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> Iterator[np.ndarray]:
    """The same of one network for all conditions."""
    counts = np.bincount(labels[train])
    weights = jnp.asarray(np.float32(len(train) / (len(counts) * counts)))
    x, y, masks = jnp.asarray(np.float32(x)), jnp.asarray(labels), jnp.asarray(np.float32(masks))
    model, optimizer = MLP(len(counts)), optax.adamw(1e-3, weight_decay=1e-2)
    params = model.init(jax.random.key(seed), x[:1])

    def loss(params, rows, key):
        mask_key, dropout_key = jax.random.split(key)
        seen = masks[jax.random.randint(mask_key, rows.shape, 0, len(masks))]
        logits = model.apply(params, x[rows] * seen, True, rngs={"dropout": dropout_key})
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, y[rows])
        return jnp.average(errors, weights=weights[y[rows]])

    def step(carry, rows):
        params, state, key = carry
        key, own = jax.random.split(key)
        updates, state = optimizer.update(jax.grad(loss)(params, rows, own), state, params)
        return (optax.apply_updates(params, updates), state, key), None

    epoch = jax.jit(lambda carry, order: jax.lax.scan(step, carry, order)[0])
    carry = params, optimizer.init(params), jax.random.key(seed + 1)
    rng = np.random.default_rng(seed)
    for _ in range(_EPOCHS):
        order = rng.permutation(train)[: len(train) // _BATCH * _BATCH]
        carry = epoch(carry, order.reshape(-1, _BATCH))
    for mask in masks:
        yield np.asarray(model.apply(carry[0], x[test] * mask[None])).argmax(axis=1)


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 2, 3):
        print(__doc__)
        return 2
    try:
        path, scheme, argument = argv + ["session", "pooled"][len(argv) - 1 :]
        data = common.with_variants(common.get_config(), argument).data
        corpus = pipeline.load(
            pack=path, loader="numpy", length=data.length, statistics=data.statistics
        )
        if data.length != 1:
            raise UserError(f"{argument}: data.length={data.length}; wanted pooled,SYSTEM")
        folds = protocol.make_folds(corpus.columns, corpus.labels, scheme=scheme)
        if not corpus.present.all():
            raise UserError(f"{path}: some utterances lack a modality; wanted a pack without such")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    conditions = protocol.make_conditions(corpus.modalities)
    widths = [values.shape[-1] for values in corpus.features.values()]
    masks = np.repeat([c.available for c in conditions], widths, axis=1)
    scores = {"SVMs": [], "MLP": []}
    for fold in folds:
        print(f"fold {fold.number}/{len(folds)} ...", file=sys.stderr)
        train = np.concatenate([fold.train, fold.val])
        statistics = normalise.measure(
            corpus, train, by_mean=data.normalise, by_quantiles=data.quantiles
        )
        read = normalise.normalise(corpus.features, statistics)
        x = np.concatenate([np.asarray(values)[:, 0] for values in read.values()], axis=1)
        task = x, corpus.labels, masks, train, fold.test
        guesses = [("SVMs", svms(*task)), *(("MLP", mlp(*task, seed)) for seed in range(_SEEDS))]
        for name, predicted in guesses:
            confusions = [
                metrics.confusion_matrix(corpus.labels[fold.test], p, len(corpus.class_names))
                for p in predicted
            ]
            scores[name].append([metrics.scores(c)[:2] for c in confusions])
    print(f"{corpus.name}, {len(folds)} folds; WAR / UAR %\n")
    print(f"{'available':<12}" + "".join(f"{name:>16}" for name in scores))
    means = {name: 100 * np.mean(each, axis=0) for name, each in scores.items()}  # [K, 2]
    for k, condition in enumerate(conditions):
        _print_row("{" + ",".join(condition.name) + "}", [m[k] for m in means.values()])
    if len(conditions) > 1:  # the last of which is complete data
        _print_row("avg", [m[:-1].mean(axis=0) for m in means.values()])
    return 0


def _print_row(name: str, pairs: list[np.ndarray]) -> None:
    print(f"{name:<12}" + "".join(f"{war:>8.2f} /{uar:>6.2f}" for war, uar in pairs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
