"""The bar to clear: an RBF SVM trained separately for each condition, on pooled features.

    python benchmarks/separate_svms.py PACK [session|split]

One machine a condition (C = 2, balanced classes, standardised features, mean over time), the
same folds as the sweep's; it trains on the training and validation parts together, since it
chooses nothing. About a minute for IEMOCAP on two cores.
"""

import os
import sys

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from cmarr_jax import metrics
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.errors import UserError


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 2):
        print(__doc__)
        return 2
    try:
        corpus = pipeline.load(pack=argv[0], loader="numpy", length=1)
        folds = protocol.make_folds(corpus.columns, corpus.labels, scheme=(*argv, "session")[1])
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    vectors = {m: f[:, 0].astype(np.float32) for m, f in corpus.features.items()}
    print(f"separate SVMs on {corpus.name}, {len(folds)} folds\n")
    print(f"{'available':<12}{'WAR %':>14}{'UAR %':>14}")
    means = {}
    for condition in protocol.make_conditions(corpus.modalities):
        chosen = zip(vectors.values(), condition.available, strict=True)
        x = np.concatenate([v for v, available in chosen if available], axis=1)
        scores = []
        for fold in folds:
            train = np.concatenate([fold.train, fold.val])
            model = make_pipeline(StandardScaler(), SVC(C=2, class_weight="balanced"))
            predicted = model.fit(x[train], corpus.labels[train]).predict(x[fold.test])
            confusion = metrics.confusion_matrix(
                corpus.labels[fold.test], predicted, len(corpus.class_names)
            )
            scores.append(metrics.scores(confusion)[:2])
        means[condition.name] = 100 * np.mean(scores, axis=0)
        _print_row("{" + ",".join(condition.name) + "}", means[condition.name])
    if missing := [row for name, row in means.items() if name != condition.name]:
        _print_row("avg", np.mean(missing, axis=0))  # of all but the last, which is complete
    return 0


def _print_row(name: str, scores: np.ndarray) -> None:
    war, uar = scores
    print(f"{name:<12}{war:>14.2f}{uar:>14.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
