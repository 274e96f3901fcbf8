"""Where containerd pulls from, said again for CRI-O: certs.d (or the older mirrors of its configuration) in,
registries.conf and certificate authorities out, and in words what the one has and the other lacks.

Passwords and keys are left where they are: their places are named, never what they hold.
"""

from collections.abc import Iterable, Iterator

import tomlkit

from installer.facts import certs_d, reference
from installer.facts.certs_d import EVERY, HUB, Found, Table, table, text, texts
from installer.facts.model import Authority, Endpoint, Registries, Registry
from installer.host import Tree, decode

OURS = "/etc/containers/registries.conf.d/90-sysbox-deploy.conf"
CARRY = "/etc/containers/registries.conf.d/99-sysbox-deploy-carry.conf"
_CONF = "/etc/containers/registries.conf"
# The layouts of version 3, 2 and 1.
_PLUGINS = ("io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "cri")


def read(tree: Tree, config: str) -> Registries:
    """What `config` (containerd's, any layout) and the files it names say; empty where it says nothing."""
    said = _said(config)
    roots = [path for path in text(said, "config_path").split(":") if path]
    found = dict(certs_d.read(tree, roots) if roots else _older(tree, said))
    every = found.pop(EVERY, None)
    known = {name: one for name, one in sorted(found.items()) if reference.is_registry(name)}
    taken = _taken(tree)
    registries = [_joined(name, one) for name, one in known.items() if name not in taken]
    remarks = [remark for one in known.values() for remark in one.remarks]
    remarks += [f"registry {name} stays as {taken[name]} has it" for name in known if name in taken]
    return Registries(
        tuple(r for r in registries if r.mirrors or r.server != Endpoint(r.prefix)),
        tuple(_trusted(known.values())),
        tuple(dict.fromkeys([*remarks, *_catch_all(every), *_passwords(said), *_shared(registries)])),
    )


def conf(registries: Registries) -> str:
    """The tables of registries.conf; empty where there are none."""
    if not registries.registries:
        return ""
    # Two registries behind one server must agree on it, or the whole file is refused.
    insecure = {r.server.location for r in registries.registries if r.server.insecure}
    tables = [_as_table(r, insecure=r.server.location in insecure) for r in registries.registries]
    return tomlkit.dumps({"registry": tables})


def certificates(registries: Registries) -> dict[str, str]:
    """The certificate authorities of each host, by the file that CRI-O reads them from."""
    folder = certs_d.CERTIFICATES
    return {f"{folder}/{one.host}/sysbox-deploy.crt": one.certificates for one in registries.authorities}


def passwords(config: str) -> dict[str, object]:
    """The passwords in `config`, in the form of docker's config.json. They are for use, never to be shown."""
    said = _said(config)
    found = {url: table(said, "auths", url) for url in table(said, "auths")}
    configs = table(said, "configs")
    return {"auths": found | {host: auth for host in configs if (auth := table(configs, host, "auth"))}}


def _said(config: str) -> Table:
    plugins = table(certs_d.loads(config), "plugins")
    return next((one for plugin in _PLUGINS if (one := table(plugins, plugin, "registry"))), {})


def _as_table(registry: Registry, *, insecure: bool) -> dict[str, object]:
    said: dict[str, object] = {"prefix": registry.prefix, "location": registry.server.location}
    if insecure:
        said["insecure"] = True
    if registry.mirrors:
        said["mirror"] = [_as_mirror(mirror) for mirror in registry.mirrors]
    return said


def _as_mirror(mirror: Endpoint) -> dict[str, object]:
    said: dict[str, object] = {"location": mirror.location}
    if mirror.insecure:
        said["insecure"] = True
    if mirror.digest_only:
        said["pull-from-mirror"] = "digest-only"
    return said


def _joined(name: str, found: Found) -> Registry:
    server = found.server or Endpoint(name)
    mirrors = [mirror for mirror in dict.fromkeys(found.mirrors) if mirror.location != server.location]
    return Registry(name, server, tuple(mirrors))


def _trusted(found: Iterable[Found]) -> Iterator[Authority]:
    hosts: dict[str, list[str]] = {}
    for one in found:
        for host, certificates in one.authorities.items():
            hosts.setdefault(host, []).extend(certificates)
    for host in sorted(hosts):
        yield Authority(host, "".join(dict.fromkeys(hosts[host])))


def _shared(registries: list[Registry]) -> Iterator[str]:
    """containerd tells a mirror which registry it means (`?ns=`); CRI-O does not."""
    users: dict[str, list[str]] = {}
    for registry in registries:
        for mirror in registry.mirrors:
            users.setdefault(mirror.location, []).append(registry.prefix)
    for location, names in users.items():
        if len(names) > 1:
            yield f"mirror {location} serves {', '.join(names)}: CRI-O does not tell it which of them is meant"


def _catch_all(found: Found | None) -> Iterator[str]:
    if found and (found.mirrors or found.server or found.authorities):
        yield (
            "containerd's settings for every registry (`_default`, or mirrors of `*`) can't be said in registries.conf:"
            " CRI-O goes without; name the registries one by one"
        )


def _taken(tree: Tree) -> dict[str, str]:
    """The registries that somebody else's files configure already, and where."""
    folder = f"{_CONF}.d"
    paths = [_CONF, *(f"{folder}/{name}" for name in tree.names(folder) if name.endswith(".conf"))]
    found: dict[str, str] = {}
    for path in paths:
        said = certs_d.loads(decode(tree.read(path) or b"")).get("registry")
        for one in said if isinstance(said, list) and path not in (OURS, CARRY) else []:
            if isinstance(one, dict):
                found[text(one, "prefix") or text(one, "location")] = path
    return found


def _older(tree: Tree, said: Table) -> Iterator[tuple[str, Found]]:
    """`registry.mirrors` and `registry.configs`, which containerd heeds only without a config_path."""
    mirrors, configs = table(said, "mirrors"), table(said, "configs")
    for name in dict.fromkeys([*mirrors, *configs]):
        found = Found()
        for url in texts(table(mirrors, name).get("endpoint")):
            _older_endpoint(tree, url, name, configs, found)
        if name != EVERY:
            found.server = found.server or Endpoint(name, _unverified(tree, name, configs, found))
        yield name, found


def _older_endpoint(tree: Tree, url: str, name: str, configs: Table, found: Found) -> None:
    parts = certs_d.split(url)
    host = certs_d.host_of(parts)
    insecure = _unverified(tree, host, configs, found) or parts.scheme == "http"
    location = certs_d.location(parts, parts.path.rstrip("/") or "/v2")
    if location and (host == name or {host, name} <= HUB):
        found.server = Endpoint(name, insecure)
    elif location:
        found.mirrors.append(Endpoint(location, insecure))
    else:
        found.remarks.append(f"mirror {host} of {name} has its API at a path that CRI-O can't use: it goes without")


def _unverified(tree: Tree, host: str, configs: Table, found: Found) -> bool:
    """Whether the host's certificate counts for nothing; its authority is taken on the way."""
    tls = table(configs, host, "tls")
    if text(tls, "cert_file"):
        found.wants_key("containerd's configuration", host)
    found.trust(tree, texts(tls.get("ca_file")), host)
    return tls.get("insecure_skip_verify") is True


def _passwords(said: Table) -> Iterator[str]:
    configs = table(said, "configs")
    hosts = [host for host in configs if table(configs, host, "auth")]
    hosts += [certs_d.host_of(certs_d.split(url)) for url in table(said, "auths")]
    for host in hosts:
        yield (
            f"a password for {host} stands in containerd's configuration, and CRI-O is not given it:"
            " give pods imagePullSecrets, or CRI-O a global_auth_file"
        )
