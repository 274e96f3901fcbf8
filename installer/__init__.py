"""sysbox-deploy: prepares a Kubernetes node for the Sysbox runtime, and takes every trace of that back."""

__version__ = "0.1.0"
