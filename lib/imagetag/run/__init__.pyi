from .file import read_file as read_file
from .file import template as template
from .pipeline import Pipeline as Pipeline
from .pipeline import Stage as Stage
from .pipeline import renamed as renamed
from .view import is_json as is_json
from .view import open_view as open_view
from .weights import check_imagenet as check_imagenet
