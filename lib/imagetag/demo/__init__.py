"""A board of our own: pictures drawn by code, and a server that shows them as imageboards do.

In: a seed, predictions of its pictures. Out: pictures with their truth, how many were called it, a
server on loopback. It may import `dataset` and `imaging`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
