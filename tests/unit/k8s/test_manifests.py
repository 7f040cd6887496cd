"""The manifests: each overlay builds, is valid, and keeps the rules that jobs and cluster need."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes_validate import utils as kubernetes

from imagetag.errors import EXIT_DONE, EXIT_INPUT, EXIT_TERMINATED, EXIT_TRANSIENT, EXIT_USAGE
from imagetag.job.command_line import parse_settings
from imagetag.job.settings import TagSettings
from tests import manifests
from tests.docs import pages
from tests.manifests import OVERLAYS, STAGES, WITH_FEATURES, Manifest, built, deploy, stages_of

_COMPONENT = {"app.kubernetes.io/component": "predict"}
_STAGE = {"imagetag/stage": "predict"}
MUST_BE_SET_SOMEHOW = {"AWS_DEFAULT_REGION"}
STANDARD = {
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
}
# Secrets that people make themselves, and Secrets and roles that clouds bring.
GIVEN = {"storage-credentials", "board-account"}

UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def amount(quantity: str | int) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def settings_class(job: str) -> type[TagSettings]:
    module = importlib.import_module(f"jobs.{job}")
    found: type[TagSettings] = getattr(module, f"{job.title()}Settings")
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


# Every overlay.


@pytest.fixture(scope="module")
def schemas() -> Iterator[None]:
    """Let each schema be read once: by itself the library reads 2 MB for each object."""
    patch = pytest.MonkeyPatch()
    read: dict[str, object] = {}
    real = kubernetes.schema_contents

    def once(name: str, version: str) -> object:
        if name not in read:
            read[name] = real(name, version)
        return read[name]

    patch.setattr(kubernetes, "schema_contents", once)
    yield
    patch.undo()


def test_every_object_is_valid_in_the_three_newest_versions_of_kubernetes(schemas: None) -> None:
    versions = sorted(
        {kubernetes.major_minor(version) for version in kubernetes.all_versions()},
        key=lambda text: [int(part) for part in text.split(".")],
    )[-3:]
    assert len(versions) == 3
    objects = {}
    for overlay in OVERLAYS:
        plain = [item for item in built(overlay) if item["kind"] != "JobSet"]
        for item in [*plain, *manifests.jobs(built(overlay)).values()]:
            objects[repr(item)] = (overlay, item)
    assert len(objects) > 50
    for overlay, item in objects.values():
        for version in versions:
            try:
                kubernetes.validate(item, version, strict=True)
            except kubernetes.ValidationError as error:
                where = f"{overlay}: {item['kind']} {item['metadata']['name']}, {version}"
                raise AssertionError(f"{where}: {list(error.path)}: {error.message}") from None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_the_namespace_that_enforces_the_restricted_standard(overlay: str) -> None:
    (namespace,) = manifests.of_kind(built(overlay), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for item in built(overlay):
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == namespace["metadata"]["name"], item


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted_and_may_write_in_its_volumes_alone(overlay: str) -> None:
    found = built(overlay)
    for name, pod in manifests.pods(found).items():
        spec = pod["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == context["fsGroup"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), name
        assert spec["automountServiceAccountToken"] is (name == "chain"), name
        kinds = {kind for volume in spec["volumes"] for kind in set(volume) - {"name"}}
        assert kinds <= {"configMap", "emptyDir"}, name
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], name
    for name, container in manifests.containers(found):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_resources_are_asked_for_and_limited_and_one_job_has_gpus(overlay: str) -> None:
    on_gpus = "embed/embed" if overlay in WITH_FEATURES else "train/train"
    for name, container in manifests.containers(built(overlay)):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < amount(requests[resource]) <= amount(limits[resource]), (name, resource)
        gpus = limits.get("nvidia.com/gpu", 0)
        assert gpus == requests.get("nvidia.com/gpu", 0), name
        assert gpus == (1 if name == on_gpus and overlay != "local" else 0), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_pinned(overlay: str) -> None:
    for name, container in manifests.containers(built(overlay)):
        repository, colon, tag = container["image"].rpartition(":")
        assert colon, name
        assert "/" not in tag, f"{name}: {container['image']}"
        assert re.match(r"v?\d+\.\d+\.\d+", tag) or "@sha256" in repository, name
        assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_name_that_is_used_exists(overlay: str) -> None:
    found = built(overlay)
    maps, secrets = manifests.of_kind(found, "ConfigMap"), manifests.of_kind(found, "Secret")
    accounts = manifests.of_kind(found, "ServiceAccount")
    for name, pod in manifests.pods(found).items():
        assert pod["spec"]["serviceAccountName"] in accounts, name
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps, name
                else:
                    secret = source["secretRef"]
                    assert secret["name"] in secrets or secret["name"] in GIVEN, name
                    assert secret["name"] in secrets or secret["optional"] is True, name
    for binding in manifests.of_kind(found, "RoleBinding").values():
        assert binding["roleRef"]["name"] in manifests.of_kind(found, "Role")
        for subject in binding["subjects"]:
            assert subject["name"] in accounts
            assert subject["namespace"] == binding["metadata"]["namespace"]


# What the jobs are told.


def stages(overlay: str) -> dict[str, tuple[Manifest, Manifest]]:
    """The Job and its container of each stage."""
    found = manifests.jobs(built(overlay))
    return {
        name: (found[name], found[name]["spec"]["template"]["spec"]["containers"][0])
        for name in stages_of(overlay)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_that_the_job_has(overlay: str) -> None:
    found = built(overlay)
    common = set(manifests.configmap(found, "common-settings"))
    for job, (_, container) in stages(overlay).items():
        assert container["args"] == [job]
        names = set(manifests.environment(found, container))
        known = {f"IMAGETAG_{name.upper()}" for name in settings_class(job).model_fields}
        assert names - known <= (STANDARD & common) | {"POD_NAMESPACE"}, job
        assert "POD_NAMESPACE" in names, "metrics of two namespaces would replace each other"
        assert names >= MUST_BE_SET_SOMEHOW


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_valid_and_the_pods_share_all_tags(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = built(overlay)
    tags_file = tmp_path / "tags.txt"
    tags_file.write_text(manifests.configmap(found, "tags")["tags.txt"])
    for job, (manifest, container) in stages(overlay).items():
        spec, values = manifest["spec"], manifests.environment(found, container)
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        folder, _, name = values["IMAGETAG_TAGS_FILE"].rpartition("/")
        assert (mounts[folder], name) == ("tags", "tags.txt")
        assert spec["completionMode"] == "Indexed"
        assert spec["completions"] == spec["parallelism"]
        pods = []
        with monkeypatch.context() as patch:
            for variable, value in values.items():
                patch.setenv(variable, value)
            patch.setenv("IMAGETAG_TAGS_FILE", str(tags_file))
            for index in range(spec["completions"]):
                patch.setenv("JOB_COMPLETION_INDEX", str(index))
                pods.append(parse_settings(settings_class(job), [], command=job, summary=""))
        if getattr(pods[0], "workers", 1) > 1:
            assert job == "train"
            assert (len(pods), pods[0].shard_count) == (pods[0].workers, 1)  # type: ignore[attr-defined]
            assert [pod.worker_index for pod in pods] == list(range(len(pods)))  # type: ignore[attr-defined]
            assert spec["maxFailedIndexes"] == 0  # the others could not go on
        elif job == "embed":  # which shares the pictures
            assert [pod.shard_index for pod in pods] == list(range(len(pods)))
            assert all(pod.shard_count == len(pods) for pod in pods)
            assert spec["maxFailedIndexes"] == spec["completions"]
        else:
            shares = [tag for pod in pods for tag in pod.my_tags()]
            assert sorted(shares) == sorted(pods[0].all_tags())
            assert spec["maxFailedIndexes"] == spec["completions"]  # the others go on


def test_the_kinds_of_training_are_those_that_the_overlays_are_named_for() -> None:
    many_tags, many_nodes = stages("many-tags")["train"], stages("many-nodes")["train"]
    assert many_tags[0]["spec"]["completions"] == 1
    assert manifests.environment(built("many-tags"), many_tags[1]).get("IMAGETAG_WORKERS") is None
    assert many_nodes[0]["spec"]["completions"] == 4
    workers = manifests.environment(built("many-nodes"), many_nodes[1])["IMAGETAG_WORKERS"]
    assert workers == "4"


def test_workers_have_the_names_they_look_for() -> None:
    found = built("many-nodes")
    job, container = stages("many-nodes")["train"]
    pod = job["spec"]["template"]
    service = manifests.of_kind(found, "Service")[pod["spec"]["subdomain"]]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
    address = manifests.environment(found, container)["IMAGETAG_WORKER_ADDRESSES"]
    # An Indexed Job gives its pods the host name JOB-INDEX.
    host = f"{job['metadata']['name']}-{{index}}.{service['metadata']['name']}"
    assert address == f"{host}:{service['spec']['ports'][0]['port']}"
    assert allowed(found, "train", "train", 8470)
    patience = float(manifests.environment(found, container)["IMAGETAG_RENDEZVOUS_TIMEOUT"])
    assert patience > 600  # the longest pause of a Job before it starts a pod again


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name not in WITH_FEATURES])
def test_what_is_kept_on_disk_and_in_memory_fits(overlay: str) -> None:
    found = built(overlay)
    job, container = stages(overlay)["train"]
    values = manifests.environment(found, container)
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    scratch = amount(volumes["scratch"]["emptyDir"]["sizeLimit"])
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert (
        int(values["IMAGETAG_CACHE_BYTES"]) + 2**30 < scratch < amount(limits["ephemeral-storage"])
    )
    assert overlay == "local" or scratch < amount(requests["ephemeral-storage"])
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    shm = amount(volumes["shm"]["emptyDir"]["sizeLimit"])
    tensorflow = 0.7 * 2**30
    assert int(values["IMAGETAG_CACHE_MEMORY"]) + shm + tensorflow < amount(limits["memory"])


# What ends a Job, and what is tried again.


def assert_decides_by_the_exit_codes_of_the_code(name: str, job: Manifest) -> None:
    spec = job["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never", name
    actions, disruption = {}, None
    for rule in spec["podFailurePolicy"]["rules"]:
        for code in rule.get("onExitCodes", {}).get("values", []):
            assert rule["onExitCodes"]["operator"] == "In"
            assert rule["onExitCodes"]["containerName"] == name  # no other may decide
            actions[code] = rule["action"]
        if rule.get("onPodConditions") == [{"type": "DisruptionTarget"}]:
            disruption = rule["action"]
    assert actions == {EXIT_USAGE: "FailJob", EXIT_INPUT: "FailIndex"}, name
    assert disruption == "Ignore", name
    assert not {EXIT_DONE, EXIT_TRANSIENT, EXIT_TERMINATED} & set(actions), name
    assert spec["backoffLimitPerIndex"] >= 6, name
    assert "backoffLimit" not in spec, name
    assert spec["podReplacementPolicy"] == "Failed", name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_decide_by_the_exit_codes_of_the_code(overlay: str) -> None:
    for name, (job, container) in stages(overlay).items():
        assert container["name"] == name
        assert_decides_by_the_exit_codes_of_the_code(name, job)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "jobset"])
def test_no_other_container_decides_for_the_chain(overlay: str) -> None:
    spec = manifests.of_kind(built(overlay), "Job")["chain"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["containerName"] == container["name"]


def assert_without_sidecars(found: list[Manifest]) -> None:
    for name, pod in manifests.pods(found).items():
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["sidecar.istio.io/inject"] == "false", name
        assert annotations["sidecar.istio.io/inject"] == "false", name
        assert annotations["linkerd.io/inject"] == "disabled", name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_service_mesh_puts_a_sidecar_into_a_pod(overlay: str) -> None:
    assert_without_sidecars(built(overlay))


def assert_no_job_is_gone_before_the_chain_has_ended(found: list[Manifest]) -> None:
    jobs = manifests.of_kind(found, "Job")
    names = manifests.configmap(found, "chain-settings")["CHAIN_STAGES"].split()
    assert {*names, "chain"} == set(jobs)
    deadlines = [jobs[name]["spec"]["activeDeadlineSeconds"] for name in names]
    for number, name in enumerate(names):
        later = sum(deadlines[number + 1 :])
        assert jobs[name]["spec"]["ttlSecondsAfterFinished"] > later, name
    assert jobs["chain"]["spec"]["activeDeadlineSeconds"] > sum(deadlines)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "jobset"])
def test_no_job_is_gone_before_the_chain_has_ended(overlay: str) -> None:
    assert_no_job_is_gone_before_the_chain_has_ended(built(overlay))


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "jobset"])
def test_the_first_stage_starts_and_the_others_wait_for_the_chain(overlay: str) -> None:
    found = manifests.of_kind(built(overlay), "Job")
    names = stages_of(overlay)
    assert set(found) == {*names, "chain"}
    waiting = {name for name, job in found.items() if job["spec"].get("suspend")}
    assert waiting == set(names[1:])
    for name, job in found.items():
        assert job["metadata"]["labels"]["imagetag/stage"] == name
    (role,) = manifests.of_kind(built(overlay), "Role").values()
    rule, *others = role["rules"]
    assert rule == {
        "apiGroups": ["batch"],
        "resources": ["jobs"],
        "resourceNames": list(names),
        "verbs": ["get", "list", "watch", "patch"],
    }
    storage = {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["s3-0"]}
    assert others == ([{**storage, "verbs": ["get"]}] if overlay == "local" else [])
    assert not manifests.of_kind(built(overlay), "ClusterRole")
    (container,) = found["chain"]["spec"]["template"]["spec"]["containers"]
    values = manifests.environment(built(overlay), container)
    assert values["CHAIN_STAGES"].split() == list(names)


def test_kueue_gets_a_job_when_its_data_is_there() -> None:
    found = manifests.of_kind(built("kueue"), "Job")
    queue = "kueue.x-k8s.io/queue-name"
    assert [name for name, job in found.items() if queue in job["metadata"]["labels"]] == ["scrape"]
    (container,) = found["chain"]["spec"]["template"]["spec"]["containers"]
    start = manifests.environment(built("kueue"), container)["CHAIN_START"]
    assert start == '{"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "imagetag"}}}'


def test_the_jobset_is_the_chain() -> None:
    found = built("jobset")
    assert not manifests.of_kind(found, "Job")
    assert not manifests.of_kind(found, "Role")
    (jobset,) = manifests.of_kind(found, "JobSet").values()
    parts = jobset["spec"]["replicatedJobs"]
    assert [part["name"] for part in parts] == list(stages_of("jobset"))
    for before, part in pairwise(parts):
        assert part["dependsOn"] == [{"name": before["name"], "status": "Complete"}]
    plain = manifests.of_kind(built("many-tags"), "Job")
    for part in parts:
        assert part["replicas"] == 1
        # It would make Jobs anew that are gone, and says itself when they start.
        expected = dict(plain[part["name"]]["spec"])
        expected.pop("suspend", None)
        expected.pop("ttlSecondsAfterFinished")
        assert part["template"]["spec"] == expected


# Features once, and a head for each tag.


def test_many_tags_embed_on_gpus_and_train_heads_on_cpus() -> None:
    found = stages("many-tags")
    embed, train = (found[name][0]["spec"] for name in ("embed", "train"))
    whole = stages("many-nodes")["train"][0]["spec"]["template"]["spec"]
    pod = embed["template"]["spec"]
    for name in ("affinity", "tolerations"):
        assert pod[name] == whole[name], name
        assert name not in train["template"]["spec"], name
    gpus = [job[1]["resources"]["limits"].get("nvidia.com/gpu", 0) for job in found.values()]
    assert dict(zip(found, gpus, strict=True)) == {**dict.fromkeys(found, 0), "embed": 1}
    (container,) = train["template"]["spec"]["containers"]
    values = manifests.environment(built("many-tags"), container)
    assert values["IMAGETAG_FEATURES"] == "latest"
    # What a head takes, and no room for decoded images or for NCCL.
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "4Gi"},
        "limits": {"cpu": "2", "memory": "3Gi", "ephemeral-storage": "36Gi"},
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {"tags", "scratch"}
    assert {volume["name"] for volume in train["template"]["spec"]["volumes"]} == {
        "tags",
        "scratch",
    }
    assert embed["completions"] == embed["parallelism"] == 2


@pytest.mark.parametrize("overlay", ["eks", "gke"])
def test_deploy_takes_in_features_on_the_gpu_nodes_of_a_cloud(
    overlay: str, tmp_path: Path, schemas: None
) -> None:
    found = rendered(
        tmp_path, OVERLAY=overlay, PODS="3", SET=f"embed.IMAGETAG_EXTRACTOR=mobilenet {PREDICT}"
    )
    before = manifests.jobs(built(overlay))["train"]["spec"]["template"]["spec"]
    jobs = manifests.jobs(found)
    for name in ("embed", "train"):
        kubernetes.validate(jobs[name], "1.36", strict=True)
        assert_decides_by_the_exit_codes_of_the_code(name, jobs[name])
        assert jobs[name]["spec"]["completions"] == 3
    embed, train = (jobs[name]["spec"]["template"]["spec"] for name in ("embed", "train"))
    for name in {"affinity", "nodeSelector", "tolerations"} & set(before):
        assert embed[name] == before[name]
        assert name not in train
    assert embed["containers"][0]["resources"] == before["containers"][0]["resources"]
    assert train["containers"][0]["resources"]["requests"]["memory"] == "1Gi"
    values = manifests.environment(found, embed["containers"][0])
    assert (values["IMAGETAG_EXTRACTOR"], values["IMAGETAG_SHARD_COUNT"]) == ("mobilenet", "3")
    order = manifests.configmap(found, "chain-settings")["CHAIN_STAGES"].split()
    assert order == ["scrape", "explore", "embed", "train", "evaluate", "predict"]
    assert_no_job_is_gone_before_the_chain_has_ended(found)
    (role,) = manifests.of_kind(found, "Role").values()
    assert role["rules"][0]["resourceNames"] == order


# Who may talk to whom.


def allowed(found: list[Manifest], source: str, target: str, port: int) -> bool:
    """Whether one pod may connect to a port of another: both sides have to say so."""
    templates = manifests.pods(found)
    labels = {name: templates[name]["metadata"]["labels"] for name in (source, target)}

    def says(direction: str, own: str, other: str) -> bool:
        for policy in manifests.of_kind(found, "NetworkPolicy").values():
            if not selects(policy["spec"]["podSelector"], labels[own]):
                continue
            for rule in policy["spec"].get(direction.lower(), []):
                peers = rule.get("to" if direction == "Egress" else "from", [])
                ports = {item["port"] for item in rule.get("ports", [])} or {port}
                if port in ports and any(
                    "podSelector" in peer and selects(peer["podSelector"], labels[other])
                    for peer in peers
                ):
                    return True
        return False

    return says("Egress", source, target) and says("Ingress", target, source)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_allowed_is_denied(overlay: str) -> None:
    policies = manifests.of_kind(built(overlay), "NetworkPolicy")
    deny = policies["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        spec = policy["spec"]
        assert set(spec) - {"podSelector", "policyTypes"} == {
            kind.lower() for kind in spec["policyTypes"] if name != "default-deny"
        }
        for rule in spec.get("ingress", []):
            assert rule["from"], name
        if name not in ("default-deny", "dns"):
            assert any(
                selects(spec["podSelector"], pod["metadata"]["labels"])
                for pod in manifests.pods(built(overlay)).values()
            ), f"{name} selects no pod"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_metadata_server_is_out_of_reach(overlay: str) -> None:
    for name, policy in manifests.of_kind(built(overlay), "NetworkPolicy").items():
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                block = peer.get("ipBlock")
                if block and block["cidr"] == "0.0.0.0/0":
                    assert "169.254.0.0/16" in block["except"], name


def test_on_a_laptop_each_server_is_a_service_that_the_jobs_may_reach() -> None:
    found = built("local")
    services = manifests.of_kind(found, "Service")
    templates = manifests.pods(found)
    for job, (_, container) in stages("local").items():
        values = manifests.environment(found, container)
        urls = [values["AWS_ENDPOINT_URL_S3"]]
        if job == "scrape":
            urls.append(values["IMAGETAG_BOARD"].partition("+")[2])
        for url in urls:
            host, port = urlsplit(url).hostname, urlsplit(url).port
            assert host is not None
            assert port is not None
            (entry,) = services[host]["spec"]["ports"]
            assert entry["port"] == port
            assert "targetPort" not in entry
            selector = {"matchLabels": services[host]["spec"]["selector"]}
            assert [
                name
                for name, pod in templates.items()
                if selects(selector, pod["metadata"]["labels"])
            ] == [host]
            (server,) = templates[host]["spec"]["containers"]
            assert [item["containerPort"] for item in server["ports"]] == [port]
            assert allowed(found, job, host, port), (job, host)
    assert not allowed(found, "train", "board", 8480)
    assert not allowed(found, "board", "s3", 7070)
    bucket = urlsplit(values["IMAGETAG_STORAGE"]).netloc
    (init,) = manifests.jobs(found)["scrape"]["spec"]["template"]["spec"]["initContainers"]
    assert f'head_bucket(Bucket="{bucket}")' in init["args"][0]
    compile(init["args"][0], "servers", "exec")


def test_on_a_laptop_the_storage_starts_with_its_bucket_and_its_pod_stays() -> None:
    found = built("local")
    server = manifests.of_kind(found, "StatefulSet")["s3"]["spec"]
    assert server["updateStrategy"] == {"type": "OnDelete"}
    assert server["replicas"] == 1
    assert manifests.configmap(found, "chain-settings")["CHAIN_STORAGE_POD"] == "s3-0"
    common = manifests.configmap(found, "common-settings")
    (container,) = server["template"]["spec"]["containers"]
    assert "imagetag-" not in container["image"]
    root = container["args"][-1]
    (data,) = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == root]
    # A folder of a volume is made before it is mounted, and a folder of the root is a bucket.
    made = [m["subPath"] for m in container["volumeMounts"] if m["name"] == data and "subPath" in m]
    assert made == [urlsplit(common["IMAGETAG_STORAGE"]).netloc]


# What make deploy makes of them.

PREDICT = "predict.IMAGETAG_TAG=robot predict.IMAGETAG_OUTPUT=s3://pictures/robot.csv"


def rendered(folder: Path, **variables: str) -> list[Manifest]:
    manifests.kubectl()
    done = deploy(folder, **variables)
    assert done.returncode == 0, done.stderr
    return manifests.parsed(done.stdout)


def test_deploy_takes_tags_and_numbers(tmp_path: Path) -> None:
    found = rendered(
        tmp_path,
        OVERLAY="local",
        TAGS="owl re:zero fate/stay_night",
        PODS="3",
        WORKERS="2",
        SET="train.IMAGETAG_EPOCHS=2 common.IMAGETAG_LOG_LEVEL=debug "
        "chain.CHAIN_FAILED_TAGS=continue",
        IMAGES="imagetag-train=registry.example:5000/it/train:7 versitygw=mirror.example/s3:1",
    )
    assert manifests.configmap(found, "tags")["tags.txt"] == "owl\nre:zero\nfate/stay_night\n"
    jobs = manifests.jobs(found)
    assert [jobs[name]["spec"]["completions"] for name in STAGES] == [3, 3, 2, 3]
    for name, container in manifests.containers(found):
        if name.partition("/")[0] in ("explore", "train", "evaluate"):
            assert container["image"] == "registry.example:5000/it/train:7"
        if name == "s3/s3":
            assert container["image"] == "mirror.example/s3:1"
    train = jobs["train"]["spec"]["template"]["spec"]["containers"][0]
    values = manifests.environment(found, train)
    assert values["IMAGETAG_EPOCHS"] == "2"
    assert values["IMAGETAG_LOG_LEVEL"] == "debug"
    assert manifests.configmap(found, "chain-settings")["CHAIN_FAILED_TAGS"] == "continue"
    assert (values["IMAGETAG_WORKERS"], values["IMAGETAG_SHARD_COUNT"]) == ("2", "1")
    assert jobs["train"]["spec"]["maxFailedIndexes"] == 0
    assert allowed(found, "train", "train", 8470)


# What a node of kind has left of 2 CPUs and 6 GiB: the system's pods ask for 950m and 290Mi, and
# its kubelet keeps 100Mi.
LAPTOP = {"cpu": 2 - 0.95, "memory": 6 * 2**30 - (290 + 100) * 2**20}


def requested(pod: Manifest, resource: str) -> float:
    """What the scheduler counts for a pod."""
    each = {
        kind: [
            amount(item["resources"]["requests"][resource]) for item in pod["spec"].get(kind, [])
        ]
        for kind in ("containers", "initContainers")
    }
    return max([sum(each["containers"]), *each["initContainers"]])


def test_a_laptop_of_two_cpus_has_room_for_each_stage_with_two_pods(tmp_path: Path) -> None:
    found = rendered(tmp_path, OVERLAY="local", PODS="2", WORKERS="2", SET=PREDICT)
    jobs = manifests.of_kind(found, "Job")
    chain = jobs.pop("chain")["spec"]["template"]
    assert set(jobs) == {*STAGES, "predict"}
    assert {job["spec"]["parallelism"] for job in jobs.values()} == {2}

    def most(resource: str) -> float:
        beside = requested(chain, resource)
        for kind in ("Deployment", "StatefulSet"):
            for server in manifests.of_kind(found, kind).values():
                # A Deployment's new pod comes beside the old.
                copies = server["spec"]["replicas"] + (kind == "Deployment")
                beside += copies * requested(server["spec"]["template"], resource)
        stages = (job["spec"]["template"] for job in jobs.values())
        return beside + max(2 * requested(stage, resource) for stage in stages)

    assert most("cpu") <= LAPTOP["cpu"]
    assert most("memory") <= LAPTOP["memory"]
    told = pages()["docs/kubernetes.md"]
    assert f"ask for {most('cpu'):.2f} CPU" in told
    assert f"and {most('memory') / 2**30:.1f} GiB at most" in told


def test_deploy_takes_images_from_a_registry(tmp_path: Path) -> None:
    found = rendered(
        tmp_path,
        OVERLAY="eks",
        REGISTRY="registry.example/team",
        IMAGES="imagetag-train=registry.example/other:2",
    )
    images = {name: each["image"] for name, each in manifests.containers(found)}
    assert images["scrape/scrape"] == "registry.example/team/imagetag-scrape:0.1.0"
    assert images["train/train"] == "registry.example/other:2"


@pytest.mark.parametrize("overlay", ["local", "jobset"])
def test_deploy_takes_requests_and_limits(overlay: str, tmp_path: Path) -> None:
    wanted = "train.cpu=500m train.memory=2Gi:16Gi scrape.ephemeral-storage=2Gi"
    jobs = manifests.jobs(rendered(tmp_path, OVERLAY=overlay, REQUESTS=wanted))
    before = manifests.jobs(built(overlay))

    def resources(found: dict[str, Manifest], job: str) -> Manifest:
        (container,) = found[job]["spec"]["template"]["spec"]["containers"]
        given: Manifest = container["resources"]
        return given

    train, old = resources(jobs, "train"), resources(before, "train")
    assert train["requests"] == {**old["requests"], "cpu": "500m", "memory": "2Gi"}
    assert train["limits"] == {**old["limits"], "memory": "16Gi"}
    scrape, old = resources(jobs, "scrape"), resources(before, "scrape")
    assert scrape["requests"] == {**old["requests"], "ephemeral-storage": "2Gi"}
    assert scrape["limits"] == old["limits"]
    assert resources(jobs, "evaluate") == resources(before, "evaluate")


def test_deploy_takes_in_a_stage_that_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schemas: None
) -> None:
    wanted = {"TAG": "robot", "INPUT": "s3://other/new", "OUTPUT": "s3://other/robot.csv"}
    found = rendered(
        tmp_path,
        OVERLAY="local",
        PODS="3",
        SET=" ".join(f"predict.IMAGETAG_{name}={value}" for name, value in wanted.items()),
    )
    job, like = (manifests.jobs(found)[name] for name in ("predict", "evaluate"))
    kubernetes.validate(job, "1.36", strict=True)
    assert_without_sidecars(found)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["maxFailedIndexes"]) == (3, 3, 3)
    assert job["metadata"]["labels"] == {**like["metadata"]["labels"], **_COMPONENT, **_STAGE}
    assert spec["suspend"] is True
    assert_decides_by_the_exit_codes_of_the_code("predict", job)
    pod, like_pod = spec["template"]["spec"], like["spec"]["template"]["spec"]
    assert pod["securityContext"] == like_pod["securityContext"]
    (container,), (like_container,) = pod["containers"], like_pod["containers"]
    for name in ("image", "imagePullPolicy", "securityContext"):
        assert container[name] == like_container[name], name
    tags = {"name": "tags", "mountPath": "/etc/imagetag", "readOnly": True}
    assert tags in container["volumeMounts"]  # of which all are predicted where none is named
    assert manifests.configmap(found, "chain-settings")["CHAIN_STAGES"].split()[-1] == "predict"
    assert_no_job_is_gone_before_the_chain_has_ended(found)
    (role,) = manifests.of_kind(found, "Role").values()
    assert role["rules"][0]["resourceNames"] == [*STAGES, "predict"]
    assert role["rules"][1]["resourceNames"] == ["s3-0"]
    for server, port in (("s3", 7070), ("board", 8480)):
        assert allowed(found, "predict", server, port)
    for variable, value in manifests.environment(found, container).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    settings: Any = parse_settings(settings_class("predict"), [], command="predict", summary="")
    assert (settings.tag, *settings.input, settings.output) == tuple(wanted.values())
    assert settings.all_tags() == ["robot"]  # of the list that all pods have, this one alone
    assert (settings.shard_index, settings.shard_count) == (2, 3)


@pytest.mark.parametrize("overlay", ["jobset", "many-nodes"])
def test_deploy_keeps_the_counts_of_pods_and_settings_together(
    overlay: str, tmp_path: Path
) -> None:
    found = rendered(tmp_path, OVERLAY=overlay, PODS="7")
    train = 4 if overlay == "many-nodes" else 7
    assert [
        (job["spec"]["completions"], job["spec"]["parallelism"])
        for name, job in manifests.jobs(found).items()
        if name != "chain"
    ].count((7, 7)) == (3 if train == 4 else 5)
    job = manifests.jobs(found)["train"]
    assert job["spec"]["completions"] == train


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"OVERLAY": "moon"}, "take one of eks gke jobset kueue local many-nodes many-tags"),
        ({"OVERLAY": "local", "PODS": "0"}, "PODS=0: take a number from 1"),
        ({"OVERLAY": "local", "PODS": "2x"}, "PODS=2x: take a number from 1"),
        ({"OVERLAY": "local", "TAGS": "a", "TAGS_FILE": "b"}, "give TAGS or TAGS_FILE"),
        ({"OVERLAY": "local", "TAGS_FILE": "/nowhere"}, "there is nothing in it"),
        ({"OVERLAY": "local", "SET": "IMAGETAG_EPOCHS=2"}, "take JOB.VARIABLE=VALUE"),
        (
            {"OVERLAY": "local", "SET": "predict.IMAGETAG_TAG=robot"},
            "settings of predict, and no predict.IMAGETAG_OUTPUT",
        ),
        (
            {"OVERLAY": "jobset", "SET": "predict.IMAGETAG_TAG=a predict.IMAGETAG_OUTPUT=b.csv"},
            "has no chain",
        ),
        ({"OVERLAY": "jobset", "SET": "chain.CHAIN_FAILED_TAGS=continue"}, "has no chain"),
        ({"OVERLAY": "local", "IMAGES": "imagetag-train=host:5000/a"}, "take NAME=REPOSITORY:TAG"),
        ({"OVERLAY": "local", "IMAGES": "moon=a/b:1"}, "the overlay has no image moon"),
        ({"OVERLAY": "many-tags", "WORKERS": "2"}, "one pod alone fits a head"),
        ({"OVERLAY": "many-nodes", "SET": "embed.IMAGETAG_VIEWS=1"}, "one pod alone fits a head"),
        ({"OVERLAY": "jobset", "WORKERS": "2"}, "not in a JobSet, whose pods have other names"),
        ({"OVERLAY": "local", "REQUESTS": "train.gpu=2"}, "take JOB.cpu=, JOB.memory="),
        ({"OVERLAY": "local", "REQUESTS": "cpu=2"}, "take JOB.cpu=, JOB.memory="),
        ({"OVERLAY": "local", "REQUESTS": "predict.cpu=2"}, "one of scrape explore train evaluate"),
        ({"OVERLAY": "local", "REQUESTS": "train.cpu=2x"}, "take a quantity such as 500m"),
        (
            {"OVERLAY": "local", "REQUESTS": "train.memory=5000Mi"},
            "memory: a request of 5000Mi is more than the limit of 4Gi",
        ),
        ({"OVERLAY": "jobset", "REQUESTS": "train.cpu=4001m"}, "is more than the limit of 2,"),
        ({"OVERLAY": "local", "REQUESTS": "train.memory=4Gi:2G"}, "more than the limit of 2G,"),
    ],
)
def test_deploy_says_what_is_wrong(
    variables: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    manifests.kubectl()
    done = deploy(tmp_path, **variables)
    assert done.returncode == 2
    assert not done.stdout
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
