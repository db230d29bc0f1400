"""IEMOCAP, four classes, five folds by session: CM-ARR on frozen features.

    python train.py --config configs/iemocap.py

The pack data/iemocap holds 5,531 utterances (1,103 ang, 1,636 hap, 1,708 neu, 1,084 sad) with
text, speech and video, or with any of the three. Results go to results/iemocap. Arguments pick
variants, see configs/common.py:

    --config configs/iemocap.py:pooled         for packs of one vector a modality; with text and
                                               speech 5 minutes on two CPU cores, 61 UAR averaged
                                               over {t} and {s}, 74 UAR on {s,t}
    --config configs/iemocap.py:pooled,cmarr_plus
                                               CM-ARR+, see cmarr_jax/systems/cmarr_plus.py
    --config configs/iemocap.py:paper          the paper's optimiser, for fine-tuned encoders
    --config configs/iemocap.py:no_udcl        an ablation of Table 3
    --config configs/iemocap.py:mmin           another system, see configs/systems.py
    --config configs/iemocap.py:table2         all of the paper's systems, one after the other
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    return common.with_variants(common.get_config(), argument)
