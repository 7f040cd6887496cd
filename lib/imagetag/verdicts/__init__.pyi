from .verdicts import LABELS_BY as LABELS_BY
from .verdicts import Answer as Answer
from .verdicts import Verdict as Verdict
from .verdicts import Verdicts as Verdicts
from .verdicts import load_verdicts as load_verdicts
from .verdicts import new_verdict as new_verdict
from .verdicts import store_verdicts as store_verdicts
