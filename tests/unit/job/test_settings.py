"""Options, variables and defaults: which wins, what --help says, and how a mistake reads."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from imagetag.errors import EXIT_USAGE, UsageError
from imagetag.job.command_line import make_settings, parse_settings
from imagetag.job.options import option_name, sections
from imagetag.job.settings import OptionsOf, TagSettings
from imagetag.job.value_types import checked_tag
from imagetag.job.variables import env_name
from jobs import settings_of, variables
from jobs.cli import JOBS


class Settings(TagSettings):
    batch_size: int = Field(16, ge=1, description="images a step")
    weights: str = Field("imagenet", description="100% of the backbone's weights")
    ratings: str | None = Field(None, description="which ratings")
    negatives: bool = Field(True, description="also images without the tag")


def parse(*argv: str, storage: str | None = "here") -> Settings:
    given = (*argv, "--storage", storage) if storage else argv
    return parse_settings(Settings, given, command="try", summary="A job to try.")


def test_default_then_environment_then_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse().batch_size == 16
    monkeypatch.setenv("IMAGETAG_BATCH_SIZE", "32")
    assert parse().batch_size == 32
    assert parse("--batch-size", "64").batch_size == 64


def test_a_switch_is_set_and_unset_in_either_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse().negatives is True
    assert parse("--no-negatives").negatives is False
    monkeypatch.setenv("IMAGETAG_NEGATIVES", "false")
    assert parse().negatives is False
    assert parse("--negatives").negatives is True


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCH_SIZE", "WEIGHTS", "TAGS", "TAGS_FILE", "SHARD_INDEX", "NEGATIVES"):
        monkeypatch.setenv(f"IMAGETAG_{name}", "")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "")
    assert parse() == Settings(storage="here")


def test_blanks_and_line_breaks_at_the_ends_of_values_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Keyed(Settings):
        key: SecretStr = Field(SecretStr(""), description="a secret")
        folder: Path = Field(Path(), description="a folder")

    (tmp_path / "tags.txt").write_bytes(b"\xef\xbb\xbf fox \r\n\r\n# a note\r\n dog\t\r\n")
    expected = {
        "storage": "s3://bucket/a",
        "key": SecretStr("k e y"),
        "folder": Path("a b"),
        "batch_size": 7,
        "negatives": False,
        "log_format": "json",
        "tags": ("cat", "cow"),
        "tags_file": tmp_path / "tags.txt",
        "shard_count": 3,
        "weights": "none",
    }
    texts = {name: str(value) for name, value in expected.items()}
    texts |= {"key": "k e y", "tags": "cat, cow"}
    for name, value in texts.items():
        monkeypatch.setenv(env_name(name), f" {value}\r\n")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2\n")
    settings = parse_settings(Keyed, (), command="try", summary="A job to try.")
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.all_tags() == ["cat", "cow", "fox", "dog"]
    assert settings.shard_index == 2
    given = ("--weights", "imagenet\n", "--storage", "here ")
    assert (
        parse_settings(Keyed, given, command="try", summary="A job to try.").weights == "imagenet"
    )


def test_a_blank_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCH_SIZE", "WEIGHTS", "TAGS", "TAGS_FILE", "SHARD_INDEX", "NEGATIVES"):
        monkeypatch.setenv(f"IMAGETAG_{name}", " \n")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "\n")
    assert parse() == Settings(storage="here")
    with pytest.raises(UsageError, match=r"--storage \(IMAGETAG_STORAGE\) is required"):
        parse(storage=" \n")


def test_help_names_every_option_its_variable_and_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        parse("--help")
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "100% of the backbone's weights" in text
    defaults = {
        "storage": "required",
        "tags": "none",
        "tags_file": "none",
        "shard_index": "JOB_COMPLETION_INDEX or 0",
        "shard_count": "1",
        "metrics_file": "none",
        "metrics_push": "none",
        "log_format": "auto",
        "log_level": "info",
        "batch_size": "16",
        "weights": "imagenet",
        "ratings": "none",
        "negatives": "true",
    }
    assert set(defaults) == set(Settings.model_fields)
    for field, default in defaults.items():
        assert f" {option_name(field)} " in text.replace(",", " ")
        assert f"[{env_name(field)}; {default}]" in text


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--batchsize", "3"], "there is no --batchsize; did you mean --batch-size?"),
        (["--batchsize=3"], "there is no --batchsize; did you mean --batch-size?"),
        (["-weights", "none"], "there is no -weights; did you mean --weights?"),
        (["--no-negative"], "there is no --no-negative; did you mean --no-negatives?"),
        (["--frobnicate"], "there is no --frobnicate: see imagetag try --help"),
        (["stray"], "'stray' is no option: see imagetag try --help"),
        (["--weights"], "argument --weights: expected one argument; see imagetag try --help"),
        (
            ["--rating", "safe", "--batch-size", "x", "--log-level", "inof"],
            "there is no --rating; did you mean --ratings?; "
            "--log-level (IMAGETAG_LOG_LEVEL): 'inof' is none of debug, info, warning, error; "
            "did you mean info?; "
            "--batch-size (IMAGETAG_BATCH_SIZE): 'x' is no whole number, such as 3",
        ),
    ],
)
def test_an_unknown_option_is_one_line_with_what_may_have_been_meant(
    argv: list[str], told: str
) -> None:
    with pytest.raises(UsageError) as error:
        parse(*argv)
    assert str(error.value) == told
    assert error.value.exit_code == EXIT_USAGE


class Kinds(Settings):
    rate: float | None = Field(None, gt=0, le=2, description="a number")
    count: int | None = Field(None, description="a whole number")
    word: Literal["one", "two"] | None = Field(None, description="a choice")
    since: datetime | None = Field(None, description="a day")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("count", "many", "'many' is no whole number, such as 3"),
        ("count", "3.5", "'3.5' is no whole number, such as 3"),
        ("count", 3.5, "3.5 is no whole number, such as 3"),
        ("count", [1], "[1] is no whole number, such as 3"),
        ("rate", "fast", "'fast' is no number, such as 0.5"),
        ("rate", "nan", "'nan' is no finite number"),
        ("rate", 0, "0 is not above 0"),
        ("rate", "3", "'3' is not at most 2"),
        ("word", "tow", "'tow' is none of one, two; did you mean two?"),
        ("word", 1, "1 is none of one, two"),
        ("negatives", "maybe", "'maybe' is no switch: write true or false"),
        ("negatives", 3, "3 is no switch: write true or false"),
        ("since", "2024-13-40", "'2024-13-40' is no day or time, such as 2024-01-31"),
        ("weights", ["a"], "['a'] is no text"),
        ("tags", 3, '3 is no list: write a,b or in a file ["a", "b"]'),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_in_our_words_wherever_it_is_from(
    field: str, value: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"{option_name(field)} ({env_name(field)}): {told}"
    with pytest.raises(UsageError) as error:
        make_settings(Kinds, {"storage": "x"}, file={field: value})
    assert str(error.value) == expected
    if isinstance(value, str):
        monkeypatch.setenv(env_name(field), value)
        with pytest.raises(UsageError) as error:
            parse_settings(Kinds, ["--storage", "x"], command="try", summary="x")
        assert str(error.value) == expected


@pytest.mark.parametrize("where", ["option", "variable"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", "many"),
        ("batch_size", "0"),
        ("shard_index", "-1"),
        ("shard_count", "0"),
        ("log_format", "xml"),
        ("batch_size", "1\n2"),
    ],
)
def test_a_wrong_value_is_one_line_with_option_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, where: str, field: str, value: str
) -> None:
    argv = []
    if where == "option":
        argv = [f"{option_name(field)}={value}"]
    else:
        monkeypatch.setenv(env_name(field), value)
    with pytest.raises(UsageError) as error:
        parse(*argv)
    text = str(error.value)
    assert "\n" not in text
    assert option_name(field) in text
    assert env_name(field) in text
    assert repr(value) in text


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"--storage.*required.*--batch-size"):
        parse("--batch-size=x", storage=None)


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(UsageError) as error:
        parse("--batch-size", "x" * 100_000)
    assert len(str(error.value)) < 500


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().batch_size = 3  # type: ignore[misc]


def test_tags_are_a_comma_list_or_a_file_or_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tags.txt"
    file.write_text("# my tags\n\n  holo  \n#compass\nre:zero\nasuka\n", encoding="utf-8")
    assert parse("--tags", " asuka , ,holo,").all_tags() == ["asuka", "holo"]
    assert parse("--tags-file", str(file)).all_tags() == ["holo", "#compass", "re:zero", "asuka"]
    monkeypatch.setenv("IMAGETAG_TAGS", "asuka,rei")
    assert parse("--tags-file", str(file)).all_tags() == [
        "asuka",
        "rei",
        "holo",
        "#compass",
        "re:zero",
    ]


def test_a_tags_file_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "tags.txt"
    file.write_bytes("\ufeffasuka\r\nrei\r\n".encode())
    assert parse("--tags-file", str(file)).all_tags() == ["asuka", "rei"]


def test_a_line_of_a_tags_file_is_one_tag(tmp_path: Path) -> None:
    file = tmp_path / "tags.txt"
    file.write_text('"asuka\nre\u2028i\rholo"\n', newline="")
    assert parse("--tags-file", str(file)).all_tags() == ['"asuka', "re_i", 'holo"']


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_tags_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tags.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"--tags-file .*tags\.txt") as error:
        parse("--tags-file", str(file)).all_tags()
    assert "\n" not in str(error.value)


def test_no_tags_at_all_says_how_to_give_them() -> None:
    with pytest.raises(UsageError, match="--tags a,b or --tags-file"):
        parse().all_tags()


@pytest.mark.parametrize(
    "tag",
    ["fate/stay_night", "re:zero", "jeanne_d'arc_(fate)", "初音ミク", "..", ":d", ">_<", "c++"],
)
def test_odd_tags_are_tags(tag: str) -> None:
    assert parse("--tags", tag).all_tags() == [tag]


def test_spaces_become_underscores() -> None:
    assert checked_tag("  souryuu asuka  langley ") == "souryuu_asuka_langley"


@pytest.mark.parametrize(
    "name", ["", "  ", "-solo", "~solo", "asuka*", "*", "a\x00b", "a\x7f", "x" * 201, "\udcff"]
)
def test_operators_and_what_is_no_tag_are_refused_with_their_name(name: str) -> None:
    with pytest.raises(UsageError) as error:
        checked_tag(name)
    assert repr(name[:40]) in str(error.value)
    assert len(str(error.value)) < 200


@given(st.integers(0, 60), st.integers(1, 12))
def test_the_shares_are_disjoint_and_cover_all(tags: int, count: int) -> None:
    names = [f"tag_{number}" for number in range(tags)] + ["last"]
    shares = [
        Settings(storage="x", tags=tuple(names), shard_index=index, shard_count=count).my_tags()
        for index in range(count)
    ]
    assert sorted(tag for share in shares for tag in share) == sorted(names)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_indexed_job_gives_the_pod_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("IMAGETAG_SHARD_COUNT", "3")
    assert parse("--tags", "a,b,c,d,e").my_tags() == ["b", "e"]
    assert parse("--tags", "a,b,c,d,e", "--shard-index", "0").my_tags() == ["a", "d"]


@pytest.mark.parametrize("index", ["one", "-1", "1.5", "²", "9" * 5000])
def test_an_odd_completion_index_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    with pytest.raises(UsageError) as error:
        parse("--tags", "a,b")
    assert "JOB_COMPLETION_INDEX" in str(error.value)
    assert repr(index[:100]) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_index_beyond_the_count_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "4")
    with pytest.raises(UsageError, match=r"--shard-index 4 .*--shard-count 4"):
        parse("--tags", "a,b", "--shard-count", "4").my_tags()


class Grouped(Settings):
    headings: ClassVar = {"Images": ("ratings",), "Log": ("negatives",)}


def test_options_stand_under_the_headings_of_their_classes() -> None:
    assert sections(Grouped) == [
        ("", ["storage", "tags", "tags_file", "batch_size", "weights"]),
        ("Images", ["ratings"]),
        ("Log", ["negatives", "log_format", "log_level"]),
        ("Share of the tags", ["shard_index", "shard_count"]),
        ("Metrics", ["metrics_file", "metrics_push"]),
    ]


def test_help_shows_the_headings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(Grouped, ["--help"], command="try", summary="A job to try.")
    text = capsys.readouterr().out
    assert text.startswith("usage: imagetag try [OPTIONS]\n\nA job to try.\n")
    order = ["--storage", "--weights", "\nImages:\n", "--ratings", "\nLog:\n", "--log-format"]
    assert sorted(order, key=text.index) == order


@pytest.mark.parametrize("job", JOBS)
def test_every_option_of_a_job_stands_once_and_few_come_first(job: str) -> None:
    found = sections(settings_of(job))
    names = [name for _, names in found for name in names]
    assert sorted(names) == sorted(settings_of(job).model_fields)
    assert found[0][0] == ""
    assert len(found[0][1]) <= 12


class Outer(TagSettings):
    file: Path | None = Field(
        None, description="what to read", json_schema_extra={"positional": True}
    )
    inner: Annotated[dict[str, Any], OptionsOf(Settings, without=("storage", "tags"))] = Field(
        {}, description="any option of imagetag try"
    )


def outer(*argv: str, file: dict[str, Any] | None = None) -> tuple[Outer, Settings]:
    found = parse_settings(
        Outer, [*argv, "--storage", "here"], command="all", summary="Jobs to try."
    )
    given = {**found.inner, "storage": found.storage}
    return found, make_settings(Settings, given, prefix="inner.", file=file)


def test_another_jobs_options_are_taken_under_its_prefix() -> None:
    found, inner = outer(
        "a.toml", "--inner.batch-size", "3", "--inner.no-negatives", "--inner.weights=none"
    )
    assert found.file == Path("a.toml")
    assert (inner.batch_size, inner.negatives, inner.weights) == (3, False, "none")
    assert inner.storage == "here"
    assert outer("--inner.negatives")[1].negatives is True
    assert outer()[0].file is None


def test_its_option_wins_over_its_variables_and_those_over_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = {"batch-size": 2, "weights": 2000, "ratings": "safe", "negatives": False}
    assert outer(file=file)[1].batch_size == 2
    assert outer(file=file)[1].weights == "2000"
    monkeypatch.setenv("IMAGETAG_BATCH_SIZE", "4")
    monkeypatch.setenv("IMAGETAG_RATINGS", " ")
    monkeypatch.setenv("IMAGETAG_NEGATIVES", "true")
    assert outer(file=file)[1].batch_size == 4
    assert outer(file=file)[1].ratings == "safe"
    assert outer(file=file)[1].negatives is True
    monkeypatch.setenv("IMAGETAG_INNER_BATCH_SIZE", "5")
    assert outer(file=file)[1].batch_size == 5
    assert outer("--inner.batch-size", "6", file=file)[1].batch_size == 6


@pytest.mark.parametrize(
    ("argv", "file", "told"),
    [
        (
            ["--inner.wieghts", "x"],
            {},
            "there is no --inner.wieghts; did you mean --inner.weights?",
        ),
        (
            ["--inner.batch-size", "0", "--inner.log-format=jsno"],
            {},
            "--inner.log-format (IMAGETAG_INNER_LOG_FORMAT): 'jsno' is none of auto, json, "
            "console; did you mean json?; "
            "--inner.batch-size (IMAGETAG_INNER_BATCH_SIZE): '0' is not at least 1",
        ),
        ([], {"wieghts": 1}, "there is no --inner.wieghts; did you mean --inner.weights?"),
        (["--inner.storage", "x"], {}, "there is no --inner.storage"),
    ],
)
def test_what_is_wrong_with_its_options_is_told_with_the_prefix(
    argv: list[str], file: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as error:
        outer(*argv, file=file)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("name", ["IMAGETAG_BATCHSIZE", "imagetag_batch_sise"])
def test_a_variable_that_is_no_setting_is_an_error_that_suggests_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "8")
    with pytest.raises(UsageError) as error:
        parse("--batch-size", "x")
    assert str(error.value).startswith(
        f"the variable {name} is set, and there is no such setting; "
        "did you mean IMAGETAG_BATCH_SIZE?; --batch-size (IMAGETAG_BATCH_SIZE): "
    )
    monkeypatch.setenv(name, " ")  # as an empty one is an unset one
    assert parse().batch_size == 16


def test_the_variables_of_all_jobs_may_be_set_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGETAG_MIN_PRECISION", "0.9")
    monkeypatch.setenv("IMAGETAG_LIMIT", "7")
    monkeypatch.setenv("IMAGETAG_IMAGENET_FOLDER", "/weights")
    argv = ["--storage", "here"]
    train = parse_settings(settings_of("train"), argv, command="train", summary="")
    assert isinstance(train, TagSettings)
    monkeypatch.setenv("IMAGETAG_MIN_PERCISION", "0.9")
    with pytest.raises(UsageError, match=r"IMAGETAG_MIN_PERCISION .*mean IMAGETAG_MIN_PRECISION\?"):
        parse_settings(settings_of("train"), argv, command="train", summary="")


def test_the_variables_of_all_jobs_are_those_in_their_help() -> None:
    assert {"IMAGETAG_STORAGE", "IMAGETAG_MODEL", "IMAGETAG_BOARD_KEY", "IMAGETAG_PORT"} <= (
        variables()
    )


@pytest.mark.parametrize(
    "name",
    [
        "IMAGETAG_SERVICE_HOST",
        "IMAGETAG_SERVICE_PORT",
        "IMAGETAG_SERVICE_PORT_HTTP",
        "IMAGETAG_PORT",
        "IMAGETAG_PORT_80_TCP",
        "IMAGETAG_PORT_80_TCP_ADDR",
        "IMAGETAG_PORT_80_TCP_PORT",
        "IMAGETAG_PORT_80_TCP_PROTO",
        "IMAGETAG_BOARD_TWO_SERVICE_HOST",
        "IMAGETAG_X_SERVICE_PORT",
        "IMAGETAG_X_SERVICE_PORT_HTTP_ALT",
        "IMAGETAG_X_PORT",
        "IMAGETAG_X_PORT_80_TCP",
        "IMAGETAG_X_PORT_80_TCP_ADDR",
        "IMAGETAG_X_PORT_80_TCP_PORT",
        "IMAGETAG_X_PORT_53_UDP_PROTO",
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert parse() == Settings(storage="here")


def test_a_service_may_be_called_as_a_setting_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(text: str, *argv: str) -> Any:
        monkeypatch.setenv("IMAGETAG_PORT", text)
        settings = parse_settings(settings_of("board"), argv, command="board", summary="")
        return settings.model_dump()["port"]

    assert port("tcp://10.0.0.1:80") == port("tcp://[fd00::1]:80") == port("") == 8480
    assert port("tcp://10.0.0.1:80", "--port=81") == 81
    assert port("82") == 82
    for text in ("tcp", "10.0.0.1:80"):
        with pytest.raises(UsageError, match=r"--port \(IMAGETAG_PORT\): "):
            port(text)
    with pytest.raises(UsageError, match=r"--port \(IMAGETAG_PORT\): "):
        port("", "--port=tcp://10.0.0.1:80")


@pytest.mark.parametrize(
    ("job", "argv", "meant"),
    [
        ("run", ["--modle", "mobilenet"], "--train.model"),
        ("run", ["--epochs", "3"], "--train.epochs"),
        ("run", ["--train.modle", "x"], "--train.model"),
        ("run", ["--scrape.model", "x"], "--train.model"),
        ("run", ["--evalaute.batch-size", "9"], "--evaluate.batch-size"),
        (
            "run",
            ["--batch-sise", "9"],
            "--embed.batch-size, --train.batch-size, --evaluate.batch-size or --predict.batch-size",
        ),
        ("run", ["--no-curate"], "--scrape.no-curate"),
        ("run", ["--bord", "x"], "--board"),
        ("train", ["--train.model", "x", "--storage=x"], "--model"),
    ],
)
def test_what_is_an_option_of_one_job_is_suggested_as_it_is_called_here(
    job: str, argv: list[str], meant: str
) -> None:
    with pytest.raises(UsageError) as error:
        parse_settings(settings_of(job), argv, command=job, summary="")
    assert str(error.value) == f"there is no {argv[0]}; did you mean {meant}?"


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999"])
def test_a_number_that_is_none_is_told(value: str) -> None:
    with pytest.raises(UsageError, match=r"--checkpoint-seconds .*number"):
        make_settings(
            settings_of("train"), {"storage": "x", "tags": ("fox",), "checkpoint_seconds": value}
        )
