"""From storage to batches: packed shards, the order of batches, and what trains on what.

In: a dataset in storage. Out: batches of pixels and labels; what each picture is used for. It may
import `explore`, `runs` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
