"""MELD, seven emotions, its own train, dev and test parts: CM-ARR on frozen features.

    python train.py --config configs/meld.py

The pack data/meld holds 13,708 utterances (9,989 / 1,109 / 2,610), see docs/extraction.md; results
go to results/meld. Nearly half of the utterances are neutral, so classes are weighed by their
counts, and UAR or weighted F1 says more than WAR. Never run on the whole corpus here: no numbers
are promised. Arguments pick variants and systems, see configs/common.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    c = common.get_config()
    c.train.balance_classes = True
    return common.with_variants(c, argument)
