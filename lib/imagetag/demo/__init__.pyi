from .protocols import Engine as Engine
from .scenes import draw_posts as draw_posts
from .server import BoardServer as BoardServer
