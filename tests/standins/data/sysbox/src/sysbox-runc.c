/* SPDX-License-Identifier: Apache-2.0
 * Stand-in for sysbox-runc, for tests: refuses to create containers where the real one would (kernel, user namespaces,
 * daemons that don't answer), and otherwise hands over to the host's runc with the same arguments. It adds no user
 * namespace of its own: a container has one if its OCI spec does. */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

const char *const PROGRAM = "sysbox-runc";
static struct flag FLAGS[] = {
	{"debug", true, NULL},
	{"log", false, NULL},
	{"log-format", false, NULL},
	{"root", false, "/run/sysbox-runc"},
	{"systemd-cgroup", true, NULL},
	/* from here on the real one's own, which runc does not know */
	{"no-sysbox-fs", true, NULL},
	{"no-sysbox-mgr", true, NULL},
	{"no-kernel-check", true, NULL},
	{"cpu-profiling", true, NULL},
	{"memory-profiling", true, NULL},
	{0},
};
#define RUNC_FLAGS 5
static const char *const COMMANDS[] = {
	"create", "delete", "events", "exec", "kill", "list", "pause", "ps",
	"resume", "run", "spec", "start", "state", "update",
#ifdef WITH_FEATURES
	"features", /* since 0.7.0 */
#endif
};
static const char *const RUNCS[] = {
	"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc", "/usr/libexec/crio/runc",
};

void print_version(void) {
	printf("sysbox-runc\n\tedition: \tstand-in for tests, not Sysbox\n\tversion: \t" VERSION "\n");
}

/* To the log file that the caller named, whose last error it will show, and to stderr. */
static _Noreturn void refuse(const char *message) {
	const char *log = flag_value(FLAGS, "log"), *format = flag_value(FLAGS, "log-format");
	FILE *file = log && *log ? fopen(log, "ae") : NULL;
	char when[32];
	time_t now = time(NULL);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	if (file && format && !strcmp(format, "json"))
		fprintf(file, "{\"level\":\"error\",\"msg\":\"%s\",\"time\":\"%s\"}\n", message, when);
	else if (file)
		fprintf(file, "time=\"%s\" level=error msg=\"%s\"\n", when, message);
	if (file)
		fclose(file);
	fprintf(stderr, "%s\n", message);
	exit(1);
}

static int number_in(const char *path, int otherwise) {
	int value = otherwise;
	FILE *file = fopen(path, "re");
	if (file && fscanf(file, "%d", &value) != 1)
		value = otherwise;
	if (file)
		fclose(file);
	return value;
}

static bool is_ubuntu(void) {
	char line[256];
	bool found = false;
	FILE *file = fopen("/etc/os-release", "re");
	while (file && !found && fgets(line, sizeof line, file))
		found = !strcmp(line, "ID=ubuntu\n") || !strcmp(line, "ID=\"ubuntu\"\n");
	if (file)
		fclose(file);
	return found;
}

static void check_kernel(void) {
	struct utsname name;
	int major = 0, minor = 0, least = is_ubuntu() ? 0 : 5;
	uname(&name);
	sscanf(name.release, "%d.%d", &major, &minor);
	if (major < 5 || (major == 5 && minor < least))
		refuse(text("kernel version check failed: kernel release %s is not supported; need >= 5.%d",
			    name.release, least));
}

static void check_user_namespaces(void) {
	static const char why[] = "kernel is not configured to allow unprivileged users to create namespaces";
	const char *clone = "/proc/sys/kernel/unprivileged_userns_clone", *most = "/proc/sys/user/max_user_namespaces";
	if (number_in(clone, 1) != 1)
		refuse(text("%s: %s: want 1, have %d", why, clone, number_in(clone, 1)));
	if (number_in(most, 0) == 0)
		refuse(text("%s: %s: want >= 1, have 0", why, most));
}

static void check_daemon(const char *what, const char *socket_path) {
	const char *why = unreachable(socket_path);
	if (why)
		refuse(text("%s via grpc: rpc error: code = Unavailable desc = connection error: "
			    "transport: Error while dialing dial unix %s: connect: %s", what, socket_path, why));
}

static void check_host(void) {
	if (!flag_on(FLAGS, "no-kernel-check"))
		check_kernel();
	check_user_namespaces();
	if (!flag_on(FLAGS, "no-sysbox-mgr"))
		check_daemon("failed to register with sysbox-mgr: failed to invoke Register", MGR_SOCKET);
	if (!flag_on(FLAGS, "no-sysbox-fs"))
		check_daemon("failed to get config from sysbox-fs: failed to invoke GetMountpoint", FS_SOCKET);
}

static bool is_command(const char *word) {
	for (size_t n = 0; n < sizeof COMMANDS / sizeof *COMMANDS; n++)
		if (!strcmp(word, COMMANDS[n]))
			return true;
	return false;
}

static _Noreturn void hand_over(int argc, char **argv, int at) {
	char **words = calloc((size_t)argc + RUNC_FLAGS + 2, sizeof *words);
	size_t count = 1;
	for (const struct flag *flag = FLAGS; flag < FLAGS + RUNC_FLAGS; flag++)
		if (flag->value)
			words[count++] = text("--%s=%s", flag->name, flag->value);
	while (at < argc)
		words[count++] = argv[at++];
	for (size_t n = 0; n < sizeof RUNCS / sizeof *RUNCS; n++) {
		words[0] = (char *)RUNCS[n];
		execv(RUNCS[n], words); /* returns only if it can't be run */
	}
	refuse("the stand-in for sysbox-runc needs runc, and found none");
}

int main(int argc, char **argv) {
	int at = read_flags(FLAGS, argc, argv);
	if (at == argc || !strcmp(argv[at], "help") || !strcmp(argv[at], "h")) {
		print_usage(FLAGS);
		return 0;
	}
	if (!is_command(argv[at])) {
		fprintf(stderr, "No help topic for '%s'\n", argv[at]);
		return 3;
	}
	if (!strcmp(argv[at], "create") || !strcmp(argv[at], "run"))
		check_host();
	hand_over(argc, argv, at);
}
