"""Nothing slips into an image whose licence nobody has looked at, and each image has an SBOM."""

from __future__ import annotations

import json

import pytest

from tests.packages import IMAGES, NVIDIA, environment, licence, pins, sboms, unexpected


@pytest.mark.parametrize("lock", IMAGES.values())
def test_each_licence_is_one_that_is_permitted(lock: str) -> None:
    found = {name: unexpected(name) for name in pins(lock, environment())}
    others = {name: words for name, words in found.items() if words}
    cuda = {name: [NVIDIA] for name in others if name.startswith("nvidia-")}
    assert others == (cuda if lock == "train.txt" else {}), "see tests/packages.py"


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ("MIT", []),
        ("MIT OR Apache-2.0", []),
        ("(BSD-3-Clause AND Zlib)", []),
        ("GPL-3.0-only", ["GPL-3.0-only"]),
        ("none told", ["none", "told"]),
        ("MIT AND LGPL-2.1-or-later", ["LGPL-2.1-or-later"]),
    ],
)
def test_what_is_refused(told: str, refused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.packages.licence", lambda _: told)
    assert unexpected("a") == refused


def test_each_image_has_an_sbom_of_all_its_packages() -> None:
    found = {name: json.loads(text) for name, text in sboms()}
    assert {f"{name}.txt" for name in found} == set(IMAGES.values())
    for name, bom in found.items():
        assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
        there = {(each["name"], each["version"]) for each in bom["components"]}
        assert there == set(pins(f"{name}.txt", environment()).items())
        for each in bom["components"]:
            assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
            [told] = each["licenses"]
            words = told.get("expression") or told["license"].get("id") or told["license"]["name"]
            assert words == licence(each["name"])
