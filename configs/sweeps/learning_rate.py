"""Learning rate by weight decay, chosen on validation: read `val_uar` in DIR/sweep.csv.

    python sweep.py configs/sweeps/learning_rate.py --config configs/iemocap.py \\
        --config.data.pack=PACK --workdir=DIR
"""


def sweep(add):
    for rate in (3e-4, 1e-3, 3e-3):
        for decay in (0.01, 0.1):
            add(**{"train.learning_rate": rate, "train.weight_decay": decay})
