"""Choose a run's threshold on pictures kept for that, test it, and show where it fails.

In: a run in storage. Out: its decision, its figures, a page, labels that are probably wrong. It may
import `inputs`, `explore`, `runs`, `pages` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
