"""The pull secrets of the node's own pods, asked for as the node.

By the kubelet's certificate, for the API server lets a node read just what its own pods refer to; a role of ours that
could do the same would open every secret of the cluster to every node.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from installer import log
from installer.cluster.answers import Call
from installer.cluster.api import Api, Patience
from installer.cluster.connect import as_node
from installer.cluster.node import Node
from installer.errors import DeployError

_PATIENCE = Patience(total=20, longest=5, answer=10, denied=2)
_KINDS = (".dockerconfigjson", ".dockercfg")


def read(node: Node, certificate: Path, names: Iterable[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """The documents in these secrets (namespace, name). One that can't be read is only named."""
    api = Api(as_node(node.connection, certificate), _PATIENCE)
    found = []
    try:
        for namespace, name in names:
            call = Call("get", "secrets", f"/api/v1/namespaces/{namespace}/secrets/{name}", "Secret")
            try:
                found.append(_document(api.persist(lambda call=call: api.once(call))))  # type: ignore[misc]
            except DeployError as error:
                log.get().warning(f"the pull secret {namespace}/{name} can't be read", found=error.found)
    finally:
        api.close()
    return found


def _document(secret: Mapping[str, Any]) -> Mapping[str, Any]:
    data = secret.get("data") or {}
    content = next((data[kind] for kind in _KINDS if kind in data), "")
    try:
        said = json.loads(base64.b64decode(content) or b"{}")
    except (binascii.Error, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
