"""From a board into storage: the images of a tag and some without it, checked and recorded.

In: a board, a storage and what is wanted of a tag. Out: images, a manifest, the marker of a
complete dataset. It may import `boards`, `job` and what is below
them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
