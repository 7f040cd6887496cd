from .scenes import draw_posts as draw_posts
from .server import BoardServer as BoardServer
