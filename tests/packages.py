"""The packages of the locks and of the images: versions, licences, and SBOMs of CycloneDX.

`make docs` writes the table of docs/licences.md, `make sbom` a file for each image. What a package
says of itself is its metadata's, where it is installed: of all but CUDA's, in development.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagetag import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = {
    "scrape": "scrape.txt",
    "scrape, BROWSER=1": "scrape-browser.txt",
    "train, DEVICE=cpu": "train-cpu.txt",
    "train": "train.txt",
}
"""The images, and the lock of each."""

PERMITTED = frozenset(
    [
        *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT"),
        *("MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
    ]
)
"""Licences that ask for no more than a notice, or, as the MPL, for the source of its own files."""

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
"""Of CUDA's packages, which are in the train image alone: NVIDIA's terms, redistributable."""

# What metadata says in other words than those of SPDX. "BSD" may be of two or three clauses.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Those whose metadata has the whole text, or none; told by the file LICENSE that they install.
_BY_THEIR_TEXT = {"cleanlab": "Apache-2.0", "namex": "Apache-2.0"}


def environment(python: str = "3.11.14", machine: str = "x86_64") -> dict[str, str]:
    """Return what markers are judged by: by default that of the images."""
    here = {name: str(value) for name, value in default_environment().items()}
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    versions = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    return {**here, **linux, **versions, "platform_machine": machine}


@cache
def lines(lock: str) -> list[Requirement]:
    """Return the packages of a lock, each with its version and where it is for."""
    text = (ROOT / "requirements" / lock).read_text()
    found = [line.rstrip(" \\") for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    return [Requirement(line) for line in found]


def applies(requirement: Requirement, where: Mapping[str, str], extra: str = "") -> bool:
    """Tell whether a requirement is one in an environment."""
    return requirement.marker is None or requirement.marker.evaluate({**where, "extra": extra})


def pins(lock: str, where: Mapping[str, str]) -> dict[str, str]:
    """Return what a lock installs in an environment: versions by names."""
    found: dict[str, str] = {}
    for one in lines(lock):
        if applies(one, where):
            [pin] = one.specifier
            name = canonicalize_name(one.name)
            assert pin.operator == "==" and name not in found, f"{lock}: {one}"  # noqa: PT018
            found[name] = pin.version
    return found


@cache
def licence(name: str) -> str:
    """Return a package's licence, in words of SPDX where its metadata's can be put so."""
    if name.startswith("nvidia-"):
        return NVIDIA
    if name in _BY_THEIR_TEXT:
        return _BY_THEIR_TEXT[name]
    told = metadata.metadata(name)
    if "License-Expression" in told:
        return told["License-Expression"]
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in told.get_all("Classifier") or []
        if each.startswith("License :: ")
    ]
    if classifiers:
        return " OR ".join(_SPDX.get(each, each) for each in classifiers)
    text = " ".join(told["License"].split()) if "License" in told else "none told"
    return _SPDX.get(text, text)


def unexpected(name: str) -> list[str]:
    """Return the licences of a package that are none of those permitted."""
    words = re.findall(r"[^\s()]+", licence(name))
    return [word for word in words if word not in {"AND", "OR", *PERMITTED}]


def table() -> str:
    """Return the packages of all images, as a table in Markdown."""
    packages = {image: pins(lock, environment()) for image, lock in IMAGES.items()}
    rows = ["| package | licence | images |", "| --- | --- | --- |"]
    for name in sorted(set().union(*packages.values())):
        there = [image for image, found in packages.items() if name in found]
        told = "all" if len(there) == len(IMAGES) else "; ".join(there)
        rows.append(f"| {name} | {licence(name)} | {told} |")
    return "\n".join(rows)


def sboms() -> Iterator[tuple[str, str]]:
    """Yield the name of each image's SBOM, and the SBOM: CycloneDX 1.6, as JSON."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    licences = LicenseFactory()
    for image, lock in IMAGES.items():
        found = pins(lock, environment())
        name = "imagetag-" + image.partition(",")[0]
        own = Component(
            name=name,
            version=__version__,
            type=ComponentType.CONTAINER,
            bom_ref=name,
            licenses=[licences.make_from_string(PROJECT["license"])],
        )
        bom = Bom()
        bom.metadata.component = own
        components = {
            package: Component(
                name=package,
                version=version,
                bom_ref=f"{package}=={version}",
                purl=PackageURL("pypi", None, package, version),
                licenses=[licences.make_from_string(licence(package))],
            )
            for package, version in found.items()
        }
        for component in components.values():
            bom.components.add(component)
            bom.register_dependency(component)
        bom.register_dependency(own, components.values())
        yield Path(lock).stem, JsonV1Dot6(bom).output_as_string(indent=2)


def main(folder: str) -> None:
    """Write the SBOMs of all images into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in sboms():
        path = Path(folder) / f"{name}.cdx.json"
        path.write_text(text + "\n")
        print(path)  # noqa: T201 - what it is for


if __name__ == "__main__":
    main(*sys.argv[1:])
