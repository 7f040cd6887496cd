"""Pictures as bytes and pixels: what a file is, whether it is whole, and which are alike.

In: bytes. Out: formats, sizes, pixels, perceptual hashes. It may import the modules of `imagetag`
itself alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
