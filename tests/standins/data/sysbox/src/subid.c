/* SPDX-License-Identifier: Apache-2.0
 * What sysbox-mgr does to /etc/subuid and /etc/subgid when it starts: exactly one entry of 65536 ids for user sysbox.
 * If that is there, the file stays as it is. If not, the whole file is written anew, sorted by start; lines that are
 * no entries (comments too) come out as "line:0:0". Both files must end up with the same range. */
#define _GNU_SOURCE
#include "subid.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define SIZE 65536
#define MANY 1024
#define REFUSED "failed to create sysbox-mgr: failed to setup subid allocator: "

struct entry {
	char *name;
	long long start, count;
};
struct table {
	struct entry entries[MANY];
	size_t length;
};

/* Whatever is not a number counts as 0. */
static long long number(const char *word) {
	char *end = NULL;
	if (!word || !strchr("+-0123456789", *word) || !*word)
		return 0;
	long long value = strtoll(word, &end, 10);
	return *end ? 0 : value;
}

static bool is_sysbox(const struct entry *entry) {
	return !strcmp(entry->name, "sysbox");
}

static char *trimmed(char *line) {
	line += strspn(line, " \t\r\n");
	size_t length = strlen(line);
	while (length && strchr(" \t\r\n", line[length - 1]))
		line[--length] = 0;
	return line;
}

static void read_table(const char *path, struct table *table) {
	char *line = NULL;
	size_t room = 0;
	table->length = 0;
	FILE *file = fopen(path, "re");
	if (!file && errno != ENOENT)
		die(REFUSED "error parsing file %s: %s", path, strerror(errno));
	while (file && getline(&line, &room, file) >= 0 && table->length < MANY - 1) {
		char *rest = strdup(trimmed(line));
		if (!*rest)
			continue;
		struct entry *entry = &table->entries[table->length++];
		entry->name = strsep(&rest, ":");
		entry->start = number(strsep(&rest, ":"));
		entry->count = number(strsep(&rest, ":"));
	}
	free(line);
	if (file)
		fclose(file);
}

static void write_table(const char *path, const struct table *table) {
	FILE *file = fopen(path, "we"); /* in place, as the real one does */
	if (!file)
		die(REFUSED "failed to configure subid range for sysbox: %s", strerror(errno));
	for (size_t n = 0; n < table->length; n++)
		fprintf(file, "%s:%lld:%lld\n", table->entries[n].name, table->entries[n].start, table->entries[n].count);
	fclose(file);
}

static void sort(struct table *table) {
	for (size_t n = 1; n < table->length; n++)
		for (size_t m = n; m && table->entries[m].start < table->entries[m - 1].start; m--) {
			struct entry kept = table->entries[m];
			table->entries[m] = table->entries[m - 1];
			table->entries[m - 1] = kept;
		}
}

static bool fits(long long from, long long to) {
	return to >= from && to - from >= SIZE;
}

/* First fit among the sorted entries. */
static long long hole(const struct table *table, long long min, long long max) {
	long long from = min;
	for (size_t n = 0; n < table->length; n++) {
		if (fits(from, table->entries[n].start))
			return from;
		from = table->entries[n].start + table->entries[n].count;
	}
	if (!fits(from, max))
		die(REFUSED "failed to configure subid range for sysbox: "
		    "failed to allocate %d subids in range %lld, %lld", SIZE, min, max);
	return from;
}

static void drop_sysbox(struct table *table) {
	size_t kept = 0;
	for (size_t n = 0; n < table->length; n++)
		if (!is_sysbox(&table->entries[n]))
			table->entries[kept++] = table->entries[n];
	table->length = kept;
}

/* Answers the start of sysbox's range in the file, put there if need be. */
static long long allot(const char *path, long long min, long long max) {
	static struct table table;
	size_t found = 0, last = 0;
	read_table(path, &table);
	for (size_t n = 0; n < table.length; n++)
		if (is_sysbox(&table.entries[n])) {
			found++;
			last = n;
		}
	if (found == 1 && table.entries[last].count == SIZE)
		return table.entries[last].start;
	drop_sysbox(&table);
	sort(&table);
	long long start = hole(&table, min, max);
	table.entries[table.length++] = (struct entry){"sysbox", start, SIZE};
	sort(&table);
	write_table(path, &table);
	return start;
}

static void read_limits(long long limits[4]) {
	static const char *const names[] = {"SUB_UID_MIN", "SUB_UID_MAX", "SUB_GID_MIN", "SUB_GID_MAX"};
	char *line = NULL, word[128], *end;
	size_t room = 0;
	FILE *file = fopen("/etc/login.defs", "re");
	while (file && getline(&line, &room, file) >= 0) {
		char *start = line + strspn(line, " \t");
		for (size_t n = 0; n < 4; n++) {
			if (strncmp(start, names[n], strlen(names[n])))
				continue;
			bool two = sscanf(start, "%*s %127s", word) == 1;
			limits[n] = two ? strtoll(word, &end, 10) : 0;
			if (!two || *end)
				die(REFUSED "failed to parse line %s", trimmed(line));
		}
	}
	free(line);
	if (file)
		fclose(file);
}

void allot_subids(void) {
	long long limits[4] = {100000, UINT_MAX, 100000, UINT_MAX};
	read_limits(limits);
	long long uids = allot("/etc/subuid", limits[0], limits[1]);
	long long gids = allot("/etc/subgid", limits[2], limits[3]);
	if (uids != gids)
		die(REFUSED "could not find matching subuid and subgids range for user sysbox");
}
