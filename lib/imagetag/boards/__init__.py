"""Imageboards, folders and lists as listings of posts: engines are modules, sites are rows of data.

In: a board's name or address, a query. Out: posts, newest first. It may import `dataset`,
`imaging`, `storage` and `web`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
