from .saved_model import store_export as store_export
