"""The locks are what `pyproject.toml` asks for, as `make lock` writes them: told without network.

What a package needs its metadata says, where it is installed; all but CUDA's are, in development.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from itertools import pairwise

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packages import IMAGES, PROJECT, ROOT, applies, environment, lines, pins

LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))
# Of the Pythons that there are packages for, on the systems that images are built for and on ours.
ENVIRONMENTS = [
    environment(python, machine)
    for python in ("3.11.14", "3.12.9", "3.13.9")
    for machine in ("x86_64", "aarch64")
]
HERE = {name: str(value) for name, value in default_environment().items()}


@cache
def compiled() -> dict[str, list[str]]:
    """What `make lock` compiles each lock from: extras of the project, or a file."""
    text = (ROOT / "Makefile").read_text()
    found = re.findall(r"^\t\$\(UV_COMPILE\) (.*) -o requirements/(\S+)$", text, re.MULTILINE)
    return {lock: sources.split() for sources, lock in found}


def asked(lock: str) -> Iterator[Requirement]:
    """What a lock was compiled from."""
    words = compiled()[lock]
    for word in words:
        if word.endswith(".in"):
            for line in (ROOT / word).read_text().splitlines():
                if line and not line.startswith("#"):
                    yield Requirement(line)
    if "pyproject.toml" in words:
        extras = [after for word, after in pairwise(words) if word == "--extra"]
        groups = [PROJECT["dependencies"]]
        groups += [PROJECT["optional-dependencies"][extra] for extra in extras]
        yield from map(Requirement, (one for group in groups for one in group))


def test_make_lock_writes_every_lock() -> None:
    assert sorted(compiled()) == LOCKS
    constrained = [lock for lock, words in compiled().items() if "requirements/dev.txt" in words]
    assert sorted([*constrained, "dev.txt"]) == LOCKS


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(lines(lock))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_is_asked_for(lock: str) -> None:
    for where in ENVIRONMENTS:
        found = pins(lock, where)
        for wanted in asked(lock):
            if applies(wanted, where):
                assert found[canonicalize_name(wanted.name)] in wanted.specifier, wanted


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "dev.txt"])
def test_locks_agree_on_versions(lock: str) -> None:
    for where in ENVIRONMENTS:
        here, there = pins(lock, where), pins("dev.txt", where)
        assert {name: there[name] for name in here if name in there}.items() <= here.items()


@pytest.mark.parametrize("lock", ["dev.txt", *IMAGES.values()])
def test_a_lock_has_what_its_packages_need_and_no_more(lock: str) -> None:
    """A package that was taken out of pyproject.toml, or that a new version needs, is told here."""
    found = pins(lock, HERE)
    reached = needed(asked(lock), found)
    assert set(found) == reached


def needed(wanted: Iterable[Requirement], found: Mapping[str, str]) -> set[str]:
    """The packages that some need, with all that those need."""
    waiting = [(one, "") for one in wanted]
    reached: set[tuple[str, str]] = set()
    while waiting:
        one, extra = waiting.pop()
        name = canonicalize_name(one.name)
        if not applies(one, HERE, extra):
            continue
        assert name in found, f"{name} is needed"
        assert one.specifier.contains(found[name], prereleases=True), f"{one}: not {found[name]}"
        for own in ("", *one.extras):
            if (name, own) not in reached:
                reached.add((name, own))
                waiting += [(Requirement(text), own) for text in requires(name, found[name])]
    return {name for name, _ in reached}


def requires(name: str, version: str) -> list[str]:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        assert name.startswith("nvidia-"), f"{name} is not installed: make setup"
        return []
    assert found.version == version, f"{name} {found.version} is installed: make setup"
    return found.requires or []
