/* events.c: the proc connector (linux/cn_proc.h): which processes had children, ran another program
 * or ended.
 *
 * Nothing waits on it: it is read before a process is believed to be the same, and to hold a
 * socket alone. The socket is arbiter/kernel/procevents.py's making, with its filter. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <errno.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#define DRAINED 4096 /* more at once is taken for a loss */

struct reader {
	struct events *events;
	events_seen *seen;
	void *of;
};

static void note(const struct reader *to, pid_t pid, enum change what, pid_t parent)
{
	to->events->recent[to->events->count++ % RECENT] = (struct event){ pid, what, parent };
	to->seen(to->of, pid, what);
}

static void read_one(const struct reader *to, const char *data, ssize_t size)
{
	struct cn_msg connector;
	struct proc_event event;
	const size_t begin = NLMSG_HDRLEN + sizeof connector;

	memset(&event, 0, sizeof event);
	if (size < (ssize_t)(begin + offsetof(struct proc_event, event_data) +
			     sizeof event.event_data.fork))
		return;
	memcpy(&connector, data + NLMSG_HDRLEN, sizeof connector);
	if (connector.id.idx != CN_IDX_PROC || connector.id.val != CN_VAL_PROC)
		return;
	size -= begin;
	memcpy(&event, data + begin, size < (ssize_t)sizeof event ? (size_t)size : sizeof event);
	if (event.what == PROC_EVENT_FORK) {
		/* A thread's own is filtered: it can hold no other socket than its process. */
		const pid_t parent = event.event_data.fork.parent_tgid;

		note(to, parent, FORKED, 0);
		note(to, event.event_data.fork.child_tgid, BORN, parent);
	} else if (event.what == PROC_EVENT_EXEC) {
		/* Told before the new program runs (bprm_execve, fs/exec.c). */
		note(to, event.event_data.exec.process_tgid, EXECED, 0);
	} else if (event.what == PROC_EVENT_EXIT) {
		note(to, event.event_data.exit.process_tgid, ENDED, 0);
	}
}

/* Read what has happened; false if some of it was lost.
 *
 * What is in the buffer when the kernel says ENOBUFS is older than what was lost, and until all of
 * it is read the kernel drops more without a word (NETLINK_S_CONGESTED, net/netlink/af_netlink.c):
 * it is read and not believed, and a loss lasts until there is nothing more. */
bool events_drain(struct events *events, events_seen *seen, void *of)
{
	const struct reader to = { events, seen, of };
	bool empty = false, failed = false;

	for (int i = 0; !empty && !failed && i < DRAINED; i++) {
		struct sockaddr_nl sender = { 0 };
		socklen_t length = sizeof sender;
		char data[512] __attribute__((aligned(8)));
		ssize_t size = recvfrom(events->socket, data, sizeof data, MSG_DONTWAIT,
					(struct sockaddr *)&sender, &length);

		if (size >= 0) {
			if (sender.nl_pid == 0 && !events->lossy)
				read_one(&to, data, size);
		} else if (errno == EAGAIN) {
			empty = true;
		} else if (errno != EINTR) {
			events->lossy = true;
			failed = errno != ENOBUFS;
		}
	}
	if (empty && !events->lossy)
		return true;
	events->lossy = !empty;
	/* Nobody can tell any more whose they were. */
	memset(events->recent, 0, sizeof events->recent);
	events->count += RECENT + 1;
	return false;
}

/* Whether this process may have had an event since there were `since` of them. */
bool events_had(const struct events *events, uint64_t since, pid_t pid)
{
	if (events->count - since > RECENT)
		return true;
	for (uint64_t i = since; i < events->count; i++)
		if (events->recent[i % RECENT].pid == pid)
			return true;
	return false;
}

static bool among(const pid_t *pids, int count, pid_t pid)
{
	for (int i = 0; i < count; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

/* The processes that were born lately, that live, as their parents do, and have no children, the
 * youngest first; how many. */
int events_newborn(const struct events *events, struct birth *births, int most)
{
	pid_t forked[RECENT], ended[RECENT];
	int forked_count = 0, ended_count = 0, count = 0;

	for (uint64_t i = events->count; i-- > 0 && events->count - i <= RECENT && count < most;) {
		const struct event *event = &events->recent[i % RECENT];

		if (event->what == FORKED)
			forked[forked_count++] = event->pid;
		else if (event->what == ENDED)
			ended[ended_count++] = event->pid;
		else if (event->what == BORN && !among(forked, forked_count, event->pid) &&
			 !among(ended, ended_count, event->pid) &&
			 !among(ended, ended_count, event->parent))
			births[count++] = (struct birth){ event->pid, event->parent };
	}
	return count;
}

/* The processes that were born since this one was; how many, or -1 if they are more than `most` or
 * nobody can tell. */
int events_younger(const struct events *events, pid_t pid, pid_t *pids, int most)
{
	int count = 0;

	for (uint64_t i = events->count; i-- > 0 && events->count - i <= RECENT;) {
		const struct event *event = &events->recent[i % RECENT];

		if (event->what != BORN)
			continue;
		if (event->pid == pid)
			return count;
		if (count == most)
			return -1;
		pids[count++] = event->pid;
	}
	return -1;
}
