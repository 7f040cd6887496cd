"""Train a classifier of one tag, from its dataset in storage to a model in storage.

In: a dataset in storage. Out: a run. It may import `inputs`, `export` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
