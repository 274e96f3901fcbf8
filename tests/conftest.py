"""What every test has: the disposable node's fixtures, and a guard on plain unit tests."""

pytest_plugins = ["tests.node.fixtures"]
