"""The scripts of the manifests, chain.sh and deploy.sh, on a cluster that is a folder of Jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import manifests
from tests.ended import log_lines
from tests.manifests import K8S, STAGES, Manifest, built, deploy, stages_of

# Answers as kubectl does, from jobs/NAME.json, which may be a pod too. What a Job becomes once it
# is started is in next/NAME.json. The command that is named in the file hangs never ends.
# Expressions are evaluated, and overlays built, by the real kubectl, which needs no cluster for
# that: once each, as many tests ask the same. Python starts without what is installed beside it.
FAKE = """#!{python} -IS
import hashlib, json, os, pathlib, sys
state, known = pathlib.Path({state!r}), pathlib.Path({known!r})
arguments = sys.argv[1:]
with open(state / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
verb = arguments[0]
hangs = state / "hangs"
if hangs.exists() and hangs.read_text() == verb:
    import signal
    (state / "pid").write_text(str(os.getpid()))
    signal.pause()
def ask(command, key, given=None):
    file = known / hashlib.sha256(json.dumps([key, str(given)]).encode()).hexdigest()
    if not file.exists():
        import subprocess
        command = [{kubectl!r}, *command]
        environment = {{**os.environ, "KUBECONFIG": os.devnull}}
        done = subprocess.run(command, env=environment, input=given, stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(done.returncode)
        part = file.with_suffix(f".{{os.getpid()}}")
        part.write_bytes(done.stdout)
        part.replace(file)
    sys.stdout.buffer.write(file.read_bytes())
if verb == "kustomize":
    folder = pathlib.Path(arguments[1])
    root = next(parent for parent in folder.parents if parent.name == "k8s")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    tree = [[str(path.relative_to(root)), path.read_text()] for path in files]
    ask(arguments, [str(folder.relative_to(root)), tree])
    sys.exit(0)
down = state / "down"
if down.exists():
    left = int(down.read_text()) - 1
    down.write_text(str(left)) if left else down.unlink()
    sys.exit("Unable to connect to the server")
if verb == "apply":
    stage = arguments[arguments.index("-l") + 1].partition("=")[2]
    if any(name.startswith("--dry-run") for name in arguments):
        changed = (state / "changed").read_text().split() if (state / "changed").exists() else []
        if stage in changed:
            sys.exit(f'The Job "{{stage}}" is invalid: spec.template: field is immutable')
        if (state / "broken").exists():
            sys.exit("error: no space left in etcd")
    sys.exit(0)
name = arguments[2]
job = state / "jobs" / (name + ".json")
if verb == "delete":
    if (state / "refused").exists():
        sys.exit((state / "refused").read_text())
    job.unlink(missing_ok=True)
if verb == "get" and job.exists():
    form = next(item for item in arguments if item.startswith("jsonpath=") or item.startswith("{{"))
    form = form if form.startswith("jsonpath=") else "jsonpath=" + form
    ask(["label", "--local", "-f", "-", "a=b", "-o", form], form, job.read_bytes())
if verb == "patch":
    if not job.exists():
        sys.exit(f'Error from server (NotFound): jobs.batch "{{name}}" not found')
    following = state / "next" / (name + ".json")
    if following.exists():
        following.replace(job)
"""


class Cluster:
    def __init__(self, folder: Path, known: Path) -> None:
        self.folder = folder
        for name in ("jobs", "next", "bin"):
            (folder / name).mkdir(parents=True)
        self.fake = folder / "bin" / "kubectl"
        places = {"python": sys.executable, "state": str(folder), "known": str(known)}
        self.fake.write_text(FAKE.format(kubectl=manifests.kubectl(), **places))
        self.fake.chmod(0o755)

    def put(
        self, name: str, where: str = "jobs", *, suspend: bool = False, **status: object
    ) -> None:
        job: Manifest = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"suspend": suspend, "template": {"spec": {}}},
            "status": status,
        }
        (self.folder / where / f"{name}.json").write_text(json.dumps(job))

    def put_pod(self, name: str, created: str, *, image: str = "", phase: str = "Running") -> None:
        pod: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"containers": [{"name": "s3", "image": image}]},
            "status": {"phase": phase},
        }
        (self.folder / "jobs" / f"{name}.json").write_text(json.dumps(pod))

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[0] == verb]

    def patched(self) -> list[str]:
        """The Jobs that were started, in order, once each."""
        return list(dict.fromkeys(call[2] for call in self.calls("patch")))

    def start(self, *shell: str, **variables: str) -> subprocess.Popen[str]:
        """Start the chain with the settings that its pod has in the overlay `local`."""
        container = built("local")
        (spec,) = manifests.jobs(container)["chain"]["spec"]["template"]["spec"]["containers"]
        values = manifests.environment(container, spec)
        return subprocess.Popen(
            [*(shell or ("sh",)), K8S / "base" / "chain.sh"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **values,
                "PATH": f"{self.fake.parent}:{os.environ['PATH']}",
                "TMPDIR": str(self.folder),
                "CHAIN_NAMESPACE": "pictures",
                "CHAIN_PAUSE": "0",
                "CHAIN_PATIENCE": "3",
                **variables,
            },
        )

    def chain(self, *shell: str, **variables: str) -> tuple[int, list[dict[str, str]]]:
        """Let the chain run to its end; returns its exit code and its log."""
        with self.start(*shell, **variables) as process:
            said, complaints = process.communicate(timeout=120)
        assert not complaints
        assert not list(self.folder.glob("tmp.*")), "its folder for notes is left"
        return process.returncode, log_lines(said)


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Manifest:
    return {"type": kind, "status": status, "reason": reason, "message": message}


COMPLETE = [condition("SuccessCriteriaMet"), condition("Complete", "CompletionsReached")]
FAILED_INDEXES = [
    condition("FailureTarget", "FailedIndexes", "Job has failed indexes"),
    condition("Failed", "FailedIndexes", "Job has failed indexes"),
]


@pytest.mark.parametrize("script", ["deploy.sh", "undeploy.sh", "base/chain.sh"])
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    program = shutil.which("shellcheck")
    if not program:
        pytest.skip("SKIPPED: the scripts are not linted, as shellcheck is not installed")
    done = subprocess.run([program, K8S / script], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kubectl has answered."""
    return tmp_path_factory.mktemp("known")


@pytest.fixture
def cluster(tmp_path: Path, known: Path) -> Cluster:
    """All stages are there, and each is complete once it is started."""
    made = Cluster(tmp_path / "cluster", known)
    for name in STAGES:
        made.put(name, suspend=name != "scrape", conditions=[condition("Suspended")])
        made.put(name, "next", conditions=COMPLETE)
    return made


# chain.sh


SHELLS = ["sh", "busybox"]  # Debian's, and that of the chain's image


def shell(name: str) -> list[str]:
    if not shutil.which(name):
        pytest.skip(f"SKIPPED: the chain is not run by {name}, as it is not installed")
    return [name] if name == "sh" else [name, "sh"]


@pytest.mark.parametrize("name", SHELLS)
def test_the_chain_starts_one_stage_after_the_other(name: str, cluster: Cluster) -> None:
    code, lines = cluster.chain(*shell(name))
    assert code == 0
    told = [(line["stage"], line["event"]) for line in lines]
    expected = []
    for name in STAGES:
        expected += [(name, "started, waiting for it"), (name, "complete")]
    assert told == [*expected, ("", "all stages are complete")]
    assert cluster.patched() == list(STAGES)
    for call in cluster.calls("patch"):
        assert json.loads(call[call.index("--patch") + 1]) == {"spec": {"suspend": False}}


def test_no_stage_is_started_before_the_one_before_is_complete(cluster: Cluster) -> None:
    # Scrape is under way, and stays so: explore must not be touched.
    (cluster.folder / "next" / "scrape.json").unlink()
    cluster.put("scrape", active=2, conditions=[condition("Complete", status="False")])
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["sh", K8S / "base" / "chain.sh"],
            check=False,
            timeout=3,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{cluster.fake.parent}:{os.environ['PATH']}",
                "CHAIN_STAGES": "scrape explore",
                "CHAIN_START": "{}",
                "CHAIN_FAILED_TAGS": "stop",
                "CHAIN_PAUSE": "0.2",
            },
        )
    assert cluster.patched() == ["scrape"]


def test_a_failed_stage_stops_the_chain_and_says_which_and_what_waits(cluster: Cluster) -> None:
    cluster.put("explore", "next", conditions=FAILED_INDEXES, failedIndexes="1,3-5")
    code, lines = cluster.chain()
    assert code == 3
    assert cluster.patched() == ["scrape", "explore"]
    assert lines[-1]["level"] == "error"
    for text in (
        "explore failed: FailedIndexes: Job has failed indexes (indexes 1,3-5)",
        "not started: train evaluate",
        "kubectl logs -n pictures",
        "component=explore",
        "kubectl delete jobs --all -n pictures --cascade=foreground",
        "apply again",
    ):
        assert text in lines[-1]["event"]


def test_applied_again_the_chain_goes_on_where_it_stopped(cluster: Cluster) -> None:
    cluster.put("scrape", conditions=COMPLETE)
    cluster.put("explore", conditions=COMPLETE)
    code, _ = cluster.chain()
    assert code == 0
    assert cluster.patched() == ["train", "evaluate"]  # complete ones are left alone


def test_a_stage_that_was_suspended_again_is_started_again(cluster: Cluster) -> None:
    cluster.put("scrape", "next", suspend=False, active=1)
    fake = cluster.fake.read_text()
    # The second time that it is started, it gets done.
    done = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "scrape"}}
    state = json.dumps({**done, "status": {"conditions": COMPLETE}})
    again = f'\n    elif name == "scrape":\n        job.write_text({state!r})\n'
    cluster.fake.write_text(fake.rstrip() + again)
    code, lines = cluster.chain()
    assert code == 0
    assert [call[2] for call in cluster.calls("patch")].count("scrape") == 2
    started = [line for line in lines if line["event"].startswith("started")]
    assert len(started) == len(STAGES)


def test_told_to_continue_it_leaves_failed_tags_behind_and_says_so_at_the_end(
    cluster: Cluster,
) -> None:
    cluster.put("scrape", "next", conditions=FAILED_INDEXES, failedIndexes="1")
    code, lines = cluster.chain(CHAIN_FAILED_TAGS="continue")
    assert code == 3
    assert cluster.patched() == list(STAGES)
    assert "scrape failed: FailedIndexes" in lines[-1]["event"]
    assert "(indexes 1)" in lines[-1]["event"]


def test_told_to_continue_it_stops_all_the_same_where_settings_are_wrong(cluster: Cluster) -> None:
    wrong = [condition("Failed", "PodFailurePolicy", 'Container "scrape" exited with 2\n\tno | go')]
    cluster.put("scrape", "next", conditions=wrong)
    code, lines = cluster.chain(CHAIN_FAILED_TAGS="continue")
    assert code == 3
    assert cluster.patched() == ["scrape"]
    assert 'scrape failed: PodFailurePolicy: Container "scrape" exited with 2' in lines[-1]["event"]


def test_a_stage_that_is_not_there_is_named(cluster: Cluster) -> None:
    (cluster.folder / "jobs" / "explore.json").unlink()
    code, lines = cluster.chain()
    assert code == 2
    assert lines[-1]["event"] == "there is no Job explore: apply again"


def test_kubernetes_may_be_away_for_a_while(cluster: Cluster) -> None:
    (cluster.folder / "down").write_text("2")
    code, lines = cluster.chain()
    assert code == 0
    assert lines[0]["event"].startswith("Kubernetes does not answer: Unable to connect")


def test_kubernetes_may_not_be_away_for_ever(cluster: Cluster) -> None:
    (cluster.folder / "down").write_text("1000")
    code, _ = cluster.chain()
    assert code == 75
    assert not (cluster.folder / "calls").read_text().count("patch")


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize("verb", ["get", "patch", "wait"])
def test_sigterm_ends_the_chain_whatever_it_waits_for(
    verb: str, name: str, cluster: Cluster
) -> None:
    (cluster.folder / "next" / "scrape.json").unlink()  # it is under way, and stays so
    (cluster.folder / "hangs").write_text(verb)
    with cluster.start(*shell(name)) as process:
        note = cluster.folder / "pid"
        while not (note.exists() and note.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 143
    # Nothing is left beside it, once init has seen it end.
    status = Path("/proc", note.read_text(), "stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)


def test_the_chain_says_that_the_storage_was_emptied(cluster: Cluster) -> None:
    cluster.put("scrape", conditions=COMPLETE, completionTime="2026-05-01T09:59:59Z")
    cluster.put_pod("s3-0", "2026-05-01T10:00:00Z")
    code, lines = cluster.chain()
    assert code == 3
    assert not [call for call in cluster.calls("get") if "explore" in call]
    assert "scrape was complete before the pod s3-0 was made" in lines[-1]["event"]
    assert "make deploy again" in lines[-1]["event"]


def test_the_chain_goes_on_where_the_storage_is_as_old_as_the_work(cluster: Cluster) -> None:
    for name in STAGES:
        cluster.put(name, conditions=COMPLETE, completionTime="2026-05-01T10:00:00Z")
    cluster.put_pod("s3-0", "2026-05-01T10:00:00Z")
    code, _ = cluster.chain()
    assert code == 0


# deploy.sh


def applied(cluster: Cluster) -> list[str]:
    """The selectors that were applied, in order; not those that were only tried."""
    return [
        call[call.index("-l") + 1].removeprefix("imagetag/stage=")
        for call in cluster.calls("apply")
        if "--dry-run=server" not in call
    ]


def deleted(cluster: Cluster) -> list[str]:
    for call in cluster.calls("delete"):
        assert "--cascade=foreground" in call  # its pods are gone before others take their names
        assert call[call.index("-n") + 1] == "imagetag"
    return [call[2] for call in cluster.calls("delete")]


def bring(cluster: Cluster, tmp_path: Path, overlay: str = "many-tags", **others: str) -> str:
    given = {"SET": BUCKET, "REGISTRY": REGISTRY, **others}
    done = deploy(tmp_path, "apply", OVERLAY=overlay, KUBECTL=str(cluster.fake), **given)
    assert done.returncode == 0, done.stderr
    return done.stdout


REST = "!imagetag/stage"
BUCKET = "common.IMAGETAG_STORAGE=s3://pictures/tags"
REGISTRY = "registry.example/team"
BARE = ("many-tags", "many-nodes", "kueue", "jobset")  # whose images are of no registry
ROLE = "arn:aws:iam::123456789012:role/imagetag"


@pytest.fixture
def empty(tmp_path: Path, known: Path) -> Cluster:
    return Cluster(tmp_path / "cluster", known)


def test_deploy_makes_everything(empty: Cluster, tmp_path: Path) -> None:
    bring(empty, tmp_path)
    assert applied(empty) == [REST, *stages_of("many-tags"), "chain"]
    for call in empty.calls("apply"):
        assert "--server-side" in call  # 10,000 tags would not fit into kubectl's annotation


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """What prints how imagetag was called, in its place."""
    script = """#!{python}
import json, os, sys
told = dict(os.environ)
for place, argument in enumerate(sys.argv):
    if argument == "--tags-file":
        told["tags"] = open(sys.argv[place + 1]).read()
print(json.dumps([sys.argv[1:], told]))
"""
    fake = tmp_path / "imagetag"
    fake.write_text(script.format(python=sys.executable))
    fake.chmod(0o755)
    return fake


@pytest.mark.parametrize("name", ["latest", "WD-tagger-448x448-0a1b2c3d"])
def test_a_plan_with_a_network_in_storage_is_of_that_one(
    name: str, empty: Cluster, tmp_path: Path, fake: Path
) -> None:
    programs = {"KUBECTL": str(empty.fake), "IMAGETAG": str(fake)}
    extractor = f"embed.IMAGETAG_EXTRACTOR={name}"
    done = deploy(tmp_path, "plan", OVERLAY="many-tags", TAGS="fox", SET=extractor, **programs)
    assert done.returncode == 0, done.stderr
    _, told = json.loads(done.stdout)
    assert told["IMAGETAG_FEATURES"] == name
    assert "IMAGETAG_MODEL" not in told, "which imagetag plan finds out"


def test_a_plan_is_of_the_overlays_settings_and_applies_nothing(
    empty: Cluster, tmp_path: Path, fake: Path
) -> None:
    done = deploy(
        *(tmp_path, "plan"),
        OVERLAY="many-tags",
        KUBECTL=str(empty.fake),
        IMAGETAG=str(fake),
        TAGS="re:zero it's 100%",
        PODS="3",
        SET=f"{BUCKET} scrape.IMAGETAG_SINCE=2024-01-31 scrape.IMAGETAG_BLOCKED_TAGS=a:b,c "
        "embed.IMAGETAG_EXTRACTOR=mobilenet evaluate.IMAGETAG_MIN_PRECISION=0.9",
    )
    assert done.returncode == 0, done.stderr
    arguments, told = json.loads(done.stdout)
    assert arguments[0] == "plan"
    assert arguments[3:] == ["--train-pods", "3", "--embed-pods", "3"]
    assert told["tags"].splitlines() == ["re:zero", "it's", "100%"]
    expected = {
        "IMAGETAG_STORAGE": "s3://pictures/tags",
        "IMAGETAG_BOARD": "safebooru",
        "IMAGETAG_SHARD_COUNT": "3",
        "IMAGETAG_SINCE": "2024-01-31",
        "IMAGETAG_BLOCKED_TAGS": "a:b,c",
        "IMAGETAG_FEATURES": "latest",
        "IMAGETAG_MODEL": "mobilenet",
        "IMAGETAG_MIN_PRECISION": "0.9",
    }
    assert {name: told.get(name) for name in expected} == expected
    assert "IMAGETAG_TAGS_FILE" not in told  # it is a path in pods
    assert {call[0] for verb in ("kustomize", "apply", "get") for call in empty.calls(verb)} == {
        "kustomize"
    }


def test_a_plan_without_imagetag_says_how_to_get_it(empty: Cluster, tmp_path: Path) -> None:
    done = deploy(tmp_path, "plan", OVERLAY="local", KUBECTL=str(empty.fake), TAGS="fox")
    assert done.returncode == 2
    assert "make setup" in done.stderr
    assert done.stdout == ""


def test_deploy_leaves_alone_what_is_done_or_under_way(empty: Cluster, tmp_path: Path) -> None:
    empty.put("scrape", conditions=COMPLETE)
    empty.put("explore", conditions=COMPLETE)
    empty.put("embed", conditions=COMPLETE)
    empty.put("train", suspend=False, active=2)
    empty.put("evaluate", suspend=True, conditions=[condition("Suspended")])
    bring(empty, tmp_path)
    # To apply train would suspend it again. Evaluate has not begun, and can still be changed.
    assert applied(empty) == [REST, "evaluate", "chain"]
    assert deleted(empty) == ["chain"]


def test_deploy_makes_anew_what_failed_and_what_comes_after(empty: Cluster, tmp_path: Path) -> None:
    empty.put("scrape", conditions=COMPLETE)
    empty.put("explore", conditions=FAILED_INDEXES, failedIndexes="1")
    empty.put("embed", conditions=COMPLETE)
    empty.put("train", conditions=COMPLETE)
    empty.put("evaluate", suspend=True)
    bring(empty, tmp_path)
    assert deleted(empty) == ["chain", "explore", "embed", "train", "evaluate"]
    assert applied(empty) == [REST, "explore", "embed", "train", "evaluate", "chain"]


def test_deploy_makes_anew_what_has_other_settings(empty: Cluster, tmp_path: Path) -> None:
    for name in stages_of("many-tags"):
        empty.put(name, conditions=COMPLETE)
    (empty.folder / "changed").write_text("train")
    bring(empty, tmp_path)
    assert deleted(empty) == ["chain", "train", "evaluate"]
    assert applied(empty) == [REST, "train", "evaluate", "chain"]


def test_deploy_stops_at_an_error_that_it_does_not_know(empty: Cluster, tmp_path: Path) -> None:
    empty.put("scrape", conditions=COMPLETE)
    (empty.folder / "broken").touch()
    values = {"OVERLAY": "many-tags", "SET": BUCKET, "REGISTRY": REGISTRY}
    done = deploy(tmp_path, "apply", KUBECTL=str(empty.fake), **values)
    assert done.returncode == 1
    assert "no space left in etcd" in done.stderr
    assert deleted(empty) == ["chain"]
    assert applied(empty) == [REST]


@pytest.mark.parametrize(
    ("refusal", "code", "lines"),
    [
        ("error: timed out waiting for the condition on jobs/chain", 75, 2),
        ("Error from server (Forbidden)", 1, 1),
    ],
)
def test_deploy_says_which_job_it_waits_for_in_vain(
    refusal: str, code: int, lines: int, empty: Cluster, tmp_path: Path
) -> None:
    (empty.folder / "refused").write_text(refusal)
    values = {"OVERLAY": "many-tags", "SET": BUCKET, "REGISTRY": REGISTRY}
    done = deploy(tmp_path, "apply", KUBECTL=str(empty.fake), **values)
    assert done.returncode == code
    first, *rest = done.stderr.splitlines()
    assert first == refusal
    assert len(rest) == lines - 1
    assert all(
        "the Job chain is not gone: see kubectl get pods -n imagetag" in line for line in rest
    )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "give ROLE=arn:"),
        ({"ROLE": ROLE}, "give SET=common.IMAGETAG_STORAGE=s3://BUCKET/PREFIX"),
        ({"ROLE": ROLE, "SET": BUCKET}, "give REGISTRY"),
    ],
)
def test_deploy_names_the_placeholder_that_is_left(
    given: dict[str, str], complaint: str, empty: Cluster, tmp_path: Path
) -> None:
    done = deploy(tmp_path, "apply", OVERLAY="eks", KUBECTL=str(empty.fake), **given)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not empty.calls("apply")


def test_deploy_gives_the_service_account_its_role(empty: Cluster, tmp_path: Path) -> None:
    values = {"ROLE": ROLE, "SET": BUCKET, "REGISTRY": REGISTRY}
    done = deploy(tmp_path, "apply", OVERLAY="eks", KUBECTL=str(empty.fake), **values)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "k8s" / ".deploy" / "all.yaml").read_text()
    account = manifests.of_kind(manifests.parsed(text), "ServiceAccount")["jobs"]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": ROLE}


def test_deploy_has_no_stages_to_look_at_in_a_jobset(empty: Cluster, tmp_path: Path) -> None:
    bring(empty, tmp_path, "jobset")
    assert applied(empty) == [REST]
    assert not empty.calls("delete")


@pytest.mark.parametrize(
    ("overlay", "images", "left"),
    [
        *((name, "", "imagetag-scrape:0.1.0 imagetag-train:0.1.0") for name in BARE),
        ("many-tags", f"imagetag-scrape={REGISTRY}/imagetag-scrape:1", "imagetag-train:0.1.0"),
    ],
)
def test_deploy_says_which_images_would_be_looked_for_in_vain(
    overlay: str, images: str, left: str, empty: Cluster, tmp_path: Path
) -> None:
    given = {"OVERLAY": overlay, "SET": BUCKET, "IMAGES": images}
    done = deploy(tmp_path, "apply", KUBECTL=str(empty.fake), **given)
    assert done.returncode == 2
    assert f"deploy: {left} would be pulled from docker.io" in done.stderr
    assert "ImagePullBackOff: give REGISTRY" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not empty.calls("apply")


def test_deploy_waits_for_no_namespace_that_is_being_deleted(
    empty: Cluster, tmp_path: Path
) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "status": {"phase": "Terminating"}}
    named = {**namespace, "metadata": {"name": "imagetag"}}
    (empty.folder / "jobs" / "imagetag.json").write_text(json.dumps(named))
    done = deploy(tmp_path, "apply", OVERLAY="local", KUBECTL=str(empty.fake))
    assert done.returncode == 2
    assert "make undeploy" in done.stderr
    assert not empty.calls("apply")


S3_IMAGE = "docker.io/versity/versitygw:v1.8.0"
BEFORE, BORN, AFTER = (f"2026-05-01T10:00:0{second}Z" for second in (4, 5, 6))


def test_deploy_begins_anew_where_the_storage_was_emptied(empty: Cluster, tmp_path: Path) -> None:
    for name in STAGES:
        empty.put(name, conditions=COMPLETE, startTime=BEFORE, completionTime=AFTER)
    empty.put_pod("s3-0", BORN, image=S3_IMAGE)
    said = bring(empty, tmp_path, "local", SET="", REGISTRY="")
    assert "scrape is made anew: it began before pod/s3-0 was made" in said
    assert deleted(empty) == ["chain", *STAGES]
    assert applied(empty) == [REST, *STAGES, "chain"]


def test_deploy_begins_anew_where_the_storage_was_emptied_in_mid_work(
    empty: Cluster, tmp_path: Path
) -> None:
    # Scrape went on after the loss: what its first pods had stored is gone.
    empty.put("scrape", active=1, startTime=BEFORE)
    empty.put("explore", suspend=True)
    empty.put_pod("s3-0", BORN, image=S3_IMAGE)
    bring(empty, tmp_path, "local", SET="", REGISTRY="")
    assert deleted(empty) == ["chain", "scrape", "explore"]


@pytest.mark.parametrize(
    ("image", "phase", "told"),
    [
        (S3_IMAGE, "Running", False),
        (S3_IMAGE, "Pending", False),
        ("mirror.example/s3:1", "Running", True),
    ],
)
def test_deploy_keeps_the_pod_that_has_the_pictures(
    image: str, phase: str, told: bool, empty: Cluster, tmp_path: Path
) -> None:
    for name in STAGES:
        empty.put(name, conditions=COMPLETE, startTime=AFTER)
    empty.put_pod("s3-0", BORN, image=image, phase=phase)
    said = bring(empty, tmp_path, "local", SET="", REGISTRY="")
    assert deleted(empty) == ["chain"]
    assert (f"pod/s3-0 is left as it is, with {image}" in said) is told


def test_deploy_replaces_a_storage_pod_that_never_ran(empty: Cluster, tmp_path: Path) -> None:
    empty.put_pod("s3-0", BORN, image="no.such.registry/s3:1", phase="Pending")
    # Its successor, as the StatefulSet's controller makes it.
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s3-0"}}
    successor = json.dumps({**made, "spec": {}, "status": {}})
    waits = f'if verb == "wait":\n    job.write_text({successor!r})\n'
    empty.fake.write_text(empty.fake.read_text() + waits)
    bring(empty, tmp_path, "local", SET="", REGISTRY="")
    assert next(call[1:3] for call in empty.calls("delete")) == ["pod", "s3-0"]


# undeploy.sh

# Deletes as Kubernetes does: a namespace is not gone before the pods of its Jobs are, whose
# finalizers stay while there are Jobs; a JobSet makes its Jobs anew.
NAMESPACE = """#!{python} -IS
import json, os, pathlib, sys
state = pathlib.Path({state!r})
arguments = sys.argv[1:]
with open(state / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
namespace, jobs, jobsets = (state / name for name in ("namespace", "jobs", "jobsets"))
away = (state / "node-is-lost").exists()
timeout = "error: timed out waiting for the condition on jobs/train"
if arguments[0] == "api-resources":
    print("jobsets.jobset.x-k8s.io" if (state / "has-jobsets").exists() else "")
elif arguments[:2] == ["get", "namespace"]:
    print("namespace/imagetag" if namespace.exists() else "")
elif arguments[:2] == ["delete", "jobsets.jobset.x-k8s.io"]:
    jobsets.unlink(missing_ok=True)
elif arguments[:2] == ["delete", "jobs"]:
    if away:
        sys.exit(timeout)
    if not jobsets.exists():
        jobs.unlink(missing_ok=True)
elif arguments[:2] == ["delete", "namespace"]:
    if jobs.exists():
        sys.exit("error: timed out waiting for the condition on namespaces/imagetag")
    namespace.unlink()
else:
    sys.exit("what is " + " ".join(arguments))
"""


@pytest.fixture
def deletable(tmp_path: Path) -> Path:
    """A cluster whose namespace has a Job under way."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("namespace", "jobs"):
        (folder / name).touch()
    return folder


def stand_in(folder: Path) -> Path:
    fake = folder / "kubectl"
    fake.write_text(NAMESPACE.format(python=sys.executable, state=str(folder)))
    fake.chmod(0o755)
    return fake


def undeploy(folder: Path) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    fake = stand_in(folder)
    done = subprocess.run(
        [K8S / "undeploy.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBECTL": str(fake), "TIMEOUT": "90s"},
    )
    calls = map(json.loads, (folder / "calls").read_text().splitlines())
    return done, [call for call in calls if call[0] == "delete"]


def test_undeploy_deletes_the_jobs_before_the_namespace(deletable: Path) -> None:
    done, calls = undeploy(deletable)
    assert done.returncode == 0, done.stderr
    assert not (deletable / "namespace").exists()
    assert [call[1] for call in calls] == ["jobs", "namespace"]
    assert {"--all", "-n", "imagetag", "--cascade=foreground"} < set(calls[0])
    for call in calls:
        assert {"--ignore-not-found", "--timeout=90s"} < set(call)


def test_undeploy_frees_a_namespace_that_is_stuck(deletable: Path) -> None:
    fake = stand_in(deletable)
    stuck = subprocess.run([fake, "delete", "namespace", "imagetag"], check=False)
    assert stuck.returncode == 1
    done, _ = undeploy(deletable)
    assert done.returncode == 0, done.stderr
    assert not (deletable / "namespace").exists()


def test_undeploy_deletes_jobsets_before_their_jobs(deletable: Path) -> None:
    for name in ("has-jobsets", "jobsets"):
        (deletable / name).touch()
    done, calls = undeploy(deletable)
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in calls] == ["jobsets.jobset.x-k8s.io", "jobs", "namespace"]
    assert "--cascade=foreground" in calls[0]


def test_undeploy_has_nothing_to_do_where_there_is_nothing(deletable: Path) -> None:
    (deletable / "namespace").unlink()
    done, calls = undeploy(deletable)
    assert (done.returncode, done.stdout) == (0, "there is no namespace imagetag\n")
    assert not calls


def test_undeploy_does_not_wait_for_ever(deletable: Path) -> None:
    (deletable / "node-is-lost").touch()
    done, _ = undeploy(deletable)
    assert done.returncode == 75
    assert "Jobs of imagetag are not gone after 90s: run it again" in done.stderr
    assert "--force" in done.stderr
    assert (deletable / "namespace").exists()  # and not stuck


def test_make_undeploy_and_the_end_of_each_cluster_test_go_that_way() -> None:
    makefile = (K8S.parent / "Makefile").read_text()
    assert "k8s/undeploy.sh" in makefile
    others = [makefile, (K8S.parent / "tests" / "e2e" / "cluster" / "pipeline.py").read_text()]
    for text in [*others, *(path.read_text() for path in K8S.rglob("*.sh"))]:
        assert "kubectl delete namespace" not in text
        assert '"delete", "namespace"' not in text
