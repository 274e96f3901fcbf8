"""The names by which a node tells the cluster about itself; the labels are the seed document's."""

from enum import StrEnum

INSTALL_LABELS = {"crio": "crio-install", "sysbox": "sysbox-install"}
"""profile -> the operator's label that selects a node (`yes`)"""

RUNTIME_LABELS = {"crio": "crio-runtime", "sysbox": "sysbox-runtime"}
"""profile -> our label that reports the node's State; absent before the install and after the cleanup"""

CORDONED = "sysbox-deploy/cordoned"
"""The annotation that tells our cordon from an administrator's."""

CONDITION = "SysboxReady"
"""The type of our node condition."""

COMPONENT = "sysbox-deploy"
"""Who reports our Events."""


class State(StrEnum):
    """What a runtime label says."""

    INSTALLING = "installing"
    RUNNING = "running"
    REMOVING = "removing"
    FAILED = "failed"
