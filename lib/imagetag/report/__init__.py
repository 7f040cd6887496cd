"""The leaderboard over the runs of many tags, and the index page of a storage.

In: what evaluate stored of runs. Out: two pages, and the same as JSON. It may import `explore`,
`pages`, `verdicts` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
