"""OpenPGP fingerprints, checked against what gpg says of the same keys."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import openpgp

KINDS = ["rsa2048", "rsa3072", "ed25519", "nistp256", "dsa2048"]
Gpg = Callable[..., bytes]


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    """gpg with a home of its own, that holds a key of each kind."""
    # A home's agent socket must fit into 107 bytes, which pytest's own directories may exceed.
    with tempfile.TemporaryDirectory(prefix="gpg", dir="/tmp") as home:

        def run(*argv: str, stdin: bytes = b"") -> bytes:
            quietly = ["--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="]
            told = ["gpg", "--homedir", home, *quietly, *argv]
            return subprocess.run(told, input=stdin, check=True, capture_output=True).stdout

        for kind in KINDS:
            run("--quick-generate-key", f"{kind} <{kind}@example.org>", kind, "sign", "never")
        run("--quick-add-key", fingerprint(run, "rsa2048"), "rsa2048", "encrypt", "never")
        yield run
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def fingerprint(gpg: Gpg, kind: str) -> str:
    said = gpg("--with-colons", "--list-keys", f"{kind}@example.org").decode()
    return next(line.split(":")[9] for line in said.splitlines() if line.startswith("fpr:"))


@pytest.mark.machine
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("armor", [True, False], ids=["armored", "binary"])
def test_a_key_has_the_fingerprint_that_gpg_tells(gpg: Gpg, kind: str, armor: bool) -> None:
    data = gpg(*["--armor"] * armor, "--export", f"{kind}@example.org")
    assert openpgp.fingerprints(data) == (fingerprint(gpg, kind),)


@pytest.mark.machine
def test_all_keys_of_a_file_are_told_in_order_and_subkeys_are_not(gpg: Gpg) -> None:
    told = {fingerprint(gpg, kind) for kind in KINDS}
    assert set(openpgp.fingerprints(gpg("--armor", "--export"))) == told
    assert set(openpgp.fingerprints(gpg("--export"))) == told


@pytest.mark.machine
def test_two_armored_blocks_with_text_around_them_are_both_told(gpg: Gpg) -> None:
    first, second = (gpg("--armor", "--export", f"{kind}@example.org") for kind in ("ed25519", "rsa2048"))
    data = b"Our keys:\n" + first.replace(b"\n", b"\r\n") + b"\nand the old one\n" + second
    assert openpgp.fingerprints(data) == (fingerprint(gpg, "ed25519"), fingerprint(gpg, "rsa2048"))


@pytest.mark.machine
def test_dearmored_is_what_gpg_dearmors(gpg: Gpg) -> None:
    data = gpg("--armor", "--export", "ed25519@example.org")
    assert openpgp.dearmored(data) == gpg("--dearmor", stdin=data)
    assert openpgp.dearmored(openpgp.dearmored(data)) == openpgp.dearmored(data)


@pytest.mark.machine
def test_an_armor_header_and_no_checksum_do_not_disturb(gpg: Gpg) -> None:
    lines = gpg("--armor", "--export", "ed25519@example.org").splitlines(keepends=True)
    bare = b"".join(line for line in lines[1:] if not line.startswith(b"="))
    data = lines[0] + b"Version: GnuPG v2.0.15 (GNU/Linux)\n" + bare
    assert openpgp.fingerprints(data) == (fingerprint(gpg, "ed25519"),)


def refusal(data: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        openpgp.fingerprints(data, "/tmp/Release.key")
    assert caught.value.where == "/tmp/Release.key"
    assert caught.value.found
    assert caught.value.remedy
    return caught.value


@pytest.mark.machine
def test_damage_is_refused(gpg: Gpg) -> None:
    armored = gpg("--armor", "--export", "rsa2048@example.org")
    line = armored.splitlines()[5]
    other = line[:-1] + (b"A" if line[-1:] != b"A" else b"B")
    assert "checksum" in refusal(armored.replace(line, other)).found
    assert "damaged" in refusal(armored.replace(line, line[:-1])).what
    assert "cut off" in refusal(gpg("--export", "rsa2048@example.org")[:100]).what


@pytest.mark.machine
def test_what_is_no_public_key_is_refused(gpg: Gpg) -> None:
    assert "no OpenPGP public key" in refusal(b"").what
    assert "html" in refusal(b"<!DOCTYPE html>\n<title>404 Not Found</title>\n").found
    who = "ed25519@example.org"
    assert "more than public keys" in refusal(gpg("--export-secret-keys", who)).what
    assert "no OpenPGP public key" in refusal(gpg("--armor", "--export-secret-keys", who)).what
    assert "no OpenPGP public key" in refusal(gpg("--detach-sign", "-u", who, stdin=b"x")).what


@pytest.mark.machine
def test_a_key_hidden_in_a_block_of_another_name_is_refused(gpg: Gpg) -> None:
    first, second = (gpg("--armor", "--export", f"{kind}@example.org") for kind in ("ed25519", "rsa2048"))
    hidden = second.replace(b"PUBLIC KEY BLOCK", b"MESSAGE")
    assert "more than public keys" in refusal(first + hidden).what


@pytest.mark.machine
def test_a_key_hidden_in_a_compressed_packet_is_refused(gpg: Gpg) -> None:
    public = gpg("--export", "ed25519@example.org")
    assert "more than public keys" in refusal(public + bytes([0xC0 | 8, 3, 0, 1, 2])).what


@pytest.mark.parametrize("version", [3, 5, 6])
def test_a_key_of_another_version_is_refused_by_number(version: int) -> None:
    body = bytes([version]) + b"\0" * 20
    assert f"version is {version}" in refusal(bytes([0xC6, len(body)]) + body).found


@pytest.mark.parametrize("head", [b"\xc6\xff\0\0\0\x15", b"\xc6\x15", b"\x98\x15", b"\x99\0\x15", b"\x9a\0\0\0\x15"])
def test_every_way_to_write_a_length_gives_the_same_fingerprint(head: bytes) -> None:
    body = b"\x04" + b"\1" * 20
    assert openpgp.fingerprints(head + body) == openpgp.fingerprints(b"\xc6\x15" + body)


@pytest.mark.parametrize("head", [b"\xc6\xe0", b"\x9b"])
def test_a_length_that_is_not_told_is_refused(head: bytes) -> None:
    assert "not a list of keys" in refusal(head + b"\x04" + b"\1" * 20).what


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda x: b"\xc6" + x))
def test_no_bytes_give_a_traceback(data: bytes) -> None:
    try:
        assert all(len(one) == 40 for one in openpgp.fingerprints(data))
    except RefusedError as error:
        assert error.remedy
