"""Figure 4 of the paper: each of the three loss weights varied alone, around the config's own.

python sweep.py configs/sweeps/fig4.py --config configs/iemocap.py
python evaluate.py --workdir=results/iemocap-fig4 --figure=4
"""

from configs import common


def sweep(add, config):
    for argument in common.members("fig4", config):  # "alpha=0.1", ...
        add(argument)
