"""Sockets across network namespaces: lets nodes fetch packages, and us reach the API server.

 - 127.0.0.1:PORT on the machine -> the API server in the cluster's namespace
 - GATEWAY:3142 in the namespace -> the hosts of the nodes' own apt sources, and no other, by HTTP

It changes no route, address or packet filter, neither in the namespace nor on the machine.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import socket
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_CLONE_NEWNET = 0x40000000
_BLOCK = 1 << 16


def socket_in(namespace: str) -> socket.socket:
    """A TCP socket that belongs to the named namespace, whoever uses it then."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd: int) -> None:
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")

    # the calling thread's namespace, not the process's: other threads of a test stay where they are
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    away = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter(away)
        try:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            enter(home)
    finally:
        os.close(home)
        os.close(away)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def to_api(namespace: str, address: tuple[str, int]) -> Handler:
    """Every connection goes to this address in the namespace."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = socket_in(namespace)
        upstream.setblocking(False)
        with contextlib.closing(writer):
            try:
                await asyncio.get_running_loop().sock_connect(upstream, address)
            except OSError:
                upstream.close()
                return
            # from here on the socket is the transport's to close
            far_reader, far_writer = await asyncio.open_connection(sock=upstream)
            with contextlib.closing(far_writer):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    return handle


class AptProxy:
    """An HTTP proxy for apt: GET and HEAD, to the allowed hosts only, one request a connection."""

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(asyncio.IncompleteReadError, OSError, ValueError),
        ):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *headers = head.rstrip().split("\r\n")
            method, target, _ = request.split(" ")
            url = urllib.parse.urlsplit(target)
            if not self._permits(method, url):
                writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            await self._pass_on(method, url, headers, writer)

    def _permits(self, method: str, url: urllib.parse.SplitResult) -> bool:
        known = url.scheme == "http" and url.hostname in self.allowed and url.port in (None, 80)
        return known and method in ("GET", "HEAD")

    async def _pass_on(
        self, method: str, url: urllib.parse.SplitResult, headers: list[str], writer: asyncio.StreamWriter
    ) -> None:
        dropped = ("connection:", "proxy-")
        kept = [h for h in headers if not h.lower().startswith(dropped)]
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        request = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""])
        far_reader, far_writer = await asyncio.open_connection(url.hostname, 80)
        with contextlib.closing(far_writer):
            far_writer.write(request.encode("latin-1"))
            await _copy(far_reader, writer)


async def _serve(namespace: str, gateway: str, allowed: set[str], port_file: Path) -> None:
    inside = socket_in(namespace)
    inside.bind((gateway, 3142))
    await asyncio.start_server(AptProxy(allowed).handle, sock=inside)
    api = await asyncio.start_server(to_api(namespace, (gateway, 6443)), "127.0.0.1", 0)
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(api.sockets[0].getsockname()[1]))
    temporary.rename(port_file)
    await api.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("namespace")
    parser.add_argument("gateway")
    parser.add_argument("port_file", type=Path)
    parser.add_argument("allowed", nargs="*")
    options = parser.parse_args()
    asyncio.run(_serve(options.namespace, options.gateway, set(options.allowed), options.port_file))


if __name__ == "__main__":
    main()
