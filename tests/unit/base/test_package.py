"""`import imagetag` has all that docs/python.md shows, and loads none of it before it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import imagetag

NAMES: list[str] = dir(imagetag)
_HEAVY = ("boto3", "keras", "numpy", "pandas", "pydantic", "scipy", "seaborn", "tensorflow")


def test_importing_it_loads_nothing() -> None:
    script = (
        f"import sys, imagetag; print(sorted(sys.modules.keys() & set({_HEAVY})), dir(imagetag))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("[] ['Batches', ")


def test_functions_load_no_framework_before_they_need_it() -> None:
    names = "scrape_tag, curate_tag, explore_tag, train_tag, evaluate_tag"
    script = f"import sys; from imagetag import {names}, Training; print('keras' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_all_of_it_is_there() -> None:
    for name in NAMES:
        thing = getattr(imagetag, name)
        assert inspect.ismodule(thing) or thing.__name__ == name
    assert imagetag.train.Batches is imagetag.inputs.Batches is imagetag.Batches


def test_a_function_returns_what_is_there_too() -> None:
    for name in NAMES:
        if name.endswith("_tag"):
            returned = inspect.signature(getattr(imagetag, name)).return_annotation
            assert returned.removeprefix("Iterator[").removesuffix("]") in NAMES
