"""MSP-IMPROV, four classes, six folds by session: CM-ARR on frozen features.

    python train.py --config configs/msp_improv.py

The pack is data/msp_improv, results go to results/msp_improv. The paper's subset is scenario S,
3,819 utterances with all modalities (460 ang, 999 hap, 1,733 neu, 627 sad). Arguments pick
variants and systems, see configs/common.py; the MMIN family takes its code's settings for this
corpus.
"""

from ml_collections import ConfigDict

from configs import common, systems


def get_config(argument: str | None = None) -> ConfigDict:
    c = common.with_variants(common.get_config(), argument)
    systems.set_fields(c, systems.MSP_IMPROV.get(c.system, {}))
    return c
