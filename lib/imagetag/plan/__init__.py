"""What a pipeline will take, before anything is fetched: requests, time, bytes and money.

In: a board's counts, rates of earlier work, prices. Out: a table. It may import `scrape`, `status`
and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
