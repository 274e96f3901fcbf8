"""A stand-in for shiftfs' sources: laid out as a branch of shiftfs-dkms, building a real module of that name.

The module registers a file system that can't be mounted; what shiftfs does is not what is tested here.
"""

from pathlib import Path

VERSION = "standin1"
_CONF = """\
PACKAGE_NAME="shiftfs"
PACKAGE_VERSION="#MODULE_VERSION#"
MAKE[0]="make KVERSION=$kernelver"
CLEAN="make clean"
BUILT_MODULE_NAME[0]="shiftfs"
DEST_MODULE_LOCATION[0]="/kernel/fs/"
BUILD_EXCLUSIVE_KERNEL="{kernels}"
AUTOINSTALL="yes"

"""
_MAKEFILE = """\
obj-m := shiftfs.o
KVERSION ?= $(shell uname -r)

default:
\t$(MAKE) -C /lib/modules/$(KVERSION)/build M=$(CURDIR) modules

clean:
\t$(MAKE) -C /lib/modules/$(KVERSION)/build M=$(CURDIR) clean
"""
_SOURCE = """\
// SPDX-License-Identifier: GPL-2.0
/* Stands in for shiftfs in tests of sysbox-deploy. */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/module.h>

static int shiftfs_init_fs_context(struct fs_context *fc)
{
\treturn -EOPNOTSUPP;
}

static struct file_system_type shiftfs_type = {
\t.owner = THIS_MODULE,
\t.name = "shiftfs",
\t.init_fs_context = shiftfs_init_fs_context,
\t.kill_sb = kill_anon_super,
};

static int __init shiftfs_init(void)
{
\treturn register_filesystem(&shiftfs_type);
}

static void __exit shiftfs_exit(void)
{
\tunregister_filesystem(&shiftfs_type);
}

module_init(shiftfs_init);
module_exit(shiftfs_exit);
MODULE_ALIAS_FS("shiftfs");
MODULE_DESCRIPTION("stand-in for shiftfs, built for tests");
MODULE_LICENSE("GPL");
"""


def lay(folder: Path, *, kernels: str = "^6.(1|2).*", source: str = _SOURCE) -> Path:
    """The folder of one branch, with what else such a branch has."""
    folder.mkdir(parents=True)
    files = {
        "dkms.conf": _CONF.format(kernels=kernels),
        "Makefile": _MAKEFILE,
        "Makefile.dkms": "# installs it by hand; not for us\n",
        "README.md": "not for the host\n",
        "shiftfs.c": source,
        "version.txt": f"{VERSION}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "update1").write_text("#!/bin/sh\nexit 1\n")
    (folder / "update1").chmod(0o755)
    return folder
