"""One polite client: its rate and connections, robots.txt, a browser for the page that needs it.

In: URLs. Out: bounded answers. It may import the modules of `imagetag` itself alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
