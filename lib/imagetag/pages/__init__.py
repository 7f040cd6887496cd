"""Pages and plots: HTML files with their pictures in them and no request to anywhere.

In: what others found. Out: HTML and SVG. It may import `stats`, `dataset` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
