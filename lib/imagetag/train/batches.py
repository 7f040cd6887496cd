"""The Keras generator of `inputs`, for who looks for it where a model is trained."""

from imagetag.inputs import Batches

__all__ = ["Batches"]
