"""The scrape image, built and run for real: on a base image made here, against a real S3 server.

The train image takes longer to build than a test may: its Dockerfile is held to rules in
tests/unit/project/test_container_files.py, and its jobs run here in a container of the same
settings, with this machine's TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import site
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import certifi
import pytest

from imagetag.layout import Layout
from imagetag.storage.opening import open_storage
from tests import manifests
from tests.certificates import certified
from tests.scripted import Reply, serving
from tests.unit.project.test_container_files import env as image_env

ROOT = Path(__file__).parents[2]
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
SUITE, PYTHON = "bookworm", (3, 11)
BASE, IMAGE = (f"localhost/{name}:test" for name in ("base", "imagetag-scrape"))
# The base is of the size of a slim Python image when what nobody reads is left out.
UNREAD = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale")
# Ordinary limits, as a container may not raise them; all rights are gone, and nothing is written
# but in memory under /scratch.
RUN = (
    *("--runtime", "runc", "run", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
    *("--network", "host", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/scratch"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
)

pytestmark = pytest.mark.timeout(1800)


class Engine:
    """Builds and runs images in a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options = ("--root", str(folder / "root"), "--runroot", str(folder / "run"))

    def call(
        self, program: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *self._options, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{program} {arguments}:\n{done.stdout[-3000:]}{done.stderr[-5000:]}"
            )
        return done

    def build(
        self, context: Path, dockerfile: Path, tag: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self.call(
            *("buildah", "bud", "--isolation", "chroot", "--layers", "-f", str(dockerfile)),
            *("-t", tag, *(option for value in arguments for option in ("--build-arg", value))),
            str(context),
            check=check,
        )

    def run(
        self, *arguments: str, image: str = IMAGE, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end, with this process's settings of storage."""
        return self.call("podman", *RUN, "--rm", *_aws(), *options, image, *arguments, check=False)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[str]:
        """Run beside; gives the container's id."""
        started = self.call("podman", *RUN, "--detach", *_aws(), IMAGE, *arguments)
        container = started.stdout.strip()
        try:
            yield container
        finally:
            self.call("podman", "rm", "--force", "--time", "0", container)

    def remove(self) -> None:
        self.call("podman", "rm", "--all", "--force", "--time", "0", check=False)
        self.call("buildah", "rm", "--all", check=False)
        # What is still mounted must not be removed with the folder.
        subprocess.run(["umount", self.folder / "root/overlay"], check=False, capture_output=True)
        shutil.rmtree(self.folder)


def _aws() -> list[str]:
    return [
        option
        for name in os.environ
        if name.startswith(("AWS_ENDPOINT", "AWS_ACCESS", "AWS_SECRET"))
        for option in ("--env", name)
    ]


def _further_certificates() -> str:
    """What this machine trusts beside what everybody does, as PEM: a proxy's, for example."""
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    everybodys = set(_only(certifi.where()))
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in _only(bundle) if der not in everybodys)


def _only(bundle: str | None) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if bundle:
        context.load_verify_locations(bundle)
    return context.get_ca_certs(binary_form=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine that has the base image."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"SKIPPED: no image is built, as {', '.join(missing)} is not installed")
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: no image is built, as making a base image needs root")
    engine = Engine(Path(tempfile.mkdtemp(prefix="images-")))
    try:
        _make_base(engine)
        yield engine
    finally:
        engine.remove()


def _make_base(engine: Engine) -> None:
    """Make an image of Debian's packages, unpacked: to configure them takes as long as all else."""
    container = engine.call("buildah", "from", "scratch").stdout.strip()
    base = Path(engine.call("buildah", "mount", container).stdout.strip())
    packages = ("apt", "ca-certificates", "python3", "python3-venv", "usr-is-merged")
    included = ("--include=?essential", f"--include={','.join(packages)}")
    subprocess.run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", *included, SUITE, base],
        check=True,
        capture_output=True,
        timeout=1200,
    )
    for folder in UNREAD:
        shutil.rmtree(base / folder)
    # What its packages would have done that is missed here: pip reads these, all start Python.
    certificates = sorted((base / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = "".join(path.read_text() for path in certificates)
    (base / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
    library = "/usr/lib/python{}.{}".format(*PYTHON)
    compiling = ("chroot", base, "python3", "-m", "compileall", "-q", library)
    subprocess.run(compiling, check=True, capture_output=True, timeout=1200)
    engine.call("buildah", "commit", "--quiet", "--rm", container, BASE)


@pytest.fixture(scope="module")
def context(engine: Engine) -> Path:
    """A copy of what goes into images, that can be changed."""
    folder = engine.folder / "context"
    folder.mkdir()
    for name in ("lib", "jobs", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dockerignore", "Dockerfile.scrape", "Dockerfile.train"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(engine: Engine, context: Path) -> Engine:
    """The scrape image, from this machine's package index."""
    index = os.environ.get("PIP_INDEX_URL", "")
    engine.build(context, context / "Dockerfile.scrape", IMAGE, *_arguments(index))
    return engine


def _arguments(index: str = "", certificates: str | None = None) -> list[str]:
    further = _further_certificates() if certificates is None else certificates
    return [
        f"BASE_IMAGE={BASE}",
        f"PIP_INDEX_URL={index}",
        f"CERTIFICATES={further}",
    ]


def test_it_is_small_and_has_no_compiler(built: Engine) -> None:
    found = json.loads(built.call("podman", "image", "inspect", IMAGE).stdout)[0]
    assert found["Size"] < 250e6
    assert found["Labels"]["org.opencontainers.image.title"] == "imagetag-scrape"
    assert found["Labels"]["org.opencontainers.image.revision"] == "unknown"
    script = (
        "for name in gcc g++ cc make pip; do command -v $name && exit 1; done; "
        "python -c 'import tensorflow' 2>/dev/null && exit 2; python -c 'import pip' 2>/dev/null "
        "&& exit 3; id -u; touch /opt/x /x 2>/dev/null; touch /scratch/x && echo written"
    )
    options = ("--entrypoint", "/bin/sh")
    done = built.run("-c", script, options=options)
    assert (done.stdout, done.returncode) == ("10001\nwritten\n", 0)


def test_the_command_is_the_entry_point(built: Engine, tmp_path: Path) -> None:
    assert built.run("--version").stdout.startswith("imagetag ")
    assert built.run().stdout.startswith("usage: imagetag JOB")
    # What can be judged without TensorFlow is judged first: here it is a storage with a dataset.
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "dataset.json").write_text("{}")
    tmp_path.chmod(0o755)
    stored = ("--volume", f"{tmp_path}:/data:ro")
    other = built.run("train", "--storage", "/data", "--tags", "fox", options=stored)
    assert other.returncode == 2
    assert "run this job in the image that has it" in other.stderr


def test_a_change_of_the_code_makes_only_the_code_anew(built: Engine, context: Path) -> None:
    with (context / "jobs" / "cli.py").open("a") as file:
        file.write("# changed\n")
    index = os.environ.get("PIP_INDEX_URL", "")
    done = built.build(
        context, context / "Dockerfile.scrape", "localhost/changed:test", *_arguments(index)
    )
    assert "bin/pip" in done.stdout
    assert "Collecting" not in done.stdout


def test_the_index_and_the_certificates_are_those_that_are_given(
    engine: Engine, context: Path, tmp_path: Path
) -> None:
    certificate, tls = certified(tmp_path)
    with serving(lambda _: Reply(status=404), tls) as server:
        arguments = _arguments(f"{server.url}/simple", certificate.read_text())
        done = engine.build(
            context, context / "Dockerfile.scrape", "localhost/none:test", *arguments, check=False
        )
    assert done.returncode != 0
    assert "No matching distribution found" in done.stderr, done.stderr[-2000:]
    assert server.requests
    assert server.requests[0].path.startswith("/simple/")


def test_sigterm_reaches_python(built: Engine) -> None:
    with built.running("board", "--posts", "20", "--port", "0") as container:
        _wait_for(built, container, '"serving"')
        built.call("podman", "stop", "--time", "100", container)
        assert _exit_code(built, container) == 143, "it was killed"
        assert "stopped by SIGTERM" in _log(built, container)


def test_sigterm_is_not_lost_while_it_starts(built: Engine) -> None:
    script = (
        "import os, signal, sys\n"
        "sys.argv = ['imagetag', 'slow']\n"
        "import jobs.cli as cli\n"
        "cli.JOBS['slow'] = ''\n"
        "open('/scratch/slow.py', 'w').write('import time; print(1, flush=True); time.sleep(99)')\n"
        "import jobs; jobs.__path__.append('/scratch')\n"
        "cli.main()\n"
    )
    container = built.call(
        "podman", *RUN, "--detach", "--entrypoint", "/opt/venv/bin/python", IMAGE, "-c", script
    ).stdout.strip()
    try:
        _wait_for(built, container, "^1$")
        built.call("podman", "stop", "--time", "100", container)
        assert _exit_code(built, container) == 143
    finally:
        built.call("podman", "rm", "--force", "--time", "0", container)


def _log(engine: Engine, container: str) -> str:
    done = engine.call("podman", "logs", container)
    return done.stdout + done.stderr


def _exit_code(engine: Engine, container: str) -> int:
    return int(
        engine.call("podman", "inspect", "--format", "{{.State.ExitCode}}", container).stdout
    )


def _wait_for(engine: Engine, container: str, pattern: str) -> str:
    """Wait until a line of its log has the pattern; gives what was found."""
    for _ in range(1000):
        if found := re.search(pattern, _log(engine, container), re.MULTILINE):
            return found[0]
        time.sleep(0.2)
    raise AssertionError(_log(engine, container))


@pytest.mark.skipif(
    sys.version_info[:2] != PYTHON,
    reason=f"SKIPPED: training in a container takes this machine's packages of Python {PYTHON}",
)
def test_the_pods_of_a_laptop_make_a_classifier(
    built: Engine, s3_bucket: str, tmp_path: Path
) -> None:
    """What the overlay `local` runs in each pod: storage is all that they share."""
    found = manifests.built("local")
    (tmp_path / "tags.txt").write_text(manifests.configmap(found, "tags")["tags.txt"])
    tmp_path.chmod(0o755)
    smaller = {
        "IMAGETAG_STORAGE": f"{s3_bucket}/tags",
        "IMAGETAG_ALLOW_PRIVATE_HOSTS": "true",
        "IMAGETAG_LIMIT": "48",
        "IMAGETAG_IMAGE_SIZE": "67x67",
        "IMAGETAG_EPOCHS": "2",
        "IMAGETAG_EXPORT": "false",
        "IMAGETAG_CACHE_MEMORY": "67108864",
    }
    packages = {
        **image_env("Dockerfile.train"),
        "PATH": "/opt/venv/bin:/usr/bin:/bin",
        "PYTHONPATH": "/opt/imagetag:/opt/packages",
    }

    def pod(stage: str, index: int, **others: str) -> str:
        """Run the pod of an index to its end; returns its log."""
        spec = manifests.jobs(found)[stage]["spec"]
        assert index < spec["completions"]
        (container,) = spec["template"]["spec"]["containers"]
        values = manifests.environment(found, container)
        del values["AWS_ENDPOINT_URL_S3"]  # the server of this test, instead
        values |= {"JOB_COMPLETION_INDEX": str(index), **smaller, **others}
        options = ["--volume", f"{tmp_path}:/etc/imagetag:ro"]
        if stage != "scrape":
            values |= packages
            options += ["--volume", f"{site.getsitepackages()[0]}:/opt/packages:ro"]
        options += [option for pair in values.items() for option in ("--env", "=".join(pair))]
        done = built.run(*container["args"], options=options)
        assert done.returncode == 0, done.stderr
        return done.stderr

    with built.running("board", "--posts", "240", "--port", "0") as container:
        url = _wait_for(built, container, r"^http://127\.0\.0\.1:\d+$")
        for index in (0, 1):
            pod("scrape", index, IMAGETAG_BOARD=f"gelbooru02+{url}", IMAGETAG_MAX_RATE="1000")
    storage = open_storage(f"{s3_bucket}/tags")
    assert all(storage.stat(Layout(tag).dataset) for tag in ("robot", "fox"))
    for stage in ("explore", "train", "evaluate"):
        log = pod(stage, 1)  # the second pod has the second tag
        assert '"fox"' in log
        assert '"robot"' not in log
    layout = Layout("fox")
    run = storage.read(layout.latest).decode().strip()
    assert storage.stat(layout.run(run, "evaluation.json"))
    assert not storage.stat(Layout("robot").latest)
