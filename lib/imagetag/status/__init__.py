"""Where each tag in storage stands: what is complete, under way, failed and why.

In: markers and heartbeats in storage. Out: a table. It may import `job`, `verdicts` and what
is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
