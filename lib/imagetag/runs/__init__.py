"""A trained model in storage, and what is known of it: its card, decision and evaluation.

In: storage, a tag and a run's name. Out: models, thresholds, metrics as stored. It may import
`features`, `stats`, `verdicts` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
