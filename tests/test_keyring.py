"""Passwords for images, found as the kubelet finds them, and never shown."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.facts import reference, registries
from installer.switch import keyring
from installer.switch.keyring import Keyring

DIGEST = "sha256:" + "ab" * 32


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def auths(name: str, *documents: dict[str, Any]) -> list[str]:
    found = reference.parse(name)
    assert found
    return [base64.b64decode(auth).decode() for auth in Keyring(documents).auths(found)]


def one(where: str) -> dict[str, Any]:
    return {"auths": {where: {"auth": b64(f"me:{where}")}}}


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("registry.test", "registry.test/a:1"),
        ("https://registry.test", "registry.test/a:1"),
        ("https://registry.test/v2/", "registry.test/a:1"),
        ("registry.test:5000", f"registry.test:5000/a@{DIGEST}"),
        ("registry.test/team", "registry.test/team/a:1"),
        ("*.azurecr.io", "mine.azurecr.io/a:1"),
        ("https://index.docker.io/v1/", "busybox"),
        ("docker.io", "docker.io/team/a:1"),
        ("registry-1.docker.io", "team/a:1"),
    ],
)
def test_a_password_opens_what_the_kubelet_would_open_by_it(where: str, name: str) -> None:
    assert auths(name, one(where)) == [f"me:{where}"]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("registry.test", "registry.test:5000/a:1"),
        ("registry.test:5000", "registry.test/a:1"),
        ("registry.test/team", "registry.test/other/a:1"),
        ("*.azurecr.io", "a.b.azurecr.io/a:1"),
        ("*", "registry.test/a:1"),
        ("quay.io", "busybox"),
        ("https://[broken", "busybox"),
    ],
)
def test_a_password_opens_nothing_else(where: str, name: str) -> None:
    assert auths(name, one(where)) == []


def test_the_longest_place_comes_first_and_each_password_once() -> None:
    documents = [one("registry.test"), one("registry.test/team"), one("registry.test/team")]
    assert auths("registry.test/team/a:1", *documents) == ["me:registry.test/team", "me:registry.test"]


def test_every_way_to_write_a_password_is_read() -> None:
    assert auths("r.test/a", {"auths": {"r.test": {"username": "me", "password": "a:b"}}}) == ["me:a:b"]
    assert auths("r.test/a", {"r.test": {"auth": b64("me:old")}}) == ["me:old"]
    assert auths("r.test/a", {"auths": {"r.test": {"auth": "no base64!"}}}) == []
    assert auths("r.test/a", {"auths": {"r.test": {"identitytoken": "x"}}}, {"auths": {"r.test": None}}) == []


def test_containerds_passwords_are_read_too() -> None:
    config = """
        [plugins."io.containerd.grpc.v1.cri".registry.configs."r.test".auth]
        username = "me"
        password = "secret"
        [plugins."io.containerd.grpc.v1.cri".registry.auths."https://old.test"]
        auth = "bWU6b2xk"
    """
    document = registries.passwords(config)
    assert auths("r.test/a", document) == ["me:secret"]
    assert auths("old.test/a", document) == ["me:old"]
    assert auths("r.test/a", registries.passwords("no [toml")) == []


def test_a_keyring_shows_places_only() -> None:
    assert repr(Keyring([{"auths": {"r.test": {"username": "me", "password": "secret"}}}])) == "Keyring of r.test"


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,auths12 '), max_size=60).map(str.encode))
def test_any_content_is_a_document_or_nothing(content: bytes) -> None:
    found = reference.parse("r.test/a")
    assert found
    assert Keyring([keyring.parse(content)]).auths(found) == []
