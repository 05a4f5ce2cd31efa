/* program.c: whether a process that was just born runs a program that was looked up before.
 *
 * The facts that arbiter/identity.py tells an app by, where it tells it by its executable alone; and
 * the same parent, where a rule asks for ancestors. */
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
static bool file_of(int directory, const char *path, uint64_t *device, uint64_t *file)
{
	struct statx found;

	if (statx(directory, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO | STATX_NLINK, &found) < 0 ||
	    found.stx_nlink == 0)
		return false;
	*device = makedev(found.stx_dev_major, found.stx_dev_minor);
	*file = found.stx_ino;
	return true;
}

/* Whether its path leads to what runs, for us. */
static bool is_there(const struct facts *facts)
{
	uint64_t device, file;

	return file_of(AT_FDCWD, facts->path, &device, &file) && device == facts->device &&
	       file == facts->file;
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

/* What it is known by, and its cmdline; false: it is gone, or cannot be known so. */
bool newborn_read(struct newborn *one)
{
	struct facts *facts = &one->facts;
	struct stat status;

	if (fstat(one->directory, &status) < 0)
		return false;
	facts->uid = status.st_uid;
	one->argv_size = -1;
	if (file_of(one->directory, "exe", &facts->device, &facts->file) &&
	    link_of(one->directory, "exe", facts->path, sizeof facts->path) && is_there(facts) &&
	    link_of(one->directory, "ns/mnt", facts->mounts, sizeof facts->mounts) &&
	    slurp(opened(one, &one->cgroup, "cgroup"), facts->cgroup, sizeof facts->cgroup) >= 0)
		one->argv_size = slurp(opened(one, &one->cmdline, "cmdline"), one->argv, sizeof one->argv);
	/* Last: it is empty once the process is gone, so that all before was of the living. */
	return one->argv_size > 0;
}

/* Where it works, if that is no sandbox: its root is that of its mount namespace, and no Flatpak's. */
bool newborn_cwd(struct newborn *one)
{
	struct statx ignored;
	char root[8];

	return link_of(one->directory, "root", root, sizeof root) && !strcmp(root, "/") &&
	       statx(one->directory, "root/.flatpak-info", AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW, 0,
		     &ignored) < 0 &&
	       link_of(one->directory, "cwd", one->cwd, sizeof one->cwd);
}

/* Whether it has this socket (`socket:[INODE]`) at this descriptor. */
bool newborn_has(const struct newborn *one, int descriptor, const char *target)
{
	char name[16], text[32];

	snprintf(name, sizeof name, "fd/%d", descriptor);
	return link_of(one->directory, name, text, sizeof text) && strcmp(text, target) == 0;
}

bool program_is(const struct program *program, const struct facts *facts)
{
	const struct facts *mine = &program->facts;

	return mine->file == facts->file && mine->device == facts->device && mine->uid == facts->uid &&
	       !strcmp(mine->path, facts->path) && !strcmp(mine->cgroup, facts->cgroup) &&
	       !strcmp(mine->mounts, facts->mounts);
}

/* Fill in what the program of a living process is known by, and say its parent. The path, file and
 * user are set by then, and must still be its own. */
bool program_learn(struct program *program, pid_t pid, pid_t *parent)
{
	struct facts *facts = &program->facts;
	struct newborn one;
	bool learned;

	if (!newborn_open(&one, pid))
		return false;
	learned = newborn_read(&one);
	if (learned) {
		memcpy(facts->mounts, one.facts.mounts, sizeof facts->mounts);
		memcpy(facts->cgroup, one.facts.cgroup, sizeof facts->cgroup);
		learned = program_is(program, &one.facts);
		*parent = one.parent;
	}
	newborn_close(&one);
	return learned;
}
