from .overview import Overview as Overview
from .table import show as show
