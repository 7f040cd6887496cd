from .embed import embed_pictures as embed_pictures
from .pictures import Pictures as Pictures
from .pictures import count_of_tags as count_of_tags
from .pictures import find_pictures as find_pictures
