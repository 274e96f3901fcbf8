#!/bin/sh
# The node's first process: makes the container's mounts look like a machine's, then becomes systemd.

# nspawn mounts cgroup v1 controllers read-only; the runtimes make their groups there
for controller in /sys/fs/cgroup/*; do
    if mountpoint -q "$controller"; then mount -o remount,bind,rw "$controller"; fi
done

# The machine's sysctls are not the node's to change, nor may one node's change show in another: the node gets
# copies of the few that are set on nodes, and sees the rest read-only. /proc/sys/net is its own already.
own=/run/node-sysctl
mkdir -p $own
for key in vm/overcommit_memory vm/panic_on_oom vm/max_map_count kernel/panic kernel/panic_on_oops kernel/pid_max \
    kernel/keys/maxkeys kernel/keys/maxbytes kernel/keys/root_maxkeys kernel/keys/root_maxbytes \
    kernel/unprivileged_userns_clone kernel/apparmor_restrict_unprivileged_userns \
    fs/file-max fs/nr_open fs/inotify/max_queued_events fs/inotify/max_user_instances fs/inotify/max_user_watches; do
    if [ -e "/proc/sys/$key" ]; then
        mkdir -p "$own/${key%/*}"
        cat "/proc/sys/$key" >"$own/$key"
    fi
done
# mounts of their own, not a recursive bind, so that the copies can be laid over a read-only folder
for folder in abi debug dev fs kernel sunrpc user vm; do
    if [ -d "/proc/sys/$folder" ]; then
        mount --bind "/proc/sys/$folder" "/proc/sys/$folder"
        mount -o remount,bind,ro "/proc/sys/$folder"
    fi
done
(cd $own && find . -type f) | while read -r key; do mount --bind "$own/$key" "/proc/sys/$key"; done

# controllers that are not mounted must not look enabled: crun would want /sys/fs/cgroup/hugetlb
if [ -d /sys/fs/cgroup/memory ]; then
    while read -r name rest; do
        case $name in '#'*) ;; *) [ -d "/sys/fs/cgroup/$name" ] || continue ;; esac
        printf '%s\t%s\n' "$name" "$rest"
    done </proc/cgroups >$own.cgroups
    mount --bind $own.cgroups /proc/cgroups
fi
if [ -e /proc/sysrq-trigger ]; then mount --bind /dev/null /proc/sysrq-trigger; fi
exec /lib/systemd/systemd
