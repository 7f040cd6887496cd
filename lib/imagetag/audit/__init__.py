"""What precision a run has on pictures of the user: some that it called the tag, judged at random.

In: files of `predict`, storage, a person's verdicts. Out: what they prove, stored as they come. It
may import `review`, `predict` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
