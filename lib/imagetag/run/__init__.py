"""All jobs one after the other, each as a process of its own, with one display of their progress.

In: settings of all jobs, from a command line or a TOML file. Out: how each tag and stage ended, and
the index page. It may import `embed`, `report`, `job` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
