/* births.c: new processes that may run programs that answers hold for: opened as they are born, so
 * that there is less to do when their first packet comes.
 *
 * The kernel tells of births to the parents of such programs only; and of all births where the one
 * that was met last had a new parent (each has, where scripts start them): what others do wakes
 * nobody then, or a few times. Of a process that is opened only its start and its parent count; all else is read when
 * its packet comes.
 *
 * All of it with the lock of the path held. */
#include "fastpath.h"

#include <arpa/inet.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

/* Where a message of the proc connector has its event, and that its four process ids. */
#define WHAT (NLMSG_HDRLEN + sizeof(struct cn_msg) + offsetof(struct proc_event, what))
#define DATA (NLMSG_HDRLEN + sizeof(struct cn_msg) + offsetof(struct proc_event, event_data))

/* This one, if it was opened. */
struct newborn *births_opened(struct fastpath *path, pid_t pid)
{
	for (int i = 0; i < NEWBORNS; i++)
		if (path->newborns[i].pid == pid)
			return &path->newborns[i];
	return NULL;
}

/* This one, opened; NULL if it is gone. */
struct newborn *births_newborn(struct fastpath *path, pid_t pid)
{
	struct newborn *one = births_opened(path, pid);

	if (one != NULL)
		return one;
	one = &path->newborns[path->newborn_turn++ % NEWBORNS];
	if (one->pid)
		newborn_close(one);
	return newborn_open(one, pid) ? one : NULL;
}

/* It has ended; 0: whoever may have. */
void births_ended(struct fastpath *path, pid_t pid)
{
	for (int i = 0; i < NEWBORNS; i++)
		if (path->newborns[i].pid && (!pid || path->newborns[i].pid == pid))
			newborn_close(&path->newborns[i]);
}

static bool expected(const struct program *program, uint64_t now)
{
	return program->born && program->until > now && program->strangers < STRANGERS;
}

/* Hear of births to these parents only (0: to all); false if the socket's filter cannot be set.
 *
 * Classic BPF over the message from its nlmsghdr on; loads are in network order. */
static bool filter(int socket, const pid_t *parents, int count)
{
	struct sock_filter code[PROGRAMS + 9];
	int at = 0, end = count + 8;
	bool all = false;

	for (int i = 0; i < count; i++)
		all = all || parents[i] == 0;

	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, WHAT);
	code[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(PROC_EVENT_FORK), 0,
						end - 2 - at);
	at++;
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DATA + 8);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_MISC | BPF_TAX, 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DATA + 12);
	code[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, end - 2 - at);
	at++;
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DATA + 4);
	for (int i = 0; i < count; i++, at++)
		code[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(parents[i]),
							end - 1 - at, all ? end - 1 - at : 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER,
			  &(struct sock_fprog){ .len = at, .filter = code }, sizeof(struct sock_fprog)) == 0;
}

/* Hear of births to the parents that programs are expected from; false if that cannot be set. */
bool births_watch(struct fastpath *path)
{
	const uint64_t now = nanoseconds();
	pid_t parents[PROGRAMS] = { 0 };
	int count = 0;

	for (int i = 0; i < PROGRAMS; i++) {
		bool wanted = expected(&path->programs[i], now);

		for (int k = 0; wanted && k < count; k++)
			wanted = parents[k] != path->programs[i].bearer;
		if (wanted)
			parents[count++] = path->programs[i].bearer;
	}
	if (path->births.socket < 0 ||
	    (count == path->watched_count && !memcmp(parents, path->watched, sizeof parents)))
		return true;
	path->watched_count = count;
	memcpy(path->watched, parents, sizeof parents);
	return filter(path->births.socket, parents, count);
}

/* A process of this program and of this parent was met: more may be born, by the same parent if it
 * bore the one before, too. */
void births_met(struct fastpath *path, struct program *program, pid_t parent)
{
	const bool again = program->parent == parent || program->bearer == parent;

	program->strangers = 0;
	program->parent = parent;
	program->bearer = again ? parent : 0;
	births_watch(path);
}

static void born(void *of, pid_t pid, enum change what)
{
	struct fastpath *path = of;
	const pid_t parent = path->births.recent[(path->births.count - 1) % RECENT].parent;
	const uint64_t now = nanoseconds();
	struct newborn *one;
	bool wanted = false;

	for (int i = 0; what == BORN && i < PROGRAMS; i++) {
		struct program *program = &path->programs[i];

		if ((program->bearer && program->bearer != parent) || !expected(program, now))
			continue;
		program->strangers++;
		wanted = true;
	}
	if (!wanted)
		return;
	births_ended(path, pid); /* one that had its pid, if nobody has told so */
	one = births_newborn(path, pid);
	if (one != NULL)
		newborn_prepare(one);
}

/* Open who was born. */
void births_read(struct fastpath *path)
{
	answers_drain(path); /* who has ended before is not taken for them */
	events_drain(&path->births, born, path);
	births_watch(path);
}
