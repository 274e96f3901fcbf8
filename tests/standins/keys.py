"""Throw-away OpenPGP keys: the secret half lives in memory, gpg's home and agent only while gpg works."""

import contextlib
import dataclasses
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Old enough that signatures can be made which have expired since.
_BORN = "20200101T000000"
_ALGORITHM = "ed25519"  # an RSA key takes gpg a second
_USER = "sysbox-deploy tests, throw-away key"


@dataclasses.dataclass(frozen=True)
class Key:
    """An ed25519 key that can sign; `public` is armored."""

    fingerprint: str
    public: str
    secret: bytes = dataclasses.field(repr=False)

    @classmethod
    def generate(cls) -> "Key":
        with _home() as home:
            made = ["--quick-generate-key", _USER, _ALGORITHM, "sign", "never"]
            _gpg(home, "--faked-system-time", _BORN, *made)
            listed = _gpg(home, "--with-colons", "--list-keys").decode()
            fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
            public = _gpg(home, "--armor", "--export", fingerprint).decode()
            return cls(fingerprint, public, _gpg(home, "--export-secret-keys", fingerprint))

    def sign(self, text: bytes, *, expired: bool = False) -> tuple[bytes, bytes]:
        """The text with its signature around it, and the signature by itself."""
        when = ["--faked-system-time", _BORN, "--default-sig-expire", "1d"] if expired else []
        common = [*when, "--digest-algo", "SHA512", "--local-user", self.fingerprint]
        with _home() as home:
            _gpg(home, "--import", given=self.secret)
            clear = _gpg(home, *common, "--clearsign", given=text)
            return clear, _gpg(home, *common, "--armor", "--detach-sign", given=text)


def _gpg(home: Path, *words: str, given: bytes = b"") -> bytes:
    argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *words]
    done = subprocess.run(argv, env=_environment(home), input=given, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.decode()}")
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "GNUPGHOME": str(home), "LC_ALL": "C.UTF-8"}


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    # In /tmp, not in TMPDIR: the agent's socket needs a path of less than a hundred characters.
    # A dying agent may take its sockets away while the folder is being removed.
    with tempfile.TemporaryDirectory(prefix="gpg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], env=_environment(Path(folder)), capture_output=True)
