/* SPDX-License-Identifier: Apache-2.0
 * What the stand-ins for sysbox-mgr, sysbox-fs and sysbox-runc share. They are for tests, and no part of Sysbox. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RUN_DIR "/run/sysbox"
#define MGR_SOCKET RUN_DIR "/sysmgr.sock"
#define FS_SOCKET RUN_DIR "/sysfs.sock"

struct flag {
	const char *name;
	bool boolean;
	const char *value; /* NULL: not given, and without a default */
};

/* Reads flags as Go programs with urfave/cli do: -f, --f, --f=value, --f value; the first other word ends them.
 * Answers that word's index; --help and --version end the program, as does a mistake. */
int read_flags(struct flag *flags, int argc, char **argv);
const char *flag_value(const struct flag *flags, const char *name);
bool flag_on(const struct flag *flags, const char *name);

/* The text of --version, and the flags' list of --help. */
void print_version(void);
void print_usage(const struct flag *flags);

enum level { DEBUG, INFO, WARNING, ERROR, FATAL };
/* --log, --log-level and --log-format, as the daemons take them. */
void open_log(const struct flag *flags, const char *unknown_level);
void say(enum level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

bool command_exists(const char *name);
void make_dirs(const char *path, mode_t mode);
/* The PID in the file if a program of that name runs under it, else 0. */
pid_t pid_in(const char *pid_file);
void write_pid_file(const char *pid_file);

/* Tells systemd, if it asked to be told. */
void notify(const char *state);
/* NULL, or why nobody can be reached there. */
const char *unreachable(const char *socket_path);
/* Blocks the signals that end a daemon, until `serve` takes them. */
void hold_signals(void);
/* Takes connections, and closes them at once, until a signal comes; answers the signal. */
int serve(const char *socket_path);

extern const char *const PROGRAM;
#endif
