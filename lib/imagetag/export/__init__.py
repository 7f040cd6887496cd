"""Trained models as files of other programs: TF Serving, ONNX Runtime, LiteRT, plain Keras.

In: runs in storage. Out: a file or a folder that has the models and what is known of their tags.
It may import `runs`, `models` and what is below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
