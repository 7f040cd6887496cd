from .cautions import HeldOut as HeldOut
from .cautions import read_cautions as read_cautions
from .exploration import Exploration as Exploration
from .exploration import input_size as input_size
from .explore import explore_tag as explore_tag
