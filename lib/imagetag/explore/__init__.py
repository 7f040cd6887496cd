"""What is in a dataset: numbers, plots, shortcuts, cautions, and the input size to train at.

In: a dataset in storage. Out: a page of it, `explore.json`. It may import `dataset`, `job`, `pages`
and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
