"""Turn a list of imageboard tags into trained, evaluated image classifiers."""

__version__ = "0.1.0"
