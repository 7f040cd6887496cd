"""Benchmarks: ratios of two things measured in one run, and simulations that stand alone."""

OF_THE_TABLE = (
    *("startup", "scrape", "memory", "uploads"),
    *("inputs", "predict", "tags", "growth"),
)
"""Those of `make bench`, which take a quarter of an hour on two processors."""

ALONE = (
    *("scale", "near_duplicates", "presets"),
    *("intervals", "contract", "out_of_fold", "verdicts", "audits", "shift"),
    *("few", "probe"),
)
"""Those that take longer, or measure what is no ratio of speeds."""
