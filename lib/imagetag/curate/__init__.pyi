from .curate import curate_tag as curate_tag
