from .audit_session import AuditSession as AuditSession
from .audit_session import open_audit as open_audit
from .called import Called as Called
from .called import Predictions as Predictions
from .called import read_predictions as read_predictions
