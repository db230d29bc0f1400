"""Figure 4 of the paper: each of the three loss weights varied alone.

python sweep.py configs/sweeps/fig4.py --config configs/iemocap.py
python evaluate.py --workdir=results/iemocap-fig4 --figure=4
"""

from configs import common


def sweep(add):
    for argument in common.TABLES["fig4"]:  # "alpha=0.1", ...
        add(argument)
