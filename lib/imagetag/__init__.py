"""Turn a list of imageboard tags into trained, evaluated image classifiers.

What docs/python.md shows is here, and the packages it is of: each is imported when it is first
asked for, so that `import imagetag` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
