/* SPDX-License-Identifier: Apache-2.0
 * Stand-in for sysbox-mgr, for tests: what a host sees of it (checks, /etc/subuid and /etc/subgid, folders, PID file,
 * socket, systemd's notification), and none of its work for containers. */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subid.h"

#define PID_FILE RUN_DIR "/sysmgr.pid"
#define REFUSED "failed to create sysbox-mgr: "

const char *const PROGRAM = "sysbox-mgr";
static struct flag FLAGS[] = {
	{"log", false, ""},
	{"l", false, NULL}, /* the short form of --log */
	{"log-level", false, "info"},
	{"log-format", false, "text"},
	{"alias-dns", true, "true"},
	{"cpu-profiling", true, NULL},
	{"memory-profiling", true, NULL},
	{"data-root", false, "/var/lib/sysbox"},
	{"disable-shiftfs", true, NULL},
	{"disable-shiftfs-on-fuse", true, NULL},
	{"disable-shiftfs-precheck", true, NULL},
	{"disable-idmapped-mount", true, NULL},
	{"disable-rootfs-cloning", true, NULL},
	{"disable-ovfs-on-idmapped-mount", true, NULL},
	{"disable-inner-image-preload", true, NULL},
	{"ignore-sysfs-chown", true, NULL},
	{"allow-trusted-xattr", true, NULL},
	{"honor-caps", true, NULL},
	{"syscont-mode", true, "true"},
	{"relaxed-read-only", true, NULL},
	{"fsuid-map-fail-on-error", true, NULL},
	{0},
};
static const struct { const char *name; mode_t mode; } WORK_DIRS[] = {
	{"docker", 0700}, {"kubelet", 0700}, {"k0s", 0700}, {"rancher-k3s", 0700}, {"rancher-rke2", 0700},
	{"buildkit", 0700}, {"containerd", 0700}, {"shiftfs", 0710},
};

void print_version(void) {
	printf("sysbox-mgr\n\tedition: \tstand-in for tests, not Sysbox\n\tversion: \t" VERSION "\n");
}

/* The real one removes the whole data root when it starts and when it stops. Here only what we made ourselves goes. */
static void remove_work_dirs(const char *root) {
	for (size_t n = 0; n < sizeof WORK_DIRS / sizeof *WORK_DIRS; n++)
		rmdir(text("%s/%s", root, WORK_DIRS[n].name));
	if (rmdir(root) && errno != ENOENT)
		say(WARNING, "failed to cleanup %s: %s", root, strerror(errno));
}

static void make_work_dirs(const char *root) {
	for (size_t n = 0; n < sizeof WORK_DIRS / sizeof *WORK_DIRS; n++)
		make_dirs(text("%s/%s", root, WORK_DIRS[n].name), WORK_DIRS[n].mode);
	struct statfs fs;
	/* The real one refuses overlayfs too; here it passes, as a disposable node's root is one. */
	if (statfs(root, &fs) == 0 && fs.f_type == TMPFS_MAGIC)
		die(REFUSED "failed to setup docker vol mgr: "
		    "host dir for docker vol manager (%s/docker) can't be on tmpfs", root);
}

static void check_host(void) {
	static const char *const needed[] = {"rsync", "modprobe", "iptables"};
	pid_t other = pid_in(PID_FILE);
	if (other)
		die(REFUSED "sysbox-mgr program is running as pid %d", other);
	for (size_t n = 0; n < sizeof needed / sizeof *needed; n++)
		if (!command_exists(needed[n]))
			die(REFUSED "preflight check failed: %s is not installed on host.", needed[n]);
}

/* Which modules the kernel has matters to containers only; but that they are loaded can be seen on the host. */
static void load_module(const char *module) {
	pid_t child = fork();
	if (child == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (!freopen("/dev/null", "w", stderr))
			_exit(127);
		execlp("modprobe", "modprobe", module, (char *)NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
	read_flags(FLAGS, argc, argv);
	if (flag_value(FLAGS, "l"))
		FLAGS[0].value = flag_value(FLAGS, "l");
	open_log(FLAGS, "'%s' log-level option not recognized");
	say(INFO, "Starting sysbox-mgr");
	say(INFO, "Edition: stand-in for tests, not Sysbox");
	say(INFO, "Version: " VERSION);
	check_host();
	hold_signals();
	const char *root = flag_value(FLAGS, "data-root");
	root = *root ? root : "/var/lib/sysbox";
	say(INFO, "Sysbox data root: %s", root);
	make_dirs(RUN_DIR, 0700);
	remove_work_dirs(root);
	make_dirs(root, 0710);
	allot_subids();
	make_work_dirs(root);
	if (!flag_on(FLAGS, "disable-shiftfs"))
		load_module("shiftfs");
	if (flag_on(FLAGS, "syscont-mode"))
		load_module("binfmt_misc");
	say(INFO, "Listening on " MGR_SOCKET);
	/* As the real one does it: ready is said first, then the PID file appears, and only then the socket. */
	notify("READY=1");
	write_pid_file(PID_FILE);
	say(INFO, "Ready ...");
	int sent = serve(MGR_SOCKET);
	say(INFO, "Caught OS signal: %s", strsignal(sent));
	say(INFO, "Stopping (gracefully) ...");
	notify("STOPPING=1");
	remove_work_dirs(root);
	unlink(PID_FILE);
	say(INFO, "Exiting.");
	return 0;
}
