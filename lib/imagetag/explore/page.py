"""The page of an exploration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from imagetag.dataset import Picture
from imagetag.explore.cautions import HeldOut, cautions
from imagetag.explore.exploration import Exploration
from imagetag.explore.plots import aspect_ratio, class_balance, dimensions, file_size
from imagetag.explore.survey import Survey
from imagetag.layout import Layout
from imagetag.pages import (
    Figure,
    Plot,
    data_uri,
    environment,
    for_all_screens,
    picture_link,
    way,
)

THUMBNAIL_BYTES = 1_900_000  # of all thumbnails of a page, which base64 makes a third more of
_VEILED = frozenset({"questionable", "explicit"})


def exploration_figures(exploration: Exploration, survey: Survey) -> dict[str, Figure[Plot]]:
    """Draw what the exploration page shows, by the name of its file."""
    width, height, positive = survey.width, survey.height, survey.positive
    percentile = exploration.options.percentile
    typical = float(np.percentile(width, percentile)), float(np.percentile(height, percentile))
    size, ratio = exploration.input_size, exploration.aspect_ratio
    train, test = exploration.images["train"], exploration.images["test"]
    others = [(item.width, item.height) for item in exploration.sizes if item.kind != "recommended"]
    readable = environment().filters["size"]
    return {
        "dimensions": Figure(
            "Width and height",
            f"Scatter plot of height over width. The median is {exploration.width.median:,.0f} "
            f"wide and {exploration.height.median:,.0f} high; the recommended input is "
            f"{size.width} wide and {size.height} high.",
            "Both axes are logarithmic: the arrow keeps the shape while it scales down. Hollow: "
            "other sizes, as in the table below.",
            for_all_screens(
                lambda narrow: dimensions(
                    width,
                    height,
                    positive,
                    typical,
                    (size.width, size.height),
                    narrow,
                    others=others,
                )
            ),
        ),
        "aspect_ratio": Figure(
            "Aspect ratio",
            f"Histogram of width divided by height. The median is {ratio.median:.2f}; 90 % of the "
            f"pictures are between {ratio.p5:.2f} and {ratio.p95:.2f}.",
            "Each label is its own 100 %. What is beyond 5:1 is counted at the edge.",
            for_all_screens(lambda narrow: aspect_ratio(width, height, positive, narrow)),
        ),
        "file_size": Figure(
            "File size",
            f"Histogram of file sizes. The median is {readable(exploration.bytes.median)}; the "
            f"largest file has {readable(exploration.bytes.max)}.",
            "Logarithmic scale, files as they are stored.",
            for_all_screens(lambda narrow: file_size(survey.bytes, positive, narrow)),
        ),
        "class_balance": Figure(
            "Class balance",
            f"Bar chart. Train has {train['positive']:,} positive and {train['negative']:,} "
            f"negative pictures, test has {test['positive']:,} and {test['negative']:,}.",
            "Pictures of each label in each split.",
            for_all_screens(lambda narrow: class_balance(exploration.images, narrow)),
        ),
    }


def exploration_page(
    exploration: Exploration, figures: Mapping[str, Figure[Plot]], thumbnails: Mapping[str, bytes]
) -> str:
    """Return the page of an exploration, of less than 5 MB.

    Args:
        exploration: every number of the page.
        figures: the plots, in their order.
        thumbnails: JPEG bytes by md5, of `THUMBNAIL_BYTES` in all at the most; where one is
            missing, the page says so.

    """
    layout = Layout(exploration.tag)
    return (
        environment()
        .get_template("explore.html")
        .render(
            exploration=exploration,
            tag_page=way(layout.explore("report.html"), layout.index),
            cautions=cautions(
                exploration.dataset.negatives_marked_by,
                exploration.shortcuts,
                HeldOut.by_default(exploration.images["train"]),
            ),
            figures=figures,
            times=_times,
            with_options=_with_options,
            shot=lambda picture: _Shot.of(picture, exploration.tag, thumbnails.get(picture.md5)),
            veiled=any(
                picture.rating in _VEILED and picture.md5 in thumbnails
                for picture in exploration.pictures
            ),
        )
    )


@dataclass(frozen=True)
class _Shot:
    """A picture as the template needs it."""

    picture: Picture
    link: str | None
    image: str | None
    veiled: bool

    @classmethod
    def of(cls, picture: Picture, tag: str, thumbnail: bytes | None) -> _Shot:
        layout = Layout(tag)
        stored = layout.image(picture.split, picture.label, picture.md5, picture.ext)
        return cls(
            picture=picture,
            link=picture_link(layout.explore("report.html"), picture, stored),
            image=None if thumbnail is None else data_uri(thumbnail, "image/jpeg"),
            veiled=picture.rating in _VEILED,
        )


def _times(factor: float) -> str:
    """Return a factor in two digits or more."""
    digits = 0 if factor >= 10 else 1 if factor >= 1 else 2
    return f"{factor:,.{digits}f}\N{MULTIPLICATION SIGN}"


def _with_options(text: str) -> Markup:
    """Return advice with its options as code, which no line breaks."""
    return Markup(re.sub(r"(--[a-z-]+(?: crop)?)", r"<code>\1</code>", str(escape(text))))  # noqa: S704
