"""The cluster's certificates, as kubeadm names and issues them, by the openssl program."""

import base64
import secrets
import subprocess
from pathlib import Path

_CURVE = ("ecparam", "-genkey", "-name", "prime256v1", "-noout")
_USAGE = "keyUsage=critical,digitalSignature,keyEncipherment"


def _openssl(*argv: str, input: str | None = None) -> None:
    done = subprocess.run(["openssl", *argv], input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {' '.join(argv)} failed: {done.stderr.strip()}")


class Pki:
    """A folder with a cluster's authority and what it has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, name: str) -> str:
        return str(self.folder / name)

    def create(self) -> None:
        """The authority and the service accounts' key pair."""
        self.folder.mkdir(mode=0o700, parents=True)
        _openssl(*_CURVE, "-out", self._file("ca.key"))
        subject = ("-subj", "/CN=kubernetes", "-days", "3650", "-addext", f"{_USAGE},keyCertSign")
        _openssl("req", "-x509", "-new", "-key", self._file("ca.key"), *subject, "-out", self._file("ca.crt"))
        _openssl("genrsa", "-out", self._file("sa.key"), "2048")
        _openssl("rsa", "-in", self._file("sa.key"), "-pubout", "-out", self._file("sa.pub"))

    def client(self, name: str, user: str, group: str) -> None:
        self._sign(name, f"/O={group}/CN={user}", "extendedKeyUsage=clientAuth")

    def server(self, name: str, user: str, alternatives: list[str]) -> None:
        self._sign(name, f"/CN={user}", f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(alternatives)}")

    def _sign(self, name: str, subject: str, extensions: str) -> None:
        key, request, certificate = (self._file(f"{name}.{kind}") for kind in ("key", "csr", "crt"))
        authority = ("-CA", self._file("ca.crt"), "-CAkey", self._file("ca.key"))
        _openssl(*_CURVE, "-out", key)
        _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        # random serials, so that certificates can be issued at the same time
        days = ("-days", "365", "-set_serial", f"0x{_random_hex()}", "-extfile", "/dev/stdin")
        _openssl(
            "x509",
            "-req",
            "-in",
            request,
            *authority,
            *days,
            "-out",
            certificate,
            input=f"{_USAGE}\n{extensions}\n",
        )
        Path(request).unlink()

    def take(self, name: str) -> str:
        """Certificate and key in one text, as a kubelet keeps them; they leave this folder."""
        text = ""
        for kind in ("crt", "key"):
            file = self.folder / f"{name}.{kind}"
            text += file.read_text()
            file.unlink()
        return text

    def _base64(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()

    def kubeconfig(self, name: str, server: str) -> str:
        """A kubeconfig for one of the signed clients, everything inside."""
        return f"""\
apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: {server}
    certificate-authority-data: {self._base64("ca.crt")}
users:
- name: {name}
  user:
    client-certificate-data: {self._base64(f"{name}.crt")}
    client-key-data: {self._base64(f"{name}.key")}
contexts: [{{name: test, context: {{cluster: test, user: {name}}}}}]
current-context: test
"""


def _random_hex() -> str:
    return "7" + secrets.token_hex(15)
