from .extractor import Extractor as Extractor
from .extractor import ExtractorRecord as ExtractorRecord
from .feature_store import FeatureStore as FeatureStore
from .feature_store import StoredFeatures as StoredFeatures
from .feature_store import rounded as rounded
from .stored_extractors import find_extractor as find_extractor
from .stored_extractors import mark_latest as mark_latest
from .stored_extractors import store_extractor as store_extractor
