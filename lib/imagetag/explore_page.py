"""The page of an exploration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from imagetag import plots
from imagetag.exploration import Exploration
from imagetag.report import Figure, environment
from imagetag.survey import Survey

THUMBNAIL_BYTES = 2_200_000  # of all thumbnails of a page, which base64 makes a third more of


def exploration_figures(exploration: Exploration, survey: Survey) -> dict[str, Figure]:
    """Draw what the exploration page shows, by the name of its file."""
    width, height, positive = survey.width, survey.height, survey.positive
    percentile = exploration.options.percentile
    typical = float(np.percentile(width, percentile)), float(np.percentile(height, percentile))
    size, ratio = exploration.input_size, exploration.aspect_ratio
    train, test = exploration.images["train"], exploration.images["test"]
    readable = environment().filters["size"]
    return {
        "dimensions": Figure(
            "Width and height",
            f"Scatter plot of height over width. The median is {exploration.width.median:,.0f} "
            f"wide and {exploration.height.median:,.0f} high; the recommended input is "
            f"{size.width} wide and {size.height} high.",
            "Both axes are logarithmic: the arrow keeps the shape while it scales down.",
            plots.in_both_themes(
                lambda theme: plots.dimensions(
                    width, height, positive, typical, (size.width, size.height), theme
                )
            ),
        ),
        "aspect_ratio": Figure(
            "Aspect ratio",
            f"Histogram of width divided by height. The median is {ratio.median:.2f}; 90 % of the "
            f"pictures are between {ratio.p5:.2f} and {ratio.p95:.2f}.",
            "Each label is its own 100 %. What is beyond 5:1 is counted at the edge.",
            plots.in_both_themes(lambda theme: plots.aspect_ratio(width, height, positive, theme)),
        ),
        "file_size": Figure(
            "File size",
            f"Histogram of file sizes. The median is {readable(exploration.bytes.median)}; the "
            f"largest file has {readable(exploration.bytes.max)}.",
            "Logarithmic scale, files as they are stored.",
            plots.in_both_themes(lambda theme: plots.file_size(survey.bytes, positive, theme)),
        ),
        "class_balance": Figure(
            "Class balance",
            f"Bar chart. Train has {train['positive']:,} positive and {train['negative']:,} "
            f"negative pictures, test has {test['positive']:,} and {test['negative']:,}.",
            "Pictures of each label in each split.",
            plots.in_both_themes(lambda theme: plots.class_balance(exploration.images, theme)),
        ),
    }


def exploration_page(
    exploration: Exploration, figures: Mapping[str, Figure], thumbnails: Mapping[str, bytes]
) -> str:
    """Return the page of an exploration."""
    return (
        environment()
        .get_template("explore.html")
        .render(exploration=exploration, dataset=exploration.dataset, figures=figures)
    )
