"""The search language of the local board."""

from __future__ import annotations

from typing import Any

import pytest

from imagetag.demo.posts import Post, PostIndex
from imagetag.demo.search import gelbooru_search


def post(post_id: int, tags: str, **fields: Any) -> Post:
    line = {
        "id": post_id,
        "file": f"{post_id}.png",
        "tags": tags.split(),
        "rating": "general",
        "width": 300,
        "height": 200,
        "md5": f"{post_id:032x}",
        "ext": "png",
    }
    return Post.model_validate(line | fields)


INDEX = PostIndex(
    [
        post(1, "fox tree", score=5),
        post(2, "fox robot blue_sky", rating="explicit"),
        post(5, "robot Blue_Sky_(day) re:zero", score=9, parent_id=2),
        post(7, "fate/stay_night a*b 1+1 :d", rating="questionable", width=900),
        post(9, "fox id:abc", rating="sensitive", score=5),
    ]
)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [9, 7, 5, 2, 1]),
        ("all", [9, 7, 5, 2, 1]),
        ("fox", [9, 2, 1]),
        ("FOX", [9, 2, 1]),
        ("fox robot", [2]),
        ("fox -robot", [9, 1]),
        ("-fox", [7, 5]),
        ("owl", []),
        ("fox owl", []),
        ("-owl", [9, 7, 5, 2, 1]),
        ("re:zero", [5]),
        ("fate/stay_night", [7]),
        (":d", [7]),
        ("1+1", [7]),
        ("id:5", [5]),
        ("id:4", []),
        ("id:<5", [2, 1]),
        ("id:<=5", [5, 2, 1]),
        ("id:>5", [9, 7]),
        ("id:>=5 id:<9", [7, 5]),
        ("-id:5", [9, 7, 2, 1]),
        ("id:", []),
        ("id:abc", [9]),  # no number: then it is a tag
        ("id:99999999999999999999", []),
        ("rating:safe", [5, 1]),
        ("rating:general", [5, 1]),
        ("rating:sensitive", [9]),
        ("rating:questionable", [7]),
        ("rating:explicit", [2]),
        ("-rating:explicit -rating:safe", [9, 7]),
        ("rating:nonsense", []),
        ("parent:2", [5, 2]),
        ("parent:1", [1]),
        ("-parent:2 fox", [9, 1]),
        ("md5:00000000000000000000000000000007", [7]),
        ("md5:nothing", []),
        ("width:>300", [7]),
        ("score:>4", [9, 5, 1]),
        ("score:5", [9, 1]),
        ("score:>=0", [9, 7, 5, 2, 1]),
        ("sort:score", [5, 9, 1, 7, 2]),
        ("sort:score:asc fox", [2, 1, 9]),
        ("sort:id:asc", [1, 2, 5, 7, 9]),
        ("fox sort:id:asc", [1, 2, 9]),
        ("sort:id", [9, 7, 5, 2, 1]),
        ("sort:nonsense", [9, 7, 5, 2, 1]),
        ("blue*", [5, 2]),
        ("*sky", [2]),
        ("*SKY*", [5, 2]),
        ("b*_sky", [2]),
        ("bl*_s*y", [2]),
        ("fox*fox", []),  # the two ends may not overlap
        ("-blue* -fox", [7]),
        ("*", [9, 7, 5, 2, 1]),
        ("a*b", [7]),  # a tag as it stands comes before the wildcard
        ("nothing*", []),
        ("-", [9, 7, 5, 2, 1]),
        ("fox\t\n robot", [2]),
    ],
)
def test_search(query: str, ids: list[int]) -> None:
    assert [found.id for found in gelbooru_search(INDEX, query)] == ids


def test_many_stars_cost_little() -> None:
    index = PostIndex([post(1, "a" * 5000)])
    assert gelbooru_search(index, "*a" * 2000 + "b") == []


def test_children_and_counts() -> None:
    assert INDEX.children == {2: [5]}
    assert INDEX.tag_counts["fox"] == 3
