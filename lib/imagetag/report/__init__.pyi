from .index import TagEntry as TagEntry
from .index import make_index as make_index
from .index import read_entry as read_entry
from .index import read_predictions as read_predictions
from .index import tags_of_leaderboard as tags_of_leaderboard
from .leaderboard import make_leaderboard as make_leaderboard
