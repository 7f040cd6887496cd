"""What `tests.forked` imports before it forks: libraries, and nothing of ours."""

import gc
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # as jobs have it, and before TensorFlow

import boto3  # noqa: F401
import cleanlab  # noqa: F401
import jinja2  # noqa: F401
import keras  # noqa: F401
import pandas  # noqa: F401
import PIL.Image  # noqa: F401
import pydantic_settings  # noqa: F401
import rich.console  # noqa: F401
import scipy.signal  # noqa: F401
import seaborn  # noqa: F401
import sklearn.metrics  # noqa: F401
import structlog  # noqa: F401
import tensorflow  # noqa: F401

gc.freeze()  # none of it is garbage, and forks share its memory
