from .browser import Unblocker as Unblocker
from .hosts import HttpError as HttpError
from .http import Client as Client
