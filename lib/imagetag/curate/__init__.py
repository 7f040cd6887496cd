"""Near-duplicates of a dataset, found so that no test or validation image was seen in training.

In: a dataset in storage. Out: its families. It may import `dataset` and what is below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
