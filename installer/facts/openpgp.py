"""OpenPGP public keys, as far as it takes to know them by their fingerprints (RFC 4880, RFC 9580)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from installer.errors import RefusedError

_ARMOR = re.compile(
    rb"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(?:[^\r\n:]+:[^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"(?P<body>.*?)^(?:=(?P<crc>[A-Za-z0-9+/]{4})[ \t]*\r?\n)?-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL | re.MULTILINE,
)
_PUBLIC_KEY = 6
# Signature, marker, trust, user ID, subkey, user attribute, padding. Anything else (a compressed packet, say)
# could hide a key from us that gpgv would use.
_PARTS_OF_A_KEY = frozenset({2, 10, 12, 13, 14, 17, 21, _PUBLIC_KEY})
_QUOTED_BYTES = 40


def fingerprints(data: bytes, where: str = "") -> tuple[str, ...]:
    """The fingerprints (40 upper-case hex digits) of all primary keys in armored or binary `data`, in order.

    Raises RefusedError, naming `where`, if it holds no public key, or one that can't be told for certain.
    """
    packets = _packets(_binary(data, where), where)
    found = tuple(_fingerprint(body, where) for tag, body in packets if tag == _PUBLIC_KEY)
    if not found:
        raise _refused("no OpenPGP public key is in it", where, _quoted(data))
    return found


def dearmored(data: bytes, where: str = "") -> bytes:
    """The same keys in binary, as apt of any age takes them in a .gpg file. Raises RefusedError."""
    fingerprints(data, where)
    return _binary(data, where)


def _binary(data: bytes, where: str) -> bytes:
    if data[:1] and data[0] & 0x80:
        return data
    blocks = list(_ARMOR.finditer(data))
    if not blocks:
        raise _refused("no OpenPGP public key is in it", where, _quoted(data))
    if len(re.findall(rb"^-----BEGIN", data, re.MULTILINE)) != len(blocks):
        # apt decodes whatever block there is.
        raise _refused("it holds more than public keys", where, "another kind of block")
    return b"".join(_decoded(block, where) for block in blocks)


def _decoded(block: re.Match[bytes], where: str) -> bytes:
    try:
        body = base64.b64decode(b"".join(block["body"].split()), validate=True)
    except binascii.Error as error:
        raise _refused("the key's armor is damaged", where, str(error)) from error
    if block["crc"] and _crc24(body) != int.from_bytes(base64.b64decode(block["crc"]), "big"):
        raise _refused("the key's armor is damaged", where, "its checksum does not fit")
    return body


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc & 0xFFFFFF


def _packets(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise _refused("the OpenPGP data is damaged", where, f"no packet starts at byte {at}")
        new = bool(head & 0x40)
        tag = head & 0x3F if new else (head >> 2) & 0x0F
        if tag not in _PARTS_OF_A_KEY:
            raise _refused("it holds more than public keys", where, f"a packet of type {tag} at byte {at}")
        start, length = _length(data, at, new, where)
        at = start + length
        if at > len(data):
            raise _refused("the OpenPGP data is cut off", where, f"{len(data)} bytes of at least {at}")
        yield tag, data[start:at]


def _length(data: bytes, at: int, new: bool, where: str) -> tuple[int, int]:
    """Where the body of the packet at `at` starts, and its length in bytes."""
    first = data[at + 1] if at + 1 < len(data) else 0
    if not new:
        size = 1 << (data[at] & 3)
    elif first < 192:
        return at + 2, first
    elif first < 224:
        second = data[at + 2] if at + 2 < len(data) else 0
        return at + 3, ((first - 192) << 8) + second + 192
    else:
        at, size = at + 1, 4
    if size == 8 or (new and first != 255):
        raise _refused("the OpenPGP data is not a list of keys", where, "a packet without a definite length")
    return at + 1 + size, int.from_bytes(data[at + 1 : at + 1 + size], "big")


def _fingerprint(body: bytes, where: str) -> str:
    version = body[0] if body else 0
    if version != 4 or len(body) > 0xFFFF:
        raise _refused("only OpenPGP keys of version 4 can be checked", where, f"its version is {version}")
    # SHA-1 is what defines a version 4 fingerprint; nothing else would name the key.
    hashed = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
    return hashed.hexdigest().upper()


def _quoted(data: bytes) -> str:
    return repr(data[:_QUOTED_BYTES].decode("ascii", "replace")) if data else "an empty file"


def _refused(what: str, where: str, found: str) -> RefusedError:
    remedy = "give the repository's public key as the repository publishes it (gpg --armor --export KEY)"
    return RefusedError(what, where=where, found=found, remedy=remedy)
