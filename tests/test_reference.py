"""Image names, as Docker's own grammar and its two heirs complete them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.facts import reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1"),
        ("team/app:v1", "docker.io/team/app:v1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/a/b_c/d--e:x.Y_z-1", "localhost:5000/a/b_c/d--e:x.Y_z-1"),
        ("registry.test:443/app", "registry.test:443/app:latest"),
        ("[fd00::1]:5000/app:1", "[fd00::1]:5000/app:1"),
        ("REGISTRY/app:1", "REGISTRY/app:1"),
        (f"quay.io/app@{DIGEST}", f"quay.io/app@{DIGEST}"),
        (f"quay.io/app:1.2@{DIGEST}", f"quay.io/app@{DIGEST}"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
    ],
)
def test_a_name_is_completed_as_runtimes_do(text: str, wanted: str) -> None:
    found = reference.parse(text)
    assert str(found) == wanted
    assert found is not None
    assert reference.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "@", "/", "a:", "a/", "a//b", "a b", "Upper", "quay.io/Upper", "-a", "--all", "a@sha256:123"),
        *("quay.io/", "a:b:c/d", "<none>", "<none>:<none>", DIGEST, DIGEST[7:], "a..b/c:1\n", "../../etc", "a:x/y:1"),
    ],
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert reference.parse(text) is None


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text: str) -> None:
    found = reference.parse(text)
    if found is not None:
        assert reference.parse(str(found)) == found
        assert "\n" not in str(found)
        assert not str(found).startswith("-")
