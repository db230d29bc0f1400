"""The same small search for every system, eight trials: rate, epochs, dropout and averaging.

python sweep.py configs/sweeps/tuning.py --config configs/iemocap.py:pooled,mmin --nested

It starts from the config's own settings, whatever system and variants its argument names, and the
first trial is these as they are. Trials are four recipes at two learning rates each:

    recipe   epochs   dropout              averaging
    1        x 1      own                  own
    2        x 2      half as much again   own
    3        x 2      own                  the other
    4        x 1      half as much         the other

Of epochs, of dropout (own or changed) and of averaging each value stands in two recipes, and each
pair of values of two of them in one: a half fraction of a factorial design (Box and Hunter, 1961).
"The other" averaging is a decay of 0.99 where the config has none, else none.

The rates are the config's own and, with averaging, three times that; without averaging, a third:
a mean of the weights is as smooth at a high rate as the weights themselves are at a low one.

"Epochs" is the length of the schedule. Validation chooses an epoch within each trial anyway: twice
as many are more to choose from and, where the rate falls, let it fall more slowly.

All of this is of the stage that is tested, section `train`; "dropout" is every field of `model` of
that name, but the teacher's. Stages before it keep their settings, so that the teachers of the MMIN
family are trained once for all trials; DiCMoR's first stage shares its dropout with the second. The
two rates of a recipe are trained as one program. All eight take as long as twelve of the first.
"""

from cmarr_jax.config import leaves

_RECIPES = (  # epochs, dropout, whether averaging is as in the config
    (1, "own", True),
    (2, "more", True),
    (2, "own", False),
    (1, "less", False),
)


def sweep(add, config):
    own = config.train
    for times, dropout, same in _RECIPES:
        averaging = own.averaging if same else (0.0 if own.averaging else 0.99)
        for factor in (1, 3 if averaging else 1 / 3):
            rate = _short(own.learning_rate * factor) if factor != 1 else own.learning_rate
            epochs, mean = own.epochs * times, ",averaged" if averaging else ""
            add(
                name=f"rate={rate},epochs={epochs},dropout={dropout}{mean}",
                **{
                    "train.learning_rate": rate,
                    "train.epochs": epochs,
                    "train.averaging": averaging,
                },
                **{field: _changed(p, dropout) for field, p in _dropouts(config).items()},
            )


def _dropouts(config):
    """The dropout fields of the model, but a teacher's; those that are 0 stay so."""
    fields = leaves({"model": config.model.to_dict()})
    named = {f: p for f, p in fields if "dropout" in f.rpartition(".")[2] and p}
    return {f: p for f, p in named.items() if f != "model.teacher_dropout"}


def _changed(p, how):
    """More stays below 1: from a half on, half of the way there."""
    return {"own": p, "less": _short(p / 2), "more": _short(min(1.5 * p, (1 + p) / 2))}[how]


def _short(x):
    return float(f"{x:.3g}")
