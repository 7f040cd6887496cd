from .port import board_port as board_port
from .scenes import draw_posts as draw_posts
from .server import BoardServer as BoardServer
from .truth import score as score
from .truth import truth_of as truth_of
