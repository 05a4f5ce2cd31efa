/* process.c: whether a process that was looked up before is the same, and holds a socket.
 *
 * The same facts as arbiter/kernel/procfs.py compares, read through a descriptor of its directory in
 * /proc: another process that gets its pid has another directory. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SEARCHED 128 /* descriptors looked at: about a microsecond each */

/* `starttime startcode startstack arg_start` of a stat file: different after every execve. */
static bool image(int file, char *out)
{
	/* Of the fields behind the name in parentheses: proc(5) counts from 1 and two are before. */
	static const int wanted[] = { 22 - 3, 26 - 3, 28 - 3, 48 - 3 };
	char text[2048], *at;
	ssize_t size = pread(file, text, sizeof text - 1, 0);
	size_t used = 0, next = 0;

	if (size <= 0)
		return false;
	text[size] = 0;
	at = strrchr(text, ')');
	if (at == NULL || at[1] != ' ')
		return false;
	at += 2;
	for (int field = 0; next < 4; field++) {
		size_t length = strcspn(at, " \n");

		if (field == wanted[next]) {
			if (length == 0 || used + length + 1 >= IMAGE)
				return false;
			memcpy(out + used, at, length);
			used += length;
			out[used++] = ' ';
			next++;
		}
		if (next < 4 && at[length] != ' ')
			return false;
		at += length + 1;
	}
	out[used - 1] = 0;
	return true;
}

/* Whether it has run no other program since it was looked up; once, when it is opened. */
bool process_is_image(const struct process *process)
{
	int file = openat(process->directory, "stat", O_RDONLY | O_CLOEXEC);
	char now[IMAGE];
	bool same = file >= 0 && image(file, now) && strcmp(now, process->image) == 0;

	if (file >= 0)
		close(file);
	return same;
}

/* Open what is read again and again. `pid` and the facts are set by then. */
bool process_open(struct process *process)
{
	char path[32];

	process->table = -1;
	snprintf(path, sizeof path, "/proc/%d", (int)process->pid);
	process->directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (process->directory >= 0) {
		process->table = openat(process->directory, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (process->table >= 0 && process_same(process))
		return true;
	process_close(process);
	return false;
}

void process_close(struct process *process)
{
	int files[] = { process->table, process->directory };

	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (files[i] >= 0)
			close(files[i]);
	free(process->argv);
	process->argv = NULL;
	process->pid = 0;
}

/* The user and the executable are as they were. (Another program, or the end: see events.c.) */
bool process_same(const struct process *process)
{
	struct stat directory;
	struct statx exe;

	/* Not in step with its file system: that may be a FUSE that never answers. */
	if (statx(process->directory, "exe", AT_STATX_DONT_SYNC, STATX_INO | STATX_NLINK, &exe) < 0 ||
	    makedev(exe.stx_dev_major, exe.stx_dev_minor) != process->device ||
	    exe.stx_ino != process->file || exe.stx_nlink == 0)
		return false;
	return fstat(process->directory, &directory) == 0 && directory.st_uid == process->uid;
}

static bool is_at(const char *path, int directory, const char *target)
{
	char link[32];
	ssize_t size = readlinkat(directory, path, link, sizeof link - 1);

	if (size < 0)
		return false;
	link[size] = 0;
	return strcmp(link, target) == 0;
}

static bool is_descriptor(const struct process *process, int descriptor, const char *target)
{
	char name[16];

	snprintf(name, sizeof name, "%d", descriptor);
	return is_at(name, process->table, target);
}

/* Its descriptor of the socket, in its whole table if it is not too long; -1 for none. */
static int search(const struct process *process, const char *target)
{
	char entries[8192] __attribute__((aligned(8)));
	int left = SEARCHED;
	ssize_t size;

	if (lseek(process->table, 0, SEEK_SET) < 0)
		return -1;
	while ((size = syscall(SYS_getdents64, process->table, entries, sizeof entries)) > 0) {
		for (ssize_t at = 0; at < size;) {
			struct dirent64 *entry = (void *)(entries + at);

			at += entry->d_reclen;
			if (entry->d_name[0] == '.')
				continue;
			if (is_at(entry->d_name, process->table, target))
				return atoi(entry->d_name);
			if (--left == 0)
				return -1;
		}
	}
	return -1;
}

/* Whether a process has this socket (`socket:[INODE]`) at this descriptor. */
bool process_has(pid_t pid, int descriptor, const char *target)
{
	char path[48];

	snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, descriptor);
	return is_at(path, AT_FDCWD, target);
}

/* Whether it holds the socket, and none of its relatives does: where it does, or as its standard
 * input, as arbiter/kernel/holders.py looks for them. (Who is born later: see events.c.) */
bool process_holds(struct process *process, uint32_t inode)
{
	char target[32];
	int found, kept = process->descriptor_count;

	snprintf(target, sizeof target, "socket:[%u]", inode);
	for (int i = 0; i < process->descriptor_count; i++) {
		if (!is_descriptor(process, process->descriptors[i], target))
			continue;
		/* No relative had the socket that was there before: what is there now took its place
		 * since, and is inherited by nobody. */
		found = process->descriptors[i];
		memmove(process->descriptors + 1, process->descriptors, i * sizeof(int));
		process->descriptors[0] = found;
		return true;
	}
	found = search(process, target);
	if (found < 0)
		return false;
	for (int i = 0; i < process->relative_count; i++) {
		const pid_t relative = process->relatives[i];

		if (process_has(relative, found, target) || process_has(relative, 0, target))
			return false;
	}
	if (kept < DESCRIPTORS)
		process->descriptor_count++;
	else
		kept--;
	memmove(process->descriptors + 1, process->descriptors, kept * sizeof(int));
	process->descriptors[0] = found;
	return true;
}
