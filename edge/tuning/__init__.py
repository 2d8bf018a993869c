"""Budget in, engine out: which backend, precision, input size, number of regions and effort meet
conditions on speed, size and mAP.

from edge.tuning import tune
tuned = tune(BuildOptions(output="engines/mine"), "p99<25ms, map_drop<0.3, size<10MB")
"""

from edge.tuning.options import TuneOptions
from edge.tuning.tuned import Tuned, tune

__all__ = ["TuneOptions", "Tuned", "tune"]
