"""The file of a pipeline: what `imagetag init` writes, and what `imagetag run` takes of one."""

from __future__ import annotations

import re
import resource
import socket
import tomllib
from collections.abc import Sequence
from pathlib import Path

import boto3
import pytest
from PIL import Image

from imagetag.checks import FOLDER_VARIABLE
from imagetag.errors import TransientError, UsageError
from imagetag.job.command_line import arguments, make_settings, parse_settings
from imagetag.job.settings import nested
from imagetag.layout import INDEX, Layout
from imagetag.run import weights
from imagetag.run.file import with_file
from imagetag.run.stages import stages
from imagetag.storage.opening import open_storage
from jobs import init, run
from jobs.run import RunSettings
from jobs.scrape import ScrapeSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pipeline.toml"


def read(file: Path, *argv: str) -> RunSettings:
    settings = parse_settings(RunSettings, [str(file), *argv], command="run", summary="x")
    return with_file(settings)


def options(settings: RunSettings, job: str) -> list[str]:
    [found] = [stage for stage in stages(settings, ["fox"], Path()) if stage.job == job]
    return list(found.argv)


def complaint(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        stages(read(file), ["fox"], Path())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_init_writes_a_file_that_run_takes_and_leaves_one_that_is_there(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert init.main([str(file)]) == 0
    settings = read(file)
    assert (settings.tags, settings.board) == (("fox",), "safebooru")
    text = file.read_text()
    assert init.main([str(file)]) == 2
    assert f"{file} is there already" in capfd.readouterr().err
    assert file.read_text() == text


def test_every_option_of_every_job_is_in_the_file_with_its_default(file: Path) -> None:
    assert init.main([str(file)]) == 0
    text = file.read_text()
    bare = stages(read(file), ["fox"], Path())
    # Uncommented, it says the same: no value is spelled so that it is not read.
    file.write_text(re.sub(r"(?m)^#([a-z0-9-]+ = )(?! )", r"\1", text))
    full = read(file)
    assert len(file.read_text().splitlines()) == len(text.splitlines())
    content = tomllib.loads(file.read_text())
    for job, of in nested(RunSettings).items():
        left_out = {name for name in of.fields() if f"\n#{name.replace('_', '-')} =  #" in text}
        assert {name.replace("-", "_") for name in content[job]} >= set(of.fields()) - left_out
        tag: dict[str, object] = {"tag": "fox"} if job == "predict" else {"tags": ("fox",)}
        common = {"storage": "s", **tag}
        plain = make_settings(of.settings_class, common)
        given = make_settings(of.settings_class, {**common, **getattr(full, job)})
        assert plain.model_dump() == given.model_dump()
    assert [stage.job for stage in bare] == [stage.job for stage in stages(full, ["fox"], Path())]


def test_the_command_line_wins_over_variables_and_they_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('board = "a"\n[train]\nmodel = "vgg16"\nepochs = 9\nimage-size = "96x96"\n')
    monkeypatch.setenv("IMAGETAG_BOARD", "b")
    monkeypatch.setenv("IMAGETAG_TRAIN_MODEL", "mobilenet")
    monkeypatch.setenv("IMAGETAG_EPOCHS", "8")
    monkeypatch.setenv("IMAGETAG_IMAGE_SIZE", " ")  # which is none
    settings = read(file, "--train.model", "alexnet")
    assert settings.board == "b"
    found = options(settings, "train")
    assert {"--model=alexnet", "--epochs=8", "--image-size=96x96"} <= set(found)
    assert "--model=mobilenet" in options(read(file), "train")
    assert "--board=c" in options(read(file, "--board", "c"), "scrape")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nmodle = 'vgg19'", ["modle", "[train]", "did you mean model?"]),
        ("[trian]\nmodel = 'vgg19'", ["[trian]", "did you mean train?"]),
        ("bord = 'e621'", ["bord", "did you mean board?"]),
        ("epochs = 3", ["epochs", "[train]"]),
        ("modle = 'vgg19'", ["modle", "did you mean model in [train]?"]),
        ("[scrape]\nmodel = 'vgg19'", ["model in [scrape]; it is an option of [train]"]),
        ("[scrape]\nmodle = 'vgg19'", ["did you mean model in [train]?"]),
        ("train = 3", ["[train]"]),
        ("tags = [", ["pipeline.toml"]),
        ("[train]\nepochs = 'many'", ["--train.epochs", "'many'"]),
        ("[train]\nstorage = 'x'", ["storage", "[train]"]),
        ("[explore]\nmax-pixels = 3", ["--explore.max-pixels", "3"]),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(
    file: Path, text: str, words: list[str]
) -> None:
    told = complaint(file, text)
    assert all(word in told for word in words), told


def test_a_file_that_is_none_is_told_with_what_to_do(tmp_path: Path) -> None:
    for path, told in (
        (tmp_path / "none.toml", "there is no such file; imagetag init writes one"),
        (tmp_path, f"give --board folder+{tmp_path}"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            read(path)


def test_what_a_value_of_a_file_is_no_good_for_is_told_with_the_file(file: Path) -> None:
    assert f"{file}: --tags" in complaint(file, "tags = 1")


def test_pictures_to_predict_that_are_missing_are_told_before_anything_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, there = tmp_path / "out", tmp_path / "a, b"
    argv = ["--output", str(out), "--tags", "fox", "--board", f"folder+{tmp_path}"]
    assert run.main([*argv, "--input", f"{tmp_path},{there}"]) == 2
    assert (
        f"--input {there.parent / 'a'}: there is no such file or folder" in capfd.readouterr().err
    )
    assert not out.exists()
    there.mkdir()
    make_settings(RunSettings, {"input": str(there)}).check_input()


@pytest.mark.parametrize(
    ("board", "told"),
    [
        ("safeboru", "there is no such board; did you mean safebooru?"),
        ("folder+{}/none", "No such file or directory; name a folder"),
        ("links+{}/none.csv", "No such file or directory; name a file"),
    ],
)
def test_a_board_that_is_none_is_told_before_anything_is_done(
    board: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--output", str(out), "--tags", "fox", "--board", board.format(tmp_path)]
    assert run.main(argv) == 2
    assert told in capfd.readouterr().err
    assert not out.exists()


def test_weights_that_cannot_be_had_are_told_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(weights, "_SERVER", server)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    out = tmp_path / "out"
    argv = ["--output", str(out), "--tags", "fox", "--board", f"folder+{tmp_path}"]
    # No machine has those of this one by chance.
    assert run.main([*argv, "--train.model", "nasnetlarge"]) == 75
    told = capfd.readouterr().err
    assert f"nasnetlarge cannot be fetched ({server} cannot be reached); give --train.weights" in (
        told
    )
    assert not (out / "storage").exists()

    def check(tags: Sequence[str] = ("fox",)) -> None:
        weights.check_imagenet("nasnetlarge", open_storage(str(out / "storage")), tags)

    with pytest.raises(TransientError):
        check()
    # What is trained already needs none.
    latest = out / "storage" / Layout("fox").latest
    latest.parent.mkdir(parents=True)
    latest.touch()
    check()
    with pytest.raises(TransientError):
        check(["fox", "owl"])
    models = tmp_path / "keras/models"
    models.mkdir(parents=True)
    (models / "nasnet_mobile_no_top.h5").touch()
    with pytest.raises(TransientError):
        check(["owl"])
    (models / "nasnet_large_no_top.h5").touch()
    check(["owl"])


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").touch()
    argv = ["--output", str(tmp_path), "--tags", "fox", "--board", f"folder+{tmp_path}"]
    assert run.main(argv) == 2
    assert f"--output {tmp_path} cannot be written: " in capfd.readouterr().err


def test_all_stages_are_judged_before_the_first(tmp_path: Path) -> None:
    settings = parse_settings(
        RunSettings,
        ["--output", str(tmp_path / "out"), "--tags", "fox", "--evaluate.confidence", "2"],
        command="run",
        summary="x",
    )
    with pytest.raises(UsageError, match=r"--evaluate\.confidence"):
        stages(settings, ["fox"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_job_gets_its_settings_as_options_and_its_secrets_as_variables() -> None:
    values = {
        "storage": "s", "tags": ("fox",), "since": "2024-01-31", "rating": "safe,explicit",
        "curate": False, "board_key": "secret", "max_rate": 0.5,
        "blocked_tags": ("a,b", 'c"d', "e"),
    }  # fmt: skip
    settings = make_settings(ScrapeSettings, values)
    argv, secrets = arguments(settings)
    assert secrets == {"IMAGETAG_BOARD_KEY": "secret"}
    assert "secret" not in " ".join(argv)
    assert {"--no-curate", "--rating=general,explicit"} <= set(argv)
    assert settings.blocked_tags == ("a,b", 'c"d', "e")
    again = parse_settings(ScrapeSettings, argv, command="scrape", summary="x")
    assert again.model_dump(exclude={"board_key"}) == settings.model_dump(exclude={"board_key"})


def test_predictions_are_made_where_there_is_something_to_predict(
    file: Path, tmp_path: Path
) -> None:
    file.write_text("input = 'new'\n[predict]\nthreshold = 0.3\n")
    found = [stage for stage in stages(read(file), ["fox"], tmp_path) if stage.job == "predict"]
    output = "--output=imagetag-output/predictions.csv"
    assert {"--input=new", "--threshold=0.3", output} <= set(found[0].argv)
    assert found[0].for_all
    assert found[0].tags(["fox", "a,b"]) == [f"--tags-file={tmp_path / 'tags.txt'}"]
    assert (tmp_path / "tags.txt").read_text() == "fox\na,b\n"
    file.write_text("")
    assert "predict" not in [stage.job for stage in stages(read(file), ["fox"], Path())]


def test_heads_on_features_have_embed_before_them(file: Path) -> None:
    file.write_text("features = 'mobilenet'\n[embed]\nimage-size = '160x160'\n")
    jobs = [stage.job for stage in stages(read(file), ["fox"], Path())]
    assert jobs == ["scrape", "explore", "embed", "train", "evaluate", "report"]
    given = {"--extractor=mobilenet", "--image-size=160x160", "--shard-count=1"}
    assert given <= set(options(read(file), "embed"))
    assert "--features=latest" in options(read(file), "train")
    whole = read(file, "--features", "no")
    assert "--features=no" in options(whole, "train")
    assert "embed" not in [stage.job for stage in stages(whole, ["fox"], Path())]


def test_heads_alone_have_thresholds_from_out_of_fold(file: Path) -> None:
    file.write_text("features = 'mobilenet'\n[train]\nthreshold-from = 'out-of-fold'\n")
    assert "--threshold-from=out-of-fold" in options(read(file), "train")
    with pytest.raises(UsageError, match=r"--train\.threshold-from out-of-fold: goes with"):
        options(read(file, "--features", "no"), "train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nmodel = 'vgg19'", "--train.model does not go with --features: --features says"),
        ("[train]\nimage-size = '96x96'", "--embed.image-size says it of the network"),
        ("[train]\nepochs = 3", "--train.epochs does not go with --features: a head alone"),
        ("[embed]\nviews = 3", "--embed.views"),
        ("[embed]\nextractor = 'vgg19'", "there is no extractor in [embed]"),
        ("[train]\nfeatures = 'latest'", "there is no features in [train]"),
    ],
)
def test_what_does_not_go_with_features_is_told(file: Path, text: str, told: str) -> None:
    assert told in complaint(file, f"features = 'mobilenet'\n{text}")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--features", "mobilnet"], 2, "--features 'mobilnet': there is no backbone of that name"),
        (["--features", "latest"], 3, "no features in "),
        (["--features", "alexnet"], 2, "--features alexnet: there are no ImageNet weights of it"),
        (["--features", "nasnetlarge"], 75, "nasnetlarge cannot be fetched"),
        (["--features", "vgg19", "--embed.weights", "none"], 2, "--embed.weights none: features"),
    ],
)
def test_a_network_that_cannot_be_had_is_told_before_the_first_stage(
    arguments: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "_unreachable", lambda: "its server cannot be reached")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    out = tmp_path / "out"
    argv = ["--output", str(out), "--tags", "fox", "--board", f"folder+{tmp_path}"]
    assert run.main([*argv, *arguments]) == code
    [line] = capfd.readouterr().err.splitlines()
    assert told in line
    assert not (out / "storage").exists()


def test_advice_of_a_job_names_options_as_they_are_called_here(file: Path) -> None:
    file.write_text("")
    [train] = [stage for stage in stages(read(file), ["fox"], Path()) if stage.job == "train"]
    told = "scrape more with a higher --limit, or raise --threshold-fraction; --storage s --x"
    event = train.renamed({"event": told, "level": "warning", "positive": 3})
    assert event == {
        "event": "scrape more with a higher --scrape.limit, or raise --train.threshold-fraction; "
        "--storage s --x",
        "level": "warning",
        "positive": 3,
    }


def test_advice_on_the_network_is_of_the_job_that_has_it_here(file: Path) -> None:
    file.write_text("")
    told = {"event": "a larger --image-size or another --model", "level": "warning"}
    on_features = "a larger --embed.image-size or another --features"
    whole = "a larger --train.image-size or another --train.model"
    for features, called in (("no", whole), ("mobilenet", on_features)):
        settings = read(file, "--features", features)
        found = {stage.job: stage for stage in stages(settings, ["fox"], Path())}
        assert found["evaluate"].renamed(told)["event"] == called


def test_init_leaves_no_half_a_file_where_the_disk_is_full(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(init, "template", lambda *_: "\n" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert init.main([str(file)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not file.exists()
    assert f"{file} cannot be written: File too large" in capfd.readouterr().err


def test_the_jobs_of_a_run_share_an_s3_storage(
    s3_settings: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boto3.client("s3").create_bucket(Bucket="of-a-run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "fox").mkdir(parents=True)
    Image.new("RGB", (80, 80)).save(tmp_path / "pictures" / "fox" / "a.png")
    argv = ["--tags", "owl", "--board", "folder+pictures", "--storage", "s3://of-a-run/data"]
    argv += ["--train.weights", "none"]
    assert run.main(argv) == 3
    storage = open_storage("s3://of-a-run/data")
    assert "owl" in storage.read(INDEX).decode()
    assert storage.stat(".status/owl/scrape-0.failed.json") is not None
    assert [path.name for path in (tmp_path / "imagetag-output").iterdir()] == ["logs"]
