"""The node as the cluster sees it, over the Kubernetes API.

`names`, `taints`, `view` and `patches` are plain data and cost nothing; `node` brings urllib3 and tenacity
(10 MiB), so import it where a NODE_NAME is given.
"""
