"""All jobs one after the other, each as a process of its own, with one display of their progress.

In: settings of stages, from a command line or a TOML file. Out: how each tag and stage ended. It
may import `job`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
