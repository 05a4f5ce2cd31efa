/* holder.c: the process that was just born and alone holds a socket.
 *
 * All of it with the lock of the path held. */
#include "fastpath.h"

#include <stdio.h>
#include <stdlib.h>

/* The process that was born here, if it has the socket in one of these places. */
static struct newborn *born(struct fastpath *path, const struct birth *birth, const int *descriptors,
			    int count, const char *target)
{
	struct newborn *one = births_opened(path, birth->pid);

	for (int i = 0; i < count; i++) {
		if (one == NULL && !process_has(birth->pid, descriptors[i], target))
			continue;
		if (one == NULL)
			one = births_newborn(path, birth->pid);
		if (one == NULL || one->parent != birth->parent)
			return NULL;
		if (!newborn_has(one, descriptors[i], target))
			continue;
		one->descriptor = descriptors[i];
		return one;
	}
	return NULL;
}

/* Whether nobody else has the socket: its parent, and who was born later, where this one has it or
 * as standard input. (Its clones may be told of as its parent's children, CLONE_PARENT, and have
 * children of their own.) */
static bool alone(const struct fastpath *path, const struct newborn *one, const char *target)
{
	pid_t pids[YOUNGER];
	int count = events_younger(&path->events, one->pid, pids, YOUNGER);

	for (int i = 0; i < count; i++)
		if (process_has(pids[i], one->descriptor, target) || process_has(pids[i], 0, target))
			return false;
	return count >= 0 && !process_has(one->parent, one->descriptor, target);
}

/* The process that was just born and alone has the socket, in one of these places, with all that is
 * read of it, which belongs together. NULL: there is none, or it is not sure. */
struct newborn *holder_newborn(struct fastpath *path, const int *descriptors, int count, uint32_t inode)
{
	struct birth births[NEWBORN];
	struct newborn *one = NULL;
	char target[32];
	uint64_t since;
	int found;

	snprintf(target, sizeof target, "socket:[%u]", inode);
	answers_drain(path);
	since = path->events.count;
	found = events_newborn(&path->events, births, NEWBORN);
	for (int i = 0; i < found && one == NULL; i++)
		one = born(path, &births[i], descriptors, count, target);
	if (one == NULL || !newborn_read(one))
		return NULL;
	answers_drain(path); /* it has run no other program, and its parent is the same, since then */
	if (!one->pid || events_had(&path->events, since, one->pid) ||
	    events_had(&path->events, since, one->parent) || !alone(path, one, target))
		return NULL;
	return one;
}

/* What Python would read of a parent, as long as it lives: in memory that is the caller's, with no
 * descriptors. NULL: it has to look itself. */
struct newborn *holder_parent(struct fastpath *path, pid_t pid)
{
	const uint64_t since = path->events.count;
	struct newborn *opened = births_opened(path, pid), *one = malloc(sizeof *one);
	bool read;

	if (one == NULL)
		return NULL;
	if (opened != NULL)
		*one = *opened;
	else if (!newborn_open(one, pid))
		one->pid = 0;
	read = one->pid && newborn_read(one) && newborn_cwd(one);
	if (opened != NULL) {
		opened->cgroup = one->cgroup;
		opened->cmdline = one->cmdline;
	} else if (one->pid) {
		newborn_close(one);
		one->pid = pid;
	}
	answers_drain(path);
	if (read && !events_had(&path->events, since, pid))
		return one;
	free(one);
	return NULL;
}
