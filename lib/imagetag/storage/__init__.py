"""Where data lives: a local folder or an S3-compatible bucket, behind one small interface.

In: a URL, keys and bytes. Out: bytes, listings, and the four ways in which storage fails. It may
import the modules of `imagetag` itself alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
