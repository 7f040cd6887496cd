"""What frozen networks say of pictures, once for all tags: extractors, and their features stored.

In: a network, pixels, storage. Out: features of each picture, by its md5. It may import `models`
and what is below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
