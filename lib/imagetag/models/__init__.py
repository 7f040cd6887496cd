"""Models by name with their weights, and what they say of pictures; served, as a SavedModel.

In: names, weights, pixels. Out: Keras models, logits, features. It may import `dataset` and what is
below it.

Importing it registers our own layers with Keras, so that a model that has some can be loaded.
"""

import lazy_loader

import imagetag.models.architectures  # noqa: F401 - registers them

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
