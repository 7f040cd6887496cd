from .browser import Unblocker as Unblocker
from .client import Answer as Answer
from .client import Client as Client
from .hosts import HttpError as HttpError
