"""The kubelet's files on a node, as its package and `kubeadm join` lay them; and the seed document's layout.

Layouts:
 - kubeadm: the runtime's endpoint is a flag in kubeadm-flags.env (kubeadm to 1.33)
 - instance-config: it is in config.yaml and instance-config.yaml (NodeLocalCRISocket, kubeadm's default
   from 1.34)
 - seed: no kubeadm; the unit reads KUBELET_OPTS from /etc/default/kubelet
"""

from pathlib import Path

LAYOUTS = ("kubeadm", "instance-config", "seed")
PAUSE = "registry.k8s.io/pause:3.10"

_ENDPOINT = "unix:///run/containerd/containerd.sock"
# what kubeadm finds by itself: the same socket by /run's older name
_LINKED_ENDPOINT = "unix:///var/run/containerd/containerd.sock"
_UNIT = "/usr/lib/systemd/system/kubelet.service"


def lay(tree: Path, minor: str, layout: str) -> None:
    """Write the files of that layout into the tree."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    for folder in ("etc/kubernetes/pki", "etc/kubernetes/manifests", "var/lib/kubelet/pki"):
        (tree / folder).mkdir(parents=True)
    files = _seed() if layout == "seed" else _kubeadm(minor, layout)
    for path, text in files.items():
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _seed() -> dict[str, str]:
    options = [
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        f"--container-runtime-endpoint={_ENDPOINT}",
        "--runtime-cgroups=/system.slice/containerd.service",
    ]
    return {
        _UNIT: _unit("EnvironmentFile=-/etc/default/kubelet\nExecStart=/usr/bin/kubelet $KUBELET_OPTS"),
        "/etc/default/kubelet": f'KUBELET_OPTS="{" ".join(options)}"\n',
        "/var/lib/kubelet/config.yaml": _config('""'),
    }


def _kubeadm(minor: str, layout: str) -> dict[str, str]:
    flags = [f"--container-runtime-endpoint={_ENDPOINT}"] if layout == "kubeadm" else []
    if int(minor.split(".")[1]) < 35:
        flags.append(f"--pod-infra-container-image={PAUSE}")
    files = {
        _UNIT: _unit("ExecStart=/usr/bin/kubelet"),
        f"{_UNIT}.d/10-kubeadm.conf": _DROP_IN,
        "/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\n",
        "/var/lib/kubelet/kubeadm-flags.env": f'KUBELET_KUBEADM_ARGS="{" ".join(flags)}"\n',
        "/var/lib/kubelet/config.yaml": _config('""' if layout == "kubeadm" else _LINKED_ENDPOINT),
    }
    if layout == "instance-config":
        files["/var/lib/kubelet/instance-config.yaml"] = f'containerRuntimeEndpoint: "{_LINKED_ENDPOINT}"\n'
    return files


def kubelet_conf(server: str, authority: str) -> str:
    """/etc/kubernetes/kubelet.conf as it is after the bootstrap; `authority` is base64."""
    client = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    return f"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {authority}
    server: {server}
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
preferences: {{}}
users:
- name: default-auth
  user:
    client-certificate: {client}
    client-key: {client}
"""


def conflist(pods: str) -> str:
    """A network for the pods that needs no agent: a bridge on each node."""
    return f"""\
{{ "cniVersion": "0.4.0", "name": "cluster", "plugins": [
  {{ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {{ "type": "host-local", "ranges": [[{{ "subnet": "{pods}" }}]],
              "routes": [{{ "dst": "0.0.0.0/0" }}] }} }},
  {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }} ] }}
"""


def _unit(service: str) -> str:
    return f"""\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
{service}
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""


_DROP_IN = """\
# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generate at runtime, populating
# the KUBELET_KUBEADM_ARGS variable dynamically
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# This is a file that the user can use for overrides of the kubelet args as a last resort. Preferably,
# the user should use the .NodeRegistration.KubeletExtraArgs object in the configuration files instead.
# KUBELET_EXTRA_ARGS should be sourced from this file.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS \
$KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""


def _config(endpoint: str) -> str:
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: {endpoint}
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {{}}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
memorySwap: {{}}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"""
