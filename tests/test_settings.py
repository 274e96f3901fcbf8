"""What the operator asked for: taken as meant, or every problem told at once."""

import dataclasses
import os
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from installer.errors import SettingsError
from installer.settings import PREFIX, Settings, table, variable

FIELDS = dataclasses.fields(Settings)
NAMES = [variable(field.name) for field in FIELDS]


def load(**environment: str) -> Settings:
    """Settings from this environment and nothing else."""
    with mock.patch.dict(os.environ, environment, clear=True):
        return Settings.load()


def ours(name: str, value: str) -> Settings:
    return load(**{variable(name): value})


def refusal(**environment: str) -> SettingsError:
    with pytest.raises(SettingsError) as refused:
        load(**environment)
    assert refused.value.where
    assert refused.value.remedy
    assert refused.value.exit_status == 2
    return refused.value


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load() == Settings()
    assert load(PATH="/bin", SYSBOX_OTHER="theirs", OTHER_SYSBOX_DEPLOY_X="theirs") == Settings()


def test_ours_have_our_prefix_and_upstreams_keep_their_names() -> None:
    assert {name for name in NAMES if not name.startswith(PREFIX)} == {
        *("NODE_NAME", "SYSBOX_MGR_CONFIG", "SYSBOX_FS_CONFIG", "SYSBOX_TAINT")
    }
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_takes_its_own_default(field: "dataclasses.Field[Any]") -> None:
    shown = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
    assert ours(field.name, shown) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("node_name", "worker-1", "worker-1"),
        ("sysbox_mgr_config", "--log-level debug --x='a b' 100%", "--log-level debug --x='a b' 100%"),
        ("sysbox_taint", "", ""),
        ("sysbox_taint", "example.com/sysbox:NoExecute", "example.com/sysbox:NoExecute"),
        ("allow", "kernel,swap", ("kernel", "swap")),
        ("allow_control_plane", "true", True),
        ("host_init", "4242", 4242),
        ("log_format", "json", "json"),
        ("subid_count", "65536", 65536),
        ("subid_count", "4294967295", 4294967295),
        ("crio_repository", "https://mirror.example/{minor}/deb/", "https://mirror.example/{minor}/deb/"),
        ("crio_repository", "http://10.0.0.1:8080/x", "http://10.0.0.1:8080/x"),
        ("crio_repository", "file:/srv/repository", "file:/srv/repository"),
        ("crio_repository", "file:///srv/repository", "file:///srv/repository"),
        ("crio_repository", "/srv/repository", "/srv/repository"),
        ("crio_repository_suite", "bookworm main contrib", "bookworm main contrib"),
        ("crio_repository_suite", "./", "./"),
        ("sysbox_sha256", "0" * 64, "0" * 64),
        ("shiftfs", "off", "off"),
        ("drain", "yes", True),
        ("drain_deadline", "continue", "continue"),
    ],
)
def test_a_value_is_taken_as_meant(name: str, text: str, value: object) -> None:
    assert getattr(ours(name, text), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("node_name", "Worker 1"),
        ("node_name", "../x"),
        ("sysbox_mgr_config", "--a\n--b"),
        ("sysbox_taint", "sysbox-runtime"),
        ("sysbox_taint", "sysbox-runtime=not-running:Sometimes"),
        ("sysbox_fs_config", "\x7f"),
        ("allow_control_plane", "perhaps"),
        ("allow_control_plane", ""),
        ("host_init", "0"),
        ("host_init", "-1"),
        ("host_init", ""),
        ("host_init", "1.5"),
        ("host_init", "0x10"),
        ("log_format", "xml"),
        ("log_format", ""),
        ("log_format", "text\n"),
        ("shiftfs", ""),
        ("drain_deadline", ""),
        ("drain_deadline", "never"),
        ("subid_count", "all"),
        ("subid_count", "4294967296"),
        ("pids_limit", "9" * 30),
        ("crio_repository", "mirror.example/deb"),
        ("crio_repository", "ftp://mirror.example"),
        ("crio_repository", "https://mirror.example/a b"),
        ("crio_repository", "https://"),
        ("crio_repository", "http:///deb"),
        ("crio_repository", "http://[::1"),
        ("crio_repository", "file:srv/repository"),
        ("crio_repository", "file://host/srv"),
        ("crio_repository", "/srv/a\nb"),
        ("crio_repository", "/srv/a b"),
        ("crio_repository_suite", ""),
        ("crio_repository_suite", " "),
        ("crio_repository_suite", "bookworm\nmain"),
        ("crio_repository_key", "Release.key"),
        ("crio_key_fingerprint", "not hexadecimal"),
        ("crio_drop_ins", "relative"),
        ("sysbox_package", "sysbox.deb"),
        ("sysbox_sha256", "abc"),
        ("sysbox_sha256", "A" * 64),
    ],
)
def test_a_value_without_sense_is_refused_by_its_variable(name: str, text: str) -> None:
    refused = refusal(**{variable(name): text})
    assert refused.found.startswith(f"{variable(name)}: ")
    assert refused.what == "1 setting is not valid"


def test_every_problem_is_told_at_once_unknown_names_too() -> None:
    refused = refusal(
        SYSBOX_DEPLOY_DRAIN="perhaps",
        SYSBOX_DEPLOY_HOST_INIT="-1",
        SYSBOX_DEPLOY_NODE_NAME="worker-1",
        SYSBOX_DEPLOY_DRIAN="true",
        SYSBOX_DEPLOY_="",
        SYSBOX_MGR_CONFIG="a\nb",
        SYSBOX_DEPLOY_LOG_FORMAT="json",
    )
    assert [problem.partition(":")[0] for problem in refused.found.split("; ")] == [
        *("SYSBOX_DEPLOY_", "SYSBOX_DEPLOY_DRAIN", "SYSBOX_DEPLOY_DRIAN", "SYSBOX_DEPLOY_HOST_INIT"),
        *("SYSBOX_DEPLOY_NODE_NAME", "SYSBOX_MGR_CONFIG"),
    ]
    assert refused.what == "6 settings are not valid"
    assert refused.found.count("no such setting") == 3


VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", " ", "0", "1", "-1", "true", "http://[", "//", "file:", "/", "\udcff", "%", "{minor}", "a,b", ","]
    ),
)
ENVIRONMENTS = st.dictionaries(st.sampled_from([*NAMES, f"{PREFIX}UNKNOWN"]), VALUES, max_size=6)


@settings(deadline=None)
@given(ENVIRONMENTS)
def test_any_environment_is_taken_or_refused_with_each_of_its_problems(environment: dict[str, str]) -> None:
    bad = set()
    for name, value in environment.items():
        try:
            load(**{name: value})
        except SettingsError:
            bad.add(name)
    if not bad:
        load(**environment)
        return
    found = refusal(**environment).found
    assert all(f"{name}: " in found for name in bad)
    assert not any(found.startswith(f"{name}: ") or f"; {name}: " in found for name in set(environment) - bad)


def test_fingerprints_are_compared_without_spaces_and_case() -> None:
    assert load().fingerprints == frozenset()
    given = ours("crio_key_fingerprint", "de15 B144 86cd, 2472D6D0,")
    assert given.fingerprints == {"DE15B14486CD", "2472D6D0"}


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == NAMES
    assert all(row.count("|") == 4 for row in rows)
    assert "| `SYSBOX_DEPLOY_DRAIN` | `false` |" in table()
    assert "| `NODE_NAME` |  |" in table()
