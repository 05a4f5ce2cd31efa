/* program.c: whether a process that was just born runs a program that was looked up before.
 *
 * The facts that arbiter/identity.py tells an app by, where it tells it by its executable alone;
 * and the same parent, so that it has the same ancestors. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SHORT 2048

/* A file of a process as it is now, whole, with a NUL behind it; -1 if the process is gone or it does
 * not fit. */
static ssize_t slurp(int file, char *to, size_t room)
{
	ssize_t size, whole = 0;

	/* A short read is the end of such a file, as a rule; see procread.slurp. */
	while ((size = pread(file, to + whole, room - whole, whole)) > 0) {
		whole += size;
		if (whole < SHORT)
			break;
	}
	if (size < 0 || (size_t)whole >= room)
		return -1;
	to[whole] = 0;
	return whole;
}

static bool link_of(int directory, const char *name, char *to, size_t room)
{
	ssize_t size = readlinkat(directory, name, to, room);

	if (size <= 0 || (size_t)size >= room)
		return false;
	to[size] = 0;
	return true;
}

/* Not in step with its file system: that may be a FUSE that never answers. */
static bool is_file(int directory, const char *path, const struct program *program)
{
	struct statx file;

	return statx(directory, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO | STATX_NLINK, &file) == 0 &&
	       makedev(file.stx_dev_major, file.stx_dev_minor) == program->device &&
	       file.stx_ino == program->file && file.stx_nlink > 0;
}

/* The numbers behind the name of a stat file that are wanted here; see process.c. */
static bool parent_and_start(int file, pid_t *parent, uint64_t *start)
{
	char text[2048], *at;
	unsigned long long number;

	if (slurp(file, text, sizeof text) < 0 || (at = strrchr(text, ')')) == NULL ||
	    sscanf(at + 1, " %*c %d", parent) != 1)
		return false;
	for (int field = 3; field < 22 && at != NULL; field++)
		at = strchr(at + (field == 3 ? 2 : 1), ' ');
	if (at == NULL || sscanf(at, " %llu", &number) != 1)
		return false;
	*start = number;
	return true;
}

/* A file of it that is read each time anew, opened once; -1 if it is gone. */
static int opened(const struct newborn *one, int *file, const char *name)
{
	if (*file < 0)
		*file = openat(one->directory, name, O_RDONLY | O_CLOEXEC);
	return *file;
}

/* Its directory in /proc: another process that gets its pid has another one; and what stays as it is
 * while its parent lives. False: it is gone. */
bool newborn_open(struct newborn *one, pid_t pid)
{
	char path[32];
	int file;
	bool read;

	snprintf(path, sizeof path, "/proc/%d", (int)pid);
	one->directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (one->directory < 0)
		return false;
	one->pid = pid;
	one->cgroup = one->cmdline = -1;
	file = openat(one->directory, "stat", O_RDONLY | O_CLOEXEC);
	read = file >= 0 && parent_and_start(file, &one->parent, &one->start);
	if (file >= 0)
		close(file);
	if (!read)
		newborn_close(one);
	return read;
}

/* What will be read of it takes less then: files are open, and the kernel has made what it makes at
 * the first look. Nothing that is seen here counts. */
void newborn_prepare(struct newborn *one)
{
	static const char *const looked_up[] = { "fd", "exe", "ns/mnt" };
	struct statx ignored;

	opened(one, &one->cgroup, "cgroup");
	opened(one, &one->cmdline, "cmdline");
	for (size_t i = 0; i < sizeof looked_up / sizeof *looked_up; i++)
		(void)statx(one->directory, looked_up[i], AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW, 0,
			    &ignored);
}

void newborn_close(struct newborn *one)
{
	const int files[] = { one->directory, one->cgroup, one->cmdline };

	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (files[i] >= 0)
			close(files[i]);
	one->pid = 0;
}

/* Fill in what the program of a living process is known by. The path, file, user and parent are
 * set by then, and must still be its own. */
bool program_learn(struct program *program, pid_t pid)
{
	struct newborn one;
	bool learned;

	if (!newborn_open(&one, pid))
		return false;
	learned = link_of(one.directory, "ns/mnt", program->mounts, sizeof program->mounts) &&
		  slurp(opened(&one, &one.cgroup, "cgroup"), program->cgroup,
			sizeof program->cgroup) >= 0 &&
		  program_runs(program, &one);
	newborn_close(&one);
	return learned;
}

/* Whether this process runs it, and has its parent; fills in what the record of its connection says.
 * (The end of its parent, which gives it another: see events.c.) */
bool program_runs(const struct program *program, struct newborn *one)
{
	const int directory = one->directory;
	char text[sizeof program->cgroup];
	struct stat status;
	bool runs;

	runs = one->parent == program->parent && fstat(directory, &status) == 0 &&
	       status.st_uid == program->uid &&
	       is_file(directory, "exe", program) &&
	       link_of(directory, "exe", text, sizeof text) && strcmp(text, program->path) == 0 &&
	       is_file(AT_FDCWD, program->path, program) &&
	       link_of(directory, "ns/mnt", text, sizeof text) && strcmp(text, program->mounts) == 0 &&
	       slurp(opened(one, &one->cgroup, "cgroup"), text, sizeof text) >= 0 &&
	       strcmp(text, program->cgroup) == 0;
	if (runs)
		one->argv_size = slurp(opened(one, &one->cmdline, "cmdline"), one->argv, sizeof one->argv);
	/* Last: it is empty once the process is gone, so that all before was of the living. */
	return runs && one->argv_size > 0;
}

/* Whether it holds the socket where the program's others had theirs, and its parent does not. */
bool program_holds(const struct program *program, struct newborn *one, uint32_t inode)
{
	char target[32], name[16], text[32];

	snprintf(target, sizeof target, "socket:[%u]", inode);
	for (int i = 0; i < program->descriptor_count; i++) {
		snprintf(name, sizeof name, "fd/%d", program->descriptors[i]);
		if (!link_of(one->directory, name, text, sizeof text) || strcmp(text, target))
			continue;
		one->descriptor = program->descriptors[i];
		return !process_has(program->parent, one->descriptor, target);
	}
	return false;
}

/* Whether another process holds the socket where the program's have theirs, or as its standard
 * input. */
bool program_shared(const struct program *program, pid_t with, uint32_t inode)
{
	char target[32];

	snprintf(target, sizeof target, "socket:[%u]", inode);
	for (int i = 0; i < program->descriptor_count; i++)
		if (process_has(with, program->descriptors[i], target))
			return true;
	return process_has(with, 0, target);
}
