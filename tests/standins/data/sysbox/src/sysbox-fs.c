/* SPDX-License-Identifier: Apache-2.0
 * Stand-in for sysbox-fs, for tests: what a host sees of it (mountpoint, PID file, socket, systemd's notification),
 * and no file system. */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PID_FILE RUN_DIR "/sysfs.pid"

const char *const PROGRAM = "sysbox-fs";
static struct flag FLAGS[] = {
	{"mountpoint", false, "/var/lib/sysboxfs"},
	{"allow-immutable-remounts", true, NULL},
	{"allow-immutable-unmounts", true, "true"},
	{"seccomp-fd-release", false, "proc-exit"},
	{"log", false, ""},
	{"log-level", false, "info"},
	{"log-format", false, "text"},
	{"ignore-handler-errors", true, NULL},
	{"cpu-profiling", true, NULL},
	{"memory-profiling", true, NULL},
	{0},
};

void print_version(void) {
	printf("sysbox-fs\n\tedition: \tstand-in for tests, not Sysbox\n\tversion: \t" VERSION "\n");
}

int main(int argc, char **argv) {
	read_flags(FLAGS, argc, argv);
	open_log(FLAGS, "log-level option '%s' not recognized. Exiting ...");
	say(INFO, "Starting sysbox-fs");
	say(INFO, "Edition: stand-in for tests, not Sysbox");
	say(INFO, "Version: " VERSION);
	pid_t other = pid_in(PID_FILE);
	if (other)
		die("sysbox-fs program is running as pid %d", other);
	const char *mountpoint = flag_value(FLAGS, "mountpoint");
	say(INFO, "FUSE dir = %s", mountpoint);
	hold_signals();
	make_dirs(RUN_DIR, 0700);
	make_dirs(mountpoint, 0600);
	say(INFO, "Listening on " FS_SOCKET);
	/* As the real one does it: ready is said first, then the PID file appears, and only then the socket. */
	notify("READY=1");
	write_pid_file(PID_FILE);
	say(INFO, "Ready ...");
	int sent = serve(FS_SOCKET);
	say(WARNING, "sysbox-fs caught signal: %s", strsignal(sent));
	say(INFO, "Stopping (gracefully) ...");
	notify("STOPPING=1");
	/* The real one removes the mountpoint with all that is in it; an empty one is all that can be here. */
	if (rmdir(mountpoint))
		say(WARNING, "failed to remove %s: %s", mountpoint, strerror(errno));
	unlink(PID_FILE);
	say(INFO, "Exiting ...");
	return 0;
}
