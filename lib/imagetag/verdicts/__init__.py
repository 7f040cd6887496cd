"""What people say of pictures, whatever their tags say: stored beside the dataset, newest first.

In: verdicts, storage and a tag. Out: the verdict that stands for each picture. It may import
`dataset`, `storage` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
