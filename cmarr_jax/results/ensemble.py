"""The seeds of a fold as one model: their posteriors averaged, as `cmarr_jax.predict` does.

Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation
using deep ensembles", NeurIPS 2017.
"""

import numpy as np

from cmarr_jax import metrics
from cmarr_jax.errors import UserError
from cmarr_jax.results import classes
from cmarr_jax.results.folder import Results
from cmarr_jax.workdir import files


def rows(results: Results) -> list[dict[str, str]]:
    """Scores of each fold's ensemble, as rows of results.csv, for `summary.summarise`.

    Seeds that were stopped take no part. The reconstruction error is empty.

    Raises:
      UserError: the folder has one seed alone, or no predictions.
    """
    if len(results.seeds) < 2:
        raise UserError(
            "--ensemble: these results are of one seed; train with --config.num_seeds=3, say"
        )
    p = results.predictions
    if p is None:
        raise UserError(f"--ensemble: the folder has no {files.PREDICTIONS}; copy it anew")
    fold_of = np.array([fold for fold, _ in results.runs])[p.run]
    identity = results.identity | {
        "protocol": f"{results.identity['protocol']}; {len(results.seeds)} seeds as one model"
    }
    scored = []
    for fold in results.folds:
        for k, condition in enumerate([*results.conditions, *results.curves]):
            here = (fold_of == fold) & (p.condition == k)
            ids, row = np.unique(p.ids[here], return_inverse=True)
            posteriors = np.zeros((len(ids), len(results.classes)))
            np.add.at(posteriors, row, p.posteriors[here])
            labels = np.zeros(len(ids), int)
            labels[row] = p.labels[here]
            confusion = metrics.confusion_matrix(
                labels, posteriors.argmax(axis=1), len(results.classes)
            )
            made = metrics.scores(confusion)._asdict() | classes.scores(confusion, results.classes)
            scores = {name: str(x) for name, x in made.items()}
            where = {"fold": str(fold), "seed": "", "condition": condition, "n": str(len(ids))}
            scored.append(identity | where | scores | {"rec_error": ""})
    return scored
