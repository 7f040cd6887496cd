"""A page on this machine where a person says of pictures whether they have a tag.

In: pictures that a person is asked about, in storage. Out: a local server, and what was answered,
stored. It may import `runs`, `pages`, `verdicts` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
