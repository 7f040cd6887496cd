"""Formulas: metrics of a classifier, their intervals, calibration, what can be promised and proven.

In: arrays of labels, scores and groups. Out: numbers with their intervals, thresholds. It knows no
storage and no pictures, and may import the modules of `imagetag` itself alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
