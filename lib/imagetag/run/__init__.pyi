from .file import template as template
from .file import with_file as with_file
from .outcome import Outcome as Outcome
from .outcome import tell as tell
from .pipeline_run import run_all as run_all
from .settings import PipelineSettings as PipelineSettings
from .view import is_json as is_json
