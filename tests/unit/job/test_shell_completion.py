"""Tab completion in real shells: jobs, options, choices, and files where paths are taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagetag.job.shell_completion import SHELLS, completion
from jobs import settings_of
from jobs.cli import JOBS

# What is typed, and all that it may become.
TYPED = {
    "imagetag tr": ["train"],
    "imagetag help cur": ["curate"],
    "imagetag completion f": ["fish"],
    "imagetag train --mod": ["--model"],
    "imagetag train --no-aug": ["--no-augment"],
    "imagetag train --model vgg": ["vgg16", "vgg19"],
    "imagetag train --storage data --resize ": ["crop", "letterbox", "stretch"],
    "imagetag train --storage my-": ["my-data"],
    "imagetag train --weights my-": ["my-data", "my-weights.h5"],
    "imagetag train --tags fox --cache-folder my-": ["my-data"],
    "imagetag predict --input my-": ["my-data", "my-weights.h5"],
    "imagetag run --train.mod": ["--train.model"],
    "imagetag run --train.OPTION": [],
    "imagetag run --train.model mobilenetv3": ["mobilenetv3large", "mobilenetv3small"],
    "imagetag run --tags-file my-": ["my-data", "my-weights.h5"],
}

_ASK_BASH = """
source "$1"
COMP_WORDS=($2)
[[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
ask=$(complete -p imagetag | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$ask" imagetag "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
_ASK_FISH = "source $argv[1]; complete -C $argv[2]"
# Zsh completes only at a terminal, and lists nothing of one match: it is typed out.
_LOAD_ZSH = 'autoload -U compinit; compinit -D; eval "$(cat $1)"; print $_comps[imagetag]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "my-data").mkdir()
    (folder / "my-weights.h5").touch()
    imagetag = str(Path(sys.executable).with_name("imagetag"))
    for shell in SHELLS:
        with (folder / shell).open("w") as script:
            subprocess.run([imagetag, "completion", shell], stdout=script, check=True)
    return folder


def answer(shell: str, *arguments: str, cwd: Path) -> str:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    done = subprocess.run(
        [shell, *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("typed", TYPED)
def test_bash_completes(typed: str, folder: Path) -> None:
    found = answer("bash", "-c", _ASK_BASH, "bash", str(folder / "bash"), typed, cwd=folder)
    assert sorted(found.split()) == TYPED[typed]


@pytest.mark.parametrize("typed", TYPED)
def test_fish_completes(typed: str, folder: Path) -> None:
    found = answer("fish", "-c", _ASK_FISH, str(folder / "fish"), typed, cwd=folder)
    words = [line.partition("\t")[0].rstrip("/") for line in found.splitlines()]
    assert sorted(words) == TYPED[typed]


def test_zsh_takes_the_script(folder: Path) -> None:
    found = answer("zsh", "-f", "-c", _LOAD_ZSH, "zsh", str(folder / "zsh"), cwd=folder)
    assert found == "_shtab_imagetag\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_job_is_completed_in_each_shell(shell: str) -> None:
    script = completion(shell, {"train": settings_of("train")}, JOBS)
    assert all(job in script for job in JOBS)
    assert "fine-tune-blocks" in script


@pytest.mark.parametrize("argv", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_ends_with_2_and_those_there_are(argv: list[str]) -> None:
    imagetag = str(Path(sys.executable).with_name("imagetag"))
    done = subprocess.run(
        [imagetag, "completion", *argv], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "imagetag: say which shell: imagetag completion bash|zsh|fish\n"
