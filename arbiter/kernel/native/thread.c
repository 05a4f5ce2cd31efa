/* thread.c: the thread that reads the queue. It never needs Python. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define BATCH 64          /* messages between two looks at whether to stop */
#define LARGEST 4096      /* bytes of a message: packets are copied in part only */
#define SLICE 100000      /* nanoseconds: who wants little CPU is given it sooner (sched(7)) */
#define NO_MEMORY 10      /* milliseconds until the next try */

/* Ahead of what takes longer: a packet's turn is some 30 microseconds and ends with a wait. For a
 * thread that is not real-time, which its maker could not make it. */
static void run_soon(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = { .size = sizeof attributes };

	/* struct sched_attr: of SCHED_OTHER, from Linux 6.12 on, its slice. Without, it is later only. */
	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0 &&
	    attributes.policy == SCHED_OTHER) {
		attributes.size = sizeof attributes;
		attributes.runtime = SLICE;
		(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
	}
}

/* One message off the queue; false if there is none, or no room for it, or a `problem` that stays:
 * an errno. `spare` is room that is there before a message is taken: none is lost for want of
 * memory. */
static bool read_one(struct fastpath *path, struct message **spare, int *problem)
{
	struct message *message;
	ssize_t size;
	int error = 0;

	if (*spare == NULL && (*spare = malloc(sizeof **spare + LARGEST)) == NULL) {
		poll(NULL, 0, NO_MEMORY);
		return false;
	}
	size = recv(path->netlink, (*spare)->data, LARGEST, MSG_DONTWAIT | MSG_TRUNC);
	if (size < 0)
		error = errno;
	if (error == ENOBUFS || size > LARGEST) {
		pthread_mutex_lock(&path->lock);
		path->overruns += error == ENOBUFS;
		path->lost += size > LARGEST;
		pthread_mutex_unlock(&path->lock);
		return true;
	}
	if (error) {
		if (error != EAGAIN && error != EINTR)
			*problem = error;
		return error == EINTR;
	}
	message = malloc(sizeof *message + size);
	if (message != NULL) {
		memcpy(message->data, (*spare)->data, size);
	} else {
		message = *spare;
		*spare = NULL;
	}
	message->size = size;
	fastpath_handle(path, message);
	return true;
}

/* Whether some wait for a verdict of Python's. */
static bool waiting(struct fastpath *path)
{
	bool some;

	pthread_mutex_lock(&path->lock);
	some = path->missed.count > 0;
	pthread_mutex_unlock(&path->lock);
	return some;
}

/* Look for the next message, where that is worth it, and keeps Python from no verdict. */
static bool read_eagerly(struct fastpath *path, struct eagerness *eager, struct message **spare,
			 int *problem)
{
	const uint64_t began = nanoseconds();
	uint64_t now = began;
	bool came = false;

	if (waiting(path) || !eager_now(eager, began))
		return false;
	while (!came && !*problem && now - began < EAGER) {
		came = read_one(path, spare, problem);
		now = nanoseconds();
	}
	eager_waited(eager, now - began, came);
	return came;
}

/* Milliseconds until then, rounded up. */
static int until(uint64_t due)
{
	uint64_t now = nanoseconds();

	return due > now ? (int)((due - now + 999999) / 1000000) : 0;
}

/* Until `stop` is readable. 0, or an errno. */
int fastpath_run(struct fastpath *path)
{
	struct pollfd ready[] = { { path->netlink, POLLIN, 0 },
				  { path->stop, POLLIN, 0 },
				  { path->births.socket, POLLIN, 0 } };
	struct eagerness eager;
	struct message *spare = NULL;
	int problem = 0;

	pthread_setname_np(pthread_self(), "arbiter-fast");
	run_soon();
	eager_begin(&eager, get_nprocs());
	while (!problem) {
		const uint64_t one = 1;
		int count = read_eagerly(path, &eager, &spare, &problem);

		ready[2].revents = 0;
		if (!count) {
			const uint64_t asleep = nanoseconds(), due = fastpath_due(path);

			if (poll(ready, 3, due ? until(due) : -1) < 0 && errno != EINTR)
				problem = errno;
			if (ready[1].revents)
				break;
			if (ready[0].revents)
				eager_woken(&eager, nanoseconds() - asleep);
		}
		while (count < BATCH && read_one(path, &spare, &problem))
			count++;
		/* A full counter is one that wakes, too. */
		if (fastpath_tell(path) && write(path->wake, &one, sizeof one) < 0 && errno != EAGAIN)
			problem = errno;
		if (ready[2].revents) {
			pthread_mutex_lock(&path->lock);
			births_read(path);
			pthread_mutex_unlock(&path->lock);
		}
	}
	free(spare);
	return problem;
}
