"""Options, variables and defaults: which wins, what --help says, and how a mistake reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from imagetag.errors import EXIT_USAGE, UsageError
from imagetag.settings import TagSettings, checked_tag, env_name, option_name, parse_settings


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
        "log_format": "auto",
        "log_level": "info",
        "batch_size": "16",
        "weights": "imagenet",
        "ratings": "none",
        "negatives": "true",
    }
    assert set(defaults) == set(Settings.model_fields)
    for field, default in defaults.items():
        assert option_name(field) + " " in text
        assert f"[{env_name(field)}; {default}]" in text


@pytest.mark.parametrize("argv", [["--batchsize", "3"], ["--batch", "3"], ["stray"]])
def test_an_unknown_or_shortened_option_ends_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(*argv)
    assert left.value.code == EXIT_USAGE
    assert argv[0] in capsys.readouterr().err


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
