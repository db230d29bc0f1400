"""Learning rate by weight decay, ranked by the validation part.

python sweep.py configs/sweeps/learning_rate.py --config configs/iemocap.py
"""


def sweep(add):
    for rate in (3e-4, 1e-3, 3e-3):
        for decay in (0.01, 0.1):
            add(**{"train.learning_rate": rate, "train.weight_decay": decay})
