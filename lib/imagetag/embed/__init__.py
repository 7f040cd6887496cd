"""Features of each distinct picture of many tags, once, from a frozen extractor.

In: complete datasets in storage, an extractor. Out: features in storage, by the pictures' md5. It
may import `features` and what is below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
