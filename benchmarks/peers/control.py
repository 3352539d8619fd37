"""SigmaQuant's uniform control: its rounding and its training, but the same bits everywhere.

.peers/sigmaquant/bin/python benchmarks/peers/control.py --data DIR --stages post-training,trained
"""

from functools import partial

import common
import ours

if __name__ == "__main__":
    run = partial(ours.quantize, strategy="uniform")
    stages = (common.POST_TRAINING, common.TRAINED)
    common.main("sigmaquant, uniform", run, ["sigmaquant"], __file__, stages, source=ours.__file__)
