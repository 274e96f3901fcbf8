"""Of which images containerd's store has all that CRI-O needs, and what CRI-O is given for a name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.facts import reference
from installer.facts.reference import Reference
from installer.switch import space, store
from installer.switch.store import Store
from tests.oci import Blobs

LAYERS = [{"a": b"1" * 5000}, {"b/": b"", "b/ключ": b"2"}]


def name(text: str) -> Reference:
    found = reference.parse(text)
    assert found
    return found


APP = name("registry.test/app:1")


def made(folder: Path, blobs: Blobs, digest: str, arch: str = "amd64") -> Store:
    (folder / "sha256").mkdir(parents=True)
    for one, content in blobs.content.items():
        (folder / one.replace(":", "/")).write_bytes(content)
    return Store({APP: digest}, folder, arch)


def test_ctrs_list_is_read_with_all_its_oddities() -> None:
    digest = "sha256:" + "ab" * 32
    text = f"""\
REF TYPE DIGEST SIZE PLATFORMS LABELS
docker.io/library/busybox:1 application/vnd.oci.image.index.v1+json {digest} 2.1 MiB linux/amd64,linux/arm64 a=b
registry.test:5000/a/b@{digest} application/vnd.docker.distribution.manifest.v2+json {digest} - - -
sha256:{"cd" * 32} application/vnd.oci.image.manifest.v1+json {digest} 1.0 KiB linux/amd64 -
short
odd application/x sha1:12 1 B - -
"""
    found = store.parse_list(text)
    assert {str(one): what for one, what in found.items()} == {
        "docker.io/library/busybox:1": digest,
        f"registry.test:5000/a/b@{digest}": digest,
    }


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_whole_image_is_given_as_it_is(tmp_path: Path, kind: str, packed: bool) -> None:
    blobs = Blobs()
    top = blobs.image(LAYERS, kind=kind, packed=packed)
    found = made(tmp_path, blobs, top["digest"])
    assert found.digest(APP) == top["digest"]
    assert found.digest(name(f"registry.test/app@{top['digest']}")) == top["digest"]
    sizes = found.size(APP)
    assert list(sizes) == blobs.layers(top)
    assert {packed} == {is_packed for _, is_packed in sizes.values()}


def test_an_image_with_a_layer_discarded_or_cut_short_is_not_given(tmp_path: Path) -> None:
    blobs = Blobs()
    top = blobs.image(LAYERS)
    gone = blobs.layers(top)[0]
    assert made(tmp_path / "gone", blobs.without(gone), top["digest"]).digest(APP) == ""
    blobs.content[gone] = blobs.content[gone][:-1]
    cut = made(tmp_path / "cut", blobs, top["digest"])
    assert cut.digest(APP) == ""
    assert cut.size(APP) == {}


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_index_keeps_its_digest_where_only_this_platform_is_here(tmp_path: Path, kind: str) -> None:
    blobs = Blobs()
    ours, theirs = blobs.image(LAYERS, kind=kind), Blobs().image(LAYERS, kind=kind, arch="arm64")
    top = blobs.index((theirs, "arm64"), (ours, "amd64"), kind=kind)
    found = made(tmp_path, blobs, top["digest"])
    assert found.digest(APP) == top["digest"]
    assert list(found.size(APP)) == blobs.layers(ours)


def test_of_an_index_that_leaves_a_choice_the_whole_instance_is_given(tmp_path: Path) -> None:
    blobs = Blobs()
    other, ours = Blobs().image([{"x": b""}]), blobs.image(LAYERS)
    top = blobs.index((other, "amd64"), (ours, "amd64"))
    found = made(tmp_path, blobs, top["digest"])
    assert found.digest(APP) == ours["digest"]
    # Another digest than the one that was asked for would be refused.
    assert found.digest(name(f"registry.test/app@{top['digest']}")) == ""


def test_an_index_that_names_no_platform_is_read_by_its_images(tmp_path: Path) -> None:
    blobs = Blobs()
    theirs, ours = blobs.image(LAYERS, arch="arm64"), blobs.image(LAYERS)
    top = blobs.index((theirs, ""), (ours, ""))
    assert made(tmp_path, blobs, top["digest"]).digest(APP) == ours["digest"]


def test_an_image_for_another_machine_is_not_given(tmp_path: Path) -> None:
    blobs = Blobs()
    top = blobs.index((blobs.image(LAYERS, arch="arm64"), "arm64"))
    assert made(tmp_path, blobs, top["digest"]).digest(APP) == ""


def test_what_is_not_an_image_is_not_given(tmp_path: Path) -> None:
    blobs = Blobs()
    for at, content in enumerate((b"[]", b"no json", json.dumps({"manifests": []}).encode(), b'{"layers": []}')):
        digest = blobs.put(content, "x")["digest"]
        assert made(tmp_path / str(at), blobs, digest).digest(APP) == ""
    empty = Store({}, tmp_path, "amd64")
    assert empty.digest(APP) == ""
    assert empty.blob("sha256:../../../etc/passwd") is None


def test_an_index_that_holds_itself_ends(tmp_path: Path) -> None:
    found = made(tmp_path, Blobs(), "sha256:" + "0" * 64)
    entry = {"digest": "sha256:" + "0" * 64}
    (tmp_path / "sha256" / ("0" * 64)).write_text(json.dumps({"manifests": [entry, entry]}))
    assert found.digest(APP) == ""


@given(st.text(max_size=80))
def test_any_answer_of_ctr_is_read(text: str) -> None:
    store.parse_list(f"REF\n{text}")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes_are_for_people(count: int, said: str) -> None:
    assert space.size(count) == said
