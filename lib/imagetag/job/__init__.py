"""What every job stands on: its settings, its heartbeats, its signals and exit codes.

In: a command line and `IMAGETAG_*` variables. Out: a job's function called with its settings, and
an exit code. It may import `dataset` and what is below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
