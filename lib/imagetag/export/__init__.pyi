from .contents import read_contents as read_contents
from .export import export_tags as export_tags
from .saved_model import store_export as store_export
