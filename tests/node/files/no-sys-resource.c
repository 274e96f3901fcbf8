/* For nodes on a machine that withholds CAP_SYS_RESOURCE from everybody (it is not in the bounding set).
 *
 * A real node's runtimes count on that capability in two ways, and both fail hard without it:
 *   - CRI-O puts every capability that the kernel knows into a privileged container's spec;
 *   - pods get a negative oomScoreAdj, and runtimes write negative scores for themselves.
 * Preloaded (/etc/ld.so.preload) into the node's programs, this hides the lack from the runtimes:
 *   - in monitors and runtimes (by program name), the OCI spec they are about to read is edited in place;
 *   - a refused write to an oom_score_adj file counts as done.
 * Edits keep the file's length: what is taken out becomes blanks, which JSON does not mind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool names_oom_score(int fd)
{
	static const char tail[] = "/oom_score_adj";
	char link[48], target[128];

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t len = readlink(link, target, sizeof target);
	ssize_t want = sizeof tail - 1;
	return len >= want && memcmp(target + len - want, tail, want) == 0;
}

ssize_t write(int fd, const void *data, size_t len)
{
	long done = syscall(SYS_write, fd, data, len);
	if (done == -1 && errno == EACCES) {
		if (names_oom_score(fd))
			return (ssize_t)len;
		errno = EACCES;
	}
	return done;
}

static void blank_capability(char *text, char *end)
{
	static const char word[] = "\"CAP_SYS_RESOURCE\"";
	size_t len = sizeof word - 1;

	for (char *at = text; (at = memmem(at, end - at, word, len)); at += len) {
		memset(at, ' ', len);
		/* one comma goes with it: the one behind, or that before the last of a list */
		if (at + len < end && at[len] == ',')
			at[len] = ' ';
		else if (at > text && at[-1] == ',')
			at[-1] = ' ';
	}
}

static void zero_negative_score(char *text, char *end)
{
	static const char word[] = "\"oomScoreAdj\":";
	char *at = memmem(text, end - text, word, sizeof word - 1);
	if (!at)
		return;
	for (at += sizeof word - 1; at < end && *at == ' '; at++)
		;
	if (at == end || *at != '-')
		return;
	for (*at++ = '0'; at < end && *at >= '0' && *at <= '9'; at++)
		*at = ' ';
}

static void edit_spec(const char *file)
{
	struct stat info;
	int fd = open(file, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &info) == 0 && info.st_size > 0) {
		char *text = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (text != MAP_FAILED) {
			blank_capability(text, text + info.st_size);
			zero_negative_score(text, text + info.st_size);
			munmap(text, info.st_size);
		}
	}
	close(fd);
}

static bool one_of(const char *word, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(word, *list) == 0)
			return true;
	return false;
}

__attribute__((constructor)) static void on_load(int argc, char **argv)
{
	static const char *const programs[] = {"runc", "crun", "conmon", NULL};
	static const char *const bundles[] = {"-b", "--bundle", NULL};
	static const char *const processes[] = {"-p", "--process", "--exec-process-spec", NULL};

	if (argc < 1 || !argv[0])
		return;
	const char *slash = strrchr(argv[0], '/');
	if (!one_of(slash ? slash + 1 : argv[0], programs))
		return;
	for (int i = 1; i + 1 < argc; i++) {
		if (one_of(argv[i], bundles)) {
			char file[4096];
			snprintf(file, sizeof file, "%s/config.json", argv[i + 1]);
			edit_spec(file);
		} else if (one_of(argv[i], processes)) {
			edit_spec(argv[i + 1]);
		}
	}
}
