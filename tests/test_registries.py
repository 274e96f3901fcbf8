"""containerd's mirrors, as CRI-O's library reads them: texts in, texts out."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.changes import WriteFile
from installer.facts import registries
from installer.facts.model import Facts, Registries
from installer.host import Tree
from installer.settings import Settings
from installer.steps import Nothing, crio_config

CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
OTHER = CA.replace("MIIB", "MIIC")
CERTS_D = '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
SECRET = "hunter2-secret"


def read(root: Path, config: str, files: dict[str, str] | None = None) -> Registries:
    for name, text in (files or {}).items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return registries.read(Tree(root), config)


def hosts(root: Path, **folders: str) -> Registries:
    """What these hosts.toml come to; folders by name, with `_` for dots and `__` for a port's colon."""
    names = {name.replace("__", ":").replace("_", "."): text for name, text in folders.items()}
    return read(root, CERTS_D, {f"/etc/containerd/certs.d/{name}/hosts.toml": text for name, text in names.items()})


def tables(found: Registries) -> list[dict[str, Any]]:
    return list(tomllib.loads(registries.conf(found)).get("registry", []))


def test_a_mirror_comes_before_the_registry(tmp_path: Path) -> None:
    text = (
        'server = "https://registry-1.docker.io"\n[host."https://mirror.test:5000"]\ncapabilities = ["pull", "resolve"]'
    )
    assert tables(hosts(tmp_path, docker_io=text)) == [
        {"prefix": "docker.io", "location": "docker.io", "mirror": [{"location": "mirror.test:5000"}]}
    ]


def test_mirrors_keep_their_order_and_what_they_can(tmp_path: Path) -> None:
    text = """
        [host."http://z.test"]
        [host."https://y.test/v2/proxy"]
        override_path = true
        skip_verify = true
        [host."https://x.test/v2"]
        capabilities = ["pull"]
        [host."https://push.test"]
        capabilities = ["push"]
    """
    (found,) = tables(hosts(tmp_path, quay_io=text))
    assert found["mirror"] == [
        {"location": "z.test", "insecure": True},
        {"location": "y.test/proxy", "insecure": True},
        {"location": "x.test", "pull-from-mirror": "digest-only"},
    ]


def test_a_server_of_another_name_is_where_images_come_from(tmp_path: Path) -> None:
    text = 'server = "http://10.0.0.1:5000"\n'
    assert tables(hosts(tmp_path, registry_test=text)) == [
        {"prefix": "registry.test", "location": "10.0.0.1:5000", "insecure": True}
    ]


@pytest.mark.parametrize("folder", ["registry.test:5000", "registry.test_5000_"])
def test_a_port_is_written_in_either_of_containerds_ways(tmp_path: Path, folder: str) -> None:
    found = read(tmp_path, CERTS_D, {f"/etc/containerd/certs.d/{folder}/hosts.toml": "skip_verify = true\n"})
    assert tables(found) == [{"prefix": "registry.test:5000", "location": "registry.test:5000", "insecure": True}]


def test_the_first_of_several_folders_counts(tmp_path: Path) -> None:
    config = CERTS_D.replace("certs.d", "a:/etc/containerd/b")
    found = read(
        tmp_path,
        config,
        {
            "/etc/containerd/a/r.test:1/hosts.toml": '[host."https://wrong.test"]\n',
            "/etc/containerd/a/r.test_1_/hosts.toml": '[host."https://right.test"]\n',
            "/etc/containerd/b/r.test:1/hosts.toml": '[host."https://late.test"]\n',
        },
    )
    assert [table["mirror"] for table in tables(found)] == [[{"location": "right.test"}]]


def test_authorities_go_to_the_folder_of_their_host(tmp_path: Path) -> None:
    text = 'ca = "own.crt"\n[host."https://mirror.test:5000"]\nca = ["/etc/ssl/mirror.pem", "own.crt"]\n'
    found = read(
        tmp_path,
        CERTS_D,
        {
            "/etc/containerd/certs.d/r.test/hosts.toml": text,
            "/etc/containerd/certs.d/r.test/own.crt": CA,
            "/etc/ssl/mirror.pem": OTHER.strip(),
        },
    )
    assert registries.certificates(found) == {
        "/etc/containers/certs.d/r.test/sysbox-deploy.crt": CA,
        "/etc/containers/certs.d/mirror.test:5000/sysbox-deploy.crt": OTHER + CA,
    }
    assert found.remarks == ()


def test_a_folder_of_certificates_alone_counts_as_containerd_counts_it(tmp_path: Path) -> None:
    folder = "/etc/containerd/certs.d/r.test"
    found = read(tmp_path, CERTS_D, {f"{folder}/ca.crt": CA, f"{folder}/me.cert": CA, f"{folder}/me.key": SECRET})
    assert registries.certificates(found) == {"/etc/containers/certs.d/r.test/sysbox-deploy.crt": CA}
    assert tables(found) == []
    assert "r.test" in found.remarks[0]
    assert SECRET not in repr(found)


def test_a_hosts_toml_that_is_none_falls_back_to_the_certificates(tmp_path: Path) -> None:
    folder = "/etc/containerd/certs.d/r.test"
    found = read(tmp_path, CERTS_D, {f"{folder}/ca.crt": CA, f"{folder}/hosts.toml": "server = ["})
    assert registries.certificates(found) == {"/etc/containers/certs.d/r.test/sysbox-deploy.crt": CA}


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ('[host."https://m.test/proxy"]\n', "path that CRI-O can't use"),
        ('[host."https://m.test/v2/Upper"]\noverride_path = true\n', "path that CRI-O can't use"),
        ('[host."https://[broken"]\n', "path that CRI-O can't use"),
        ('[host."https://m.test"]\nclient = "me.pem"\n', "keys are not copied"),
        ('[host."https://m.test"]\n[host."https://m.test".header]\nx-token = "hunter2-secret"\n', "does not send"),
        ('[host."https://m.test"]\nca = "missing.crt"\n', "holds no certificate"),
    ],
)
def test_what_cri_o_cant_have_is_said(tmp_path: Path, text: str, remark: str) -> None:
    found = hosts(tmp_path, r_test=text)
    assert len(found.remarks) == 1
    assert remark in found.remarks[0]
    assert SECRET not in repr(found)


def test_what_is_for_every_registry_is_said_and_left(tmp_path: Path) -> None:
    found = read(tmp_path, CERTS_D, {"/etc/containerd/certs.d/_default/hosts.toml": '[host."http://spegel:30020"]\n'})
    assert tables(found) == []
    assert "can't be said" in found.remarks[0]


def test_a_mirror_of_several_registries_is_said_to_be_one(tmp_path: Path) -> None:
    text = '[host."http://mirror.test"]\n'
    found = hosts(tmp_path, docker_io=text, quay_io=text)
    assert len(tables(found)) == 2
    assert found.remarks == (
        "mirror mirror.test serves docker.io, quay.io: CRI-O does not tell it which of them is meant",
    )


def test_registries_behind_one_server_agree_on_it(tmp_path: Path) -> None:
    # CRI-O refuses the whole file otherwise.
    found = hosts(tmp_path, a_test='server = "http://one.test"\n', b_test='server = "https://one.test"\n')
    assert [table["insecure"] for table in tables(found)] == [True, True]


@pytest.mark.parametrize("plugin", ["io.containerd.grpc.v1.cri", "cri", "io.containerd.cri.v1.images"])
def test_the_older_mirrors_are_read_in_every_layout(tmp_path: Path, plugin: str) -> None:
    config = f"""
        [plugins."{plugin}".registry.mirrors."docker.io"]
        endpoint = ["https://hub.test", "mirror.test:5000", "https://registry-1.docker.io"]
        [plugins."{plugin}".registry.mirrors."local.test:5000"]
        endpoint = ["http://local.test:5000"]
        [plugins."{plugin}".registry.configs."hub.test".tls]
        insecure_skip_verify = true
        [plugins."{plugin}".registry.configs."alone.test".tls]
        ca_file = "/etc/ssl/alone.pem"
        [plugins."{plugin}".registry.configs."alone.test".auth]
        username = "me"
        password = "{SECRET}"
    """
    found = read(tmp_path, config, {"/etc/ssl/alone.pem": CA})
    assert tables(found) == [
        {
            "prefix": "docker.io",
            "location": "docker.io",
            "mirror": [{"location": "hub.test", "insecure": True}, {"location": "mirror.test:5000"}],
        },
        {"prefix": "hub.test", "location": "hub.test", "insecure": True},
        {"prefix": "local.test:5000", "location": "local.test:5000", "insecure": True},
    ]
    assert registries.certificates(found) == {"/etc/containers/certs.d/alone.test/sysbox-deploy.crt": CA}
    assert [remark.split(" stands")[0] for remark in found.remarks] == ["a password for alone.test"]
    assert SECRET not in repr(found)


def test_a_config_path_makes_the_older_mirrors_void_but_not_the_passwords(tmp_path: Path) -> None:
    config = f"""{CERTS_D}
        [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
        endpoint = ["https://hub.test"]
        [plugins."io.containerd.grpc.v1.cri".registry.auths."https://user:{SECRET}@old.test/v1/"]
        auth = "{SECRET}"
    """
    found = read(tmp_path, config)
    assert tables(found) == []
    assert len(found.remarks) == 1
    assert "old.test" in found.remarks[0]
    assert SECRET not in repr(found)


def test_what_somebody_configured_for_cri_o_stays(tmp_path: Path) -> None:
    theirs = '[[registry]]\nlocation = "docker.io"\n'
    text = '[host."https://mirror.test"]\n'
    files = {
        "/etc/containers/registries.conf.d/20-site.conf": theirs,
        registries.OURS: '[[registry]]\nprefix = "quay.io"\nlocation = "quay.io"\n',
        "/etc/containerd/certs.d/docker.io/hosts.toml": text,
        "/etc/containerd/certs.d/quay.io/hosts.toml": text,
    }
    found = read(tmp_path, CERTS_D, files)
    assert [table["prefix"] for table in tables(found)] == ["quay.io"]
    assert found.remarks == ("registry docker.io stays as /etc/containers/registries.conf.d/20-site.conf has it",)


def test_the_step_writes_one_file_for_registries_and_one_for_each_authority(tmp_path: Path) -> None:
    found = hosts(tmp_path, r_test='ca = "own.crt"\n[host."https://m.test"]\nclient = "x.pem"\n')
    (tmp_path / "etc/containerd/certs.d/r.test/own.crt").write_text(CA)
    found = registries.read(Tree(tmp_path), CERTS_D)
    wanted = list(crio_config.crio(Facts(registries=found), Settings()))
    written = {change.path: change.content for change in wanted if isinstance(change, WriteFile)}
    ours = tomllib.loads(written[registries.OURS])
    assert ours["unqualified-search-registries"] == ["docker.io"]
    assert ours["registry"] == tables(found)
    assert written["/etc/containers/certs.d/r.test/sysbox-deploy.crt"] == CA
    assert set(found.remarks) <= {one.reason for one in wanted if isinstance(one, Nothing)}


def test_a_node_without_any_has_the_file_of_short_names_only() -> None:
    wanted = [change for change in crio_config.crio(Facts(), Settings()) if isinstance(change, WriteFile)]
    (written,) = [change.content for change in wanted if change.path == registries.OURS]
    assert written == '# as containerd takes names without a registry\nunqualified-search-registries = ["docker.io"]\n'


@given(st.text(st.sampled_from('[]"=.:/{}\n httpsva_pulhoserv#2')), st.text(max_size=40))
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str, config: str) -> None:
    root = tmp_path_factory.mktemp("any")
    folder = root / "etc/containerd/certs.d/r.test"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(f'{text}\n[host."{text}"]\n' if "\n" not in text and '"' not in text else text)
    for said in (CERTS_D, config):
        tomllib.loads(registries.conf(registries.read(Tree(root), said)))
