"""What is stored of a tag: its manifest, its splits and families, and a copy of it on this machine.

In: storage and a tag. Out: rows, groups, splits, pixels and thumbnails. It may import `imaging` and
`storage`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
