"""Features of each distinct picture of many tags, once, from a frozen extractor.

In: complete datasets in storage, a network. Out: features in storage, by the pictures' md5, and the
network as an extractor. It may import `features`, `job` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
