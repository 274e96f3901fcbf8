/* SPDX-License-Identifier: Apache-2.0
 * What the stand-ins share: flags, log, PID file, systemd's notification, sockets. */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *const LEVELS[] = {"debug", "info", "warning", "error", "fatal"};
static FILE *log_file;
static enum level log_from = INFO;
static bool log_json;

char *text(const char *format, ...) {
	char *made = NULL;
	va_list args;
	va_start(args, format);
	if (vasprintf(&made, format, args) < 0)
		abort();
	va_end(args);
	return made;
}

static void write_line(enum level level, const char *message) {
	char when[32];
	time_t now = time(NULL);
	strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime(&now));
	FILE *to = log_file ? log_file : stderr;
	if (log_json)
		fprintf(to, "{\"level\":\"%s\",\"time\":\"%s\",\"msg\":\"", LEVELS[level], when);
	else
		fprintf(to, "time=\"%s\" level=%s msg=\"", when, LEVELS[level]);
	for (const char *c = message; *c; c++)
		fprintf(to, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
	fputs(log_json ? "\"}\n" : "\"\n", to);
	fflush(to);
}

void say(enum level level, const char *format, ...) {
	char *message = NULL;
	va_list args;
	va_start(args, format);
	if (level >= log_from && vasprintf(&message, format, args) >= 0)
		write_line(level, message);
	va_end(args);
	free(message);
}

void die(const char *format, ...) {
	char *message = NULL;
	va_list args;
	va_start(args, format);
	if (vasprintf(&message, format, args) >= 0)
		write_line(FATAL, message);
	va_end(args);
	exit(1);
}

void open_log(const struct flag *flags, const char *unknown_level) {
	const char *path = flag_value(flags, "log"), *level = flag_value(flags, "log-level");
	if (path && *path && !(log_file = fopen(path, "ae")))
		die("open %s: %s", path, strerror(errno));
	log_json = !strcmp(flag_value(flags, "log-format"), "json");
	enum level found = DEBUG;
	while (found <= FATAL && strcmp(level, LEVELS[found]))
		found++;
	if (found > FATAL)
		die(unknown_level, level);
	log_from = found;
}

/* Flags */

static struct flag *named(struct flag *flags, const char *name, size_t length) {
	for (struct flag *flag = flags; flag->name; flag++)
		if (strlen(flag->name) == length && !strncmp(flag->name, name, length))
			return flag;
	return NULL;
}

const char *flag_value(const struct flag *flags, const char *name) {
	return named((struct flag *)flags, name, strlen(name))->value;
}

bool flag_on(const struct flag *flags, const char *name) {
	const char *value = flag_value(flags, name);
	return value && strchr("1tT", *value);
}

static bool is_boolean(const char *word) {
	static const char *const known[] = {"1", "t", "T", "true", "TRUE", "True",
					    "0", "f", "F", "false", "FALSE", "False"};
	for (size_t n = 0; n < sizeof known / sizeof *known; n++)
		if (!strcmp(word, known[n]))
			return true;
	return false;
}

static _Noreturn void refuse_usage(const struct flag *flags, const char *mistake) {
	printf("Incorrect Usage: %s\n\n", mistake);
	print_usage(flags);
	fflush(stdout);
	die("%s", mistake);
}

void print_usage(const struct flag *flags) {
	printf("NAME:\n   %s - stand-in for tests, not Sysbox\n\nOPTIONS:\n", PROGRAM);
	for (const struct flag *flag = flags; flag->name; flag++)
		printf("   --%s%s\n", flag->name, flag->boolean ? "" : " value");
	printf("   --help, -h\n   --version, -v\n");
}

static bool is_one_of(const char *name, const char *word, const char *letter) {
	return !strcmp(name, word) || !strcmp(name, letter);
}

int read_flags(struct flag *flags, int argc, char **argv) {
	int at = 1;
	bool help = false, version = false;
	for (; at < argc && argv[at][0] == '-' && argv[at][1]; at++) {
		if (!strcmp(argv[at], "--")) {
			at++;
			break;
		}
		const char *name = argv[at] + (argv[at][1] == '-' ? 2 : 1);
		const char *equals = strchr(name, '=');
		struct flag *flag = named(flags, name, equals ? (size_t)(equals - name) : strlen(name));
		if (!flag && is_one_of(name, "help", "h"))
			help = true;
		else if (!flag && is_one_of(name, "version", "v"))
			version = true;
		else if (!flag)
			refuse_usage(flags, text("flag provided but not defined: -%s", name));
		else if (flag->boolean && equals && !is_boolean(equals + 1))
			refuse_usage(flags, text("invalid boolean value \"%s\" for -%s: parse error", equals + 1, flag->name));
		else if (!flag->boolean && !equals && at + 1 == argc)
			refuse_usage(flags, text("flag needs an argument: -%s", name));
		else
			flag->value = equals ? equals + 1 : flag->boolean ? "true" : argv[++at];
	}
	if (help)
		print_usage(flags);
	else if (version)
		print_version();
	if (help || version)
		exit(0);
	return at;
}

/* Files */

bool command_exists(const char *name) {
	const char *path = getenv("PATH");
	char *list = strdup(path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	char *rest = list, *folder;
	bool found = false;
	while (!found && (folder = strsep(&rest, ":"))) {
		char *file = text("%s/%s", folder, name);
		found = access(file, X_OK) == 0;
		free(file);
	}
	free(list);
	return found;
}

void make_dirs(const char *path, mode_t mode) {
	char *part = strdup(path);
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(part, mode);
		*slash = '/';
	}
	free(part);
	if (mkdir(path, mode) && errno != EEXIST)
		die("failed to create %s: mkdir %s: %s", path, path, strerror(errno));
}

pid_t pid_in(const char *pid_file) {
	char exe[4096];
	int pid = 0;
	FILE *file = fopen(pid_file, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%d", &pid) != 1)
		die("parsing %s: invalid syntax", pid_file);
	fclose(file);
	ssize_t length = readlink(text("/proc/%d/exe", pid), exe, sizeof exe - 1);
	if (length < 0)
		return 0;
	exe[length] = 0;
	const char *base = strrchr(exe, '/');
	if (base && !strcmp(base + 1, PROGRAM))
		return pid;
	say(INFO, "pid %d is not associated to process %s", pid, PROGRAM);
	return 0;
}

void write_pid_file(const char *pid_file) {
	int fd = open(pid_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0400);
	if (fd < 0 || dprintf(fd, "%d\n", getpid()) < 0)
		die("failed to write %s pid to file %s: %s", PROGRAM, pid_file, strerror(errno));
	close(fd);
}

/* Sockets */

static socklen_t address_of(struct sockaddr_un *address, const char *path) {
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
	size_t length = strlen(address->sun_path);
	if (address->sun_path[0] == '@') /* an abstract name has a length and no closing zero */
		address->sun_path[0] = 0;
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
}

void notify(const char *state) {
	struct sockaddr_un address;
	const char *path = getenv("NOTIFY_SOCKET");
	if (!path)
		return;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t length = address_of(&address, path);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, length) < 0)
		say(WARNING, "systemd was not told %s: %s", state, strerror(errno));
	close(fd);
}

const char *unreachable(const char *socket_path) {
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t length = address_of(&address, socket_path);
	const char *why = connect(fd, (struct sockaddr *)&address, length) ? strerror(errno) : NULL;
	close(fd);
	return why;
}

static int listen_on(const char *path) {
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t length = address_of(&address, path);
	unlink(path); /* an earlier daemon leaves its socket behind, as the real ones do */
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 64) || chmod(path, 0600))
		die("failed to listen: listen unix %s: %s", path, strerror(errno));
	return fd;
}

static sigset_t ending(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGTERM);
	return set;
}

void hold_signals(void) {
	sigset_t set = ending();
	sigprocmask(SIG_BLOCK, &set, NULL);
}

int serve(const char *socket_path) {
	sigset_t set = ending();
	struct signalfd_siginfo got = {0};
	struct pollfd both[] = {
		{.fd = listen_on(socket_path), .events = POLLIN},
		{.fd = signalfd(-1, &set, SFD_CLOEXEC), .events = POLLIN},
	};
	while (poll(both, 2, -1) >= 0 || errno == EINTR) {
		if (both[1].revents && read(both[1].fd, &got, sizeof got) == sizeof got)
			break;
		int caller = both[0].revents ? accept4(both[0].fd, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (caller >= 0)
			close(caller);
	}
	return (int)got.ssi_signo;
}
