"""The drawn pictures are what their lines say, and the same for the same seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from PIL import ImageStat

from imagetag.demo import scenes
from imagetag.demo.scenes import draw_posts
from imagetag.imaging.images import inspect

CHARACTERS = ("robot", "fox", "owl", "ghost", "frog")
COUNT = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn")
    draw_posts(path, COUNT, seed=3)
    return path


@pytest.fixture(scope="module")
def posts(folder: Path) -> list[dict[str, Any]]:
    return read(folder)


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "posts.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    draw_posts(tmp_path / "one", 12, seed=5)
    draw_posts(tmp_path / "two", 12, seed=5)
    draw_posts(tmp_path / "other", 12, seed=6)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not contents(tmp_path / "one").keys() & contents(tmp_path / "other").keys() - {
        "posts.jsonl"
    }


def test_fewer_pictures_are_the_first_of_more(
    tmp_path: Path, folder: Path, posts: list[dict[str, Any]]
) -> None:
    draw_posts(tmp_path, 10, seed=3)
    assert read(tmp_path) == posts[:10]


def test_lines_describe_the_files(folder: Path, posts: list[dict[str, Any]]) -> None:
    assert len(posts) == COUNT
    for post in posts:
        data = (folder / post["file"]).read_bytes()
        info = inspect(data)
        assert (info.ext, info.width, info.height) == (post["ext"], post["width"], post["height"])
        assert hashlib.md5(data).hexdigest() == post["md5"]
        assert len(data) == post["size"]


def test_ids_rise_with_gaps(posts: list[dict[str, Any]]) -> None:
    ids = [post["id"] for post in posts]
    assert ids == sorted(set(ids))
    assert ids[-1] - ids[0] > COUNT


def test_sizes_and_formats_vary(posts: list[dict[str, Any]]) -> None:
    for post in posts:
        assert min(post["width"], post["height"]) >= 240
        assert max(post["width"], post["height"]) <= 900
        assert 0.65 < post["width"] / post["height"] < 1.53
    assert len({(post["width"], post["height"]) for post in posts}) > COUNT * 0.8
    assert {post["ext"] for post in posts} == {"jpg", "png", "webp"}


def test_every_character_is_in_about_forty_percent(posts: list[dict[str, Any]]) -> None:
    for name in CHARACTERS:
        share = sum(name in post["tags"] for post in posts) / COUNT
        assert 0.25 < share < 0.55, name


def test_tags_are_plain_and_tell_more_than_the_characters(posts: list[dict[str, Any]]) -> None:
    tags = [tag for post in posts for tag in post["tags"]]
    assert all(tag.replace("_", "").isalnum() and tag == tag.lower() for tag in tags)
    assert {"tree", "house", "star", "night", "highres", "lowres", "solo"} <= set(tags)


def test_most_ratings_are_general(posts: list[dict[str, Any]]) -> None:
    ratings = [post["rating"] for post in posts]
    assert set(ratings) == {"general", "sensitive", "questionable", "explicit"}
    assert ratings.count("general") > COUNT * 0.6


def test_variants_name_an_earlier_original_with_the_same_cast(
    posts: list[dict[str, Any]],
) -> None:
    by_id = {post["id"]: post for post in posts}
    variants = [post for post in posts if "parent_id" in post]
    assert len(variants) >= 3
    for post in variants:
        parent = by_id[post["parent_id"]]
        assert parent["id"] < post["id"]
        assert "parent_id" not in parent
        assert set(parent["tags"]) & set(CHARACTERS) == set(post["tags"]) & set(CHARACTERS)
        assert parent["rating"] == post["rating"]
        assert parent["md5"] != post["md5"]


def test_backgrounds_do_not_tell_who_is_in_front() -> None:
    brightness: dict[bool, dict[str, list[float]]] = {
        present: {name: [] for name in CHARACTERS} for present in (True, False)
    }
    for number in range(800):
        scene = scenes._new_scene(f"cast/{number}")
        empty = scenes._drawn(replace(scene, things=(), width=40, height=30)).convert("L")
        cast = {thing.name for thing in scene.things}
        for name in CHARACTERS:
            brightness[name in cast][name].append(ImageStat.Stat(empty).mean[0])
    for name in CHARACTERS:
        difference = fmean(brightness[True][name]) - fmean(brightness[False][name])
        assert abs(difference) < 9, name  # of 255; the standard error is 2.3
