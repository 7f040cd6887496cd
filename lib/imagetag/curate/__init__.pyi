from .curate import curate_tag as curate_tag
from .seen import Seen as Seen
