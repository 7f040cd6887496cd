"""Score new pictures in bulk with trained models, wherever they are.

In: runs in storage; files, lists, URLs or a board's search. Out: rows of a file, copies, sidecars.
It may import `runs`, `boards`, `job` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
