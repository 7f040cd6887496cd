"""What a plan is made of, for tests and benchmarks."""

from __future__ import annotations

from imagetag.plan.costs import Settings

SETTINGS = Settings(
    limit=500,
    negative_ratio=1.0,
    test_fraction=0.2,
    threshold_fraction=0.2,
    max_rate=5.0,
    scrape_pods=4,
    train_pods=2,
    min_precision=0.95,
    confidence=0.95,
)
