"""Images carried from a real containerd's store into a real CRI-O's: of every shape, and in no registry."""

import base64
import ctypes
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing

from installer.errors import PermanentError
from installer.facts.crio import ENDPOINT as CRIO
from installer.facts.registries import CARRY
from installer.host import Host
from installer.switch import shelf
from installer.switch.images import Runtime
from installer.switch.keyring import Keyring
from tests import oci
from tests.carrying import BLOBS, bring, full, has, look, named, reached_by_http
from tests.node.network import GATEWAY, listen
from tests.node.node import Node
from tests.oci import Blobs

pytestmark = pytest.mark.node

LAYERS = [
    {"bin/": b"", "bin/sh": b"#!x\n" * 20000, "etc/": b"", "etc/gone": b"x"},
    {"données/": b"", "données/héhé 日本語.txt": "ж".encode() * 3000, "etc/.wh.gone": b""},
    {"données/🦊": b"fox"},
]
NON_ASCII = "données/héhé 日本語.txt"


def unpacked(carrier: Node, path: str) -> list[str]:
    """Where CRI-O's store has a file of that path."""
    return carrier.run("find", "/var/lib/containers/storage/overlay", "-path", f"*/diff/{path}").stdout.splitlines()


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("packed", [True, False])
def test_an_image_of_several_layers_is_carried_with_names_beyond_ascii(
    carrier: Node, crio: Runtime, load: Callable[..., None], kind: str, packed: bool
) -> None:
    blobs = Blobs()
    name = f"layers-{kind}-{packed}".lower()
    top = blobs.image([*LAYERS, {"only/": b"", f"only/{name}-é": b"x"}], kind=kind, packed=packed)
    load(blobs, **{name: top})
    assert bring(crio, full(name)) == {}
    assert has(crio, full(name))
    assert has(crio, f"nowhere.invalid/{name}@{top['digest']}")
    assert unpacked(carrier, f"only/{name}-é")
    (fox, *_) = unpacked(carrier, NON_ASCII)
    assert carrier.run("cat", fox).stdout == "ж" * 3000


def test_what_docker_save_wrote_is_carried(carrier: Node, crio: Runtime, tmp_path: Path) -> None:
    carrier.load_image(oci.docker_archive(tmp_path / "saved.tar", full("saved"), LAYERS))
    assert bring(crio, full("saved")) == {}
    assert has(crio, full("saved"))


def test_an_index_is_carried_where_only_this_platforms_blobs_are_here(crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    ours = blobs.image([{"ours": b"1"}])
    theirs = Blobs().image([{"theirs": b"2"}], arch="arm64")
    top = blobs.index((theirs, "arm64"), (ours, "amd64"))
    load(blobs, several=top)
    by_digest = f"nowhere.invalid/several@{top['digest']}"
    assert bring(crio, full("several"), by_digest) == {}
    # What a pod may say: the tag, the index, the tag and the index, the instance.
    for said in (full("several"), by_digest, f"{full('several')}@{top['digest']}"):
        assert has(crio, said), said
    assert has(crio, f"nowhere.invalid/several@{ours['digest']}")


def test_an_index_that_names_no_platform_is_carried_by_its_tag(crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    top = blobs.index((blobs.image([{"unsaid": b"1"}]), ""))
    load(blobs, unsaid=top)
    assert bring(crio, full("unsaid")) == {}


def test_a_digest_alone_is_carried(crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    top = blobs.image([{"digest-only": b"1"}], says=False)
    load(blobs, bydigest=top)
    name = f"elsewhere.invalid/other/name@{top['digest']}"
    assert bring(crio, name) == {}
    assert has(crio, name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "nowhere.invalid:5000/team/port:1",
            "localhost/local:1",
            "localhost:5000/local:1",
            "127.0.0.1:5000/a/b_c:V1.x",
        ),
        *("docker.io/library/short-of-nowhere:1", "Upper.Invalid/upper:1", "deep.invalid/a/b/c/d/e/f__g:1"),
    ],
)
def test_any_name_is_carried_as_it_is(carrier: Node, crio: Runtime, tmp_path: Path, name: str) -> None:
    blobs = Blobs()
    carrier.load_image(blobs.archive(tmp_path / "a.tar", {name: blobs.image([{name.replace("/", "-"): b"1"}])}))
    assert bring(crio, name) == {}
    assert has(crio, name)
    assert not crio.host.exists(CARRY)


def test_a_short_name_of_a_pod_finds_what_was_carried(carrier: Node, crio: Runtime, tmp_path: Path) -> None:
    blobs = Blobs()
    name = "docker.io/library/tiny-of-nowhere:latest"
    carrier.load_image(blobs.archive(tmp_path / "a.tar", {name: blobs.image([{"tiny": b"1"}])}))
    assert bring(crio, "tiny-of-nowhere") == {}
    assert has(crio, "tiny-of-nowhere")
    assert has(crio, "tiny-of-nowhere:latest")


def test_what_is_there_is_not_brought_again(crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    load(blobs, again=blobs.image([{"again": b"1"}]))
    assert bring(crio, full("again")) == {}
    before = crio.host.run("stat", "-c", "%Y", "/var/lib/containers/storage/overlay-images/images.json").out
    assert bring(crio, full("again")) == {}
    assert crio.host.run("stat", "-c", "%Y", "/var/lib/containers/storage/overlay-images/images.json").out == before


def test_an_image_whose_layers_were_discarded_is_pulled_with_a_password(
    carrier: Node, crio: Runtime, host: Host, tmp_path: Path
) -> None:
    blobs = Blobs()
    top = blobs.image([{"secret-layer": b"1" * 1000}])
    gone = blobs.layers(top)[0]
    password = "robot:correct horse$battery"
    with oci.serving(oci.Registry(blobs, {"team/private:1": top["digest"]}, password), listen()) as registry:
        where = f"{GATEWAY}:{registry.port}"
        name = f"{where}/team/private:1"
        with reached_by_http(host, where):
            carrier.load_image(blobs.archive(tmp_path / "private.tar", {name: top}))
            # containerd's garbage collection would do it within seconds, or minutes.
            carrier.run("rm", f"{BLOBS}/{gone.replace(':', '/')}")
            assert look(host).digest(named(name)) == ""
            assert set(bring(crio, name)) == {name}
            with structlog.testing.capture_logs() as logs:
                wrong = base64.b64encode(b"robot:wrong").decode()
                keys = Keyring(
                    [
                        {"auths": {where: {"username": "robot", "password": password.partition(":")[2]}}},
                        {where: {"auth": wrong}},
                    ]
                )
                assert bring(crio, name, keys=keys) == {}
            assert "battery" not in repr(logs)
            assert "battery" not in repr(keys)
    assert has(crio, name)


def test_what_can_be_had_nowhere_is_named_with_the_reason(crio: Runtime) -> None:
    lost = bring(crio, "nowhere.invalid/missing:1", "nowhere.invalid/missing:2")
    assert set(lost) == {"nowhere.invalid/missing:1", "nowhere.invalid/missing:2"}
    assert all("lookup nowhere.invalid" in why for why in lost.values()), lost
    assert not crio.host.exists(CARRY)


def test_a_full_disk_ends_it_and_leaves_nothing_behind(carrier: Node, crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    load(blobs, small=blobs.image([{"small": b"1"}]), large=blobs.image([{"large": bytes(40 << 20)}], packed=False))
    # The root of CRI-O's downloads, as small as a full disk.
    carrier.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "/var/tmp")
    try:
        with pytest.raises(PermanentError, match="disk got full"):
            bring(crio, full("small"), full("large"))
    finally:
        carrier.run("umount", "/var/tmp")
    assert not has(crio, full("small"))
    assert not has(crio, full("large"))
    assert not crio.host.exists(CARRY)
    assert bring(crio, full("small"), full("large")) == {}


def test_a_drop_in_that_a_crash_left_goes(carrier: Node, host: Host, crio: Runtime) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        shelf.offered(host, "crictl", CRIO, look(host), [named("a.invalid/a:1")]) as heeded,
    ):
        assert heeded
        assert host.state(CARRY).mode == 0o600  # type: ignore[union-attr]
        raise KeyboardInterrupt
    assert not host.exists(CARRY)
    carrier.write(CARRY, '[[registry]]\nprefix = "a.invalid"\nlocation = "127.0.0.1:2/x"\ninsecure = true\n')
    shelf.sweep(host)
    assert not host.exists(CARRY)


def test_nobody_reads_images_without_the_address(carrier: Node, host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    name = named(next(str(one) for one in look(host).names if one.path == "busybox"))
    with shelf.offered(host, "crictl", CRIO, look(host), [name]):
        text = (host.read(CARRY) or b"").decode()
        address = next(line for line in text.splitlines() if "location" in line and "/0" in line).split('"')[1]
        port, secret, number = address.partition(":")[2].split("/")
        digest = look(host).digest(name)
        assert ask(host, port, f"/v2/{secret}/{number}/manifests/{digest}") == 200
        assert ask(host, port, f"/v2/{secret}/{number}/manifests/none") == 404
        assert ask(host, port, f"/v2/{secret}/99/manifests/1") == 404
        assert ask(host, port, f"/v2/{'0' * 32}/{number}/manifests/{digest}") == 404
        assert ask(host, port, f"/v2/{secret}/{number}/blobs/sha256:../../etc/passwd") == 404
        assert ask(host, port, "/v2/") == 200
        # Those that hang up, talk TLS, or talk nonsense are no news.
        for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"nonsense\r\n\r\n"):
            with connect(host, port) as connection:
                connection.sendall(said)
        assert ask(host, port, "/v2/") == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def ask(host: Host, port: str, path: str) -> int:
    """The status of an answer, asked from the node."""
    script = 'exec 3<>"/dev/tcp/127.0.0.1/$1"; printf "GET %s HTTP/1.0\\r\\n\\r\\n" "$2" >&3; head -n 1 <&3'
    return int(host.run("bash", "-c", script, "_", port, path).out.split()[1])


def connect(host: Host, port: str) -> socket.socket:
    """A connection from the node's own network."""
    libc = ctypes.CDLL(None)
    with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{host.init}/ns/net") as theirs:
        assert libc.setns(theirs.fileno(), 0) == 0
        try:
            return socket.create_connection(("127.0.0.1", int(port)))
        finally:
            assert libc.setns(ours.fileno(), 0) == 0
