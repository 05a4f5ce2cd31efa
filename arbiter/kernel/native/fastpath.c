/* fastpath.c: the thread that reads the queue, answers what it can, and hands all of it over.
 *
 * The thread reads the queue and never needs Python. What it repeats it hands over afterwards, for
 * the record; what it does not know it hands over without a verdict. One lock: a change that
 * has been told to `fastpath_forget` is in force when that returns. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64          /* messages between two looks at whether to stop */
#define LARGEST 4096      /* bytes of a message: packets are copied in part only */
#define SLICE 100000      /* nanoseconds: who wants little CPU is given it sooner (sched(7)) */
#define NO_MEMORY 10      /* milliseconds until the next try */
#define TOLD_AFTER 10     /* milliseconds that what was repeated is gathered, at most */

uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void empty(struct messages *messages)
{
	messages->first = NULL;
	messages->last = &messages->first;
	messages->count = 0;
}

void fastpath_begin(struct fastpath *path)
{
	pthread_mutexattr_t inherit;

	pthread_mutexattr_init(&inherit); /* or the thread could wait for whom all others come before */
	pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&path->lock, &inherit);
	pthread_mutexattr_destroy(&inherit);
	empty(&path->missed);
	empty(&path->repeated);
	path->watched_count = -1;
	if (!births_watch(path))
		path->births.socket = -1;
}

void fastpath_end(struct fastpath *path)
{
	struct message *message;

	fastpath_forget(path);
	for (int i = 0; i < PROCESSES; i++)
		if (path->processes[i].pid)
			process_close(&path->processes[i]);
	births_ended(path, 0);
	while ((message = fastpath_take(path, true)) != NULL)
		message_free(message);
	pthread_mutex_destroy(&path->lock);
}

static void push(struct messages *messages, struct message *message)
{
	message->next = NULL;
	*messages->last = message;
	messages->last = &message->next;
	messages->count++;
}

static struct message *pop(struct messages *messages)
{
	struct message *message = messages->first;

	if (message != NULL) {
		messages->first = message->next;
		messages->count--;
		if (messages->first == NULL)
			messages->last = &messages->first;
	}
	return message;
}

static void handle(struct fastpath *path, struct message *message)
{
	struct packet packet;
	const struct answer *answer = NULL;

	message->token = message->answered = 0;
	message->inode = message->pid = message->start = message->argv_size = 0;
	message->argv = NULL;
	message->came = nanoseconds();
	/* Where Python does not take what it is told, packets wait for it in the kernel's queue. */
	if (path->used && path->repeated.count < UNTOLD &&
	    packet_read(message->data, message->size, &packet))
		answer = answers_recall(path, &packet, message);
	if (answer != NULL && packet_accept(path->netlink, path->queue, packet.id, answer->mark) == 0) {
		message->token = answer->token;
		message->answered = nanoseconds();
		if (message->pid && message->pid != answer->process->pid) {
			births_met(path, answer->program);
			answers_adopt(path, answer);
		}
	}
	push(message->token ? &path->repeated : &path->missed, message);
}

void message_free(struct message *message)
{
	free(message->argv);
	free(message);
}

/* --- from Python -------------------------------------------------------------------------- */

/* No answer holds any more. */
void fastpath_forget(struct fastpath *path)
{
	pthread_mutex_lock(&path->lock);
	answers_forget(path);
	pthread_mutex_unlock(&path->lock);
}

/* Events until now: what is taught of a process has to be newer than its last one. */
uint64_t fastpath_mark(struct fastpath *path)
{
	uint64_t mark;

	pthread_mutex_lock(&path->lock);
	answers_drain(path);
	mark = path->events.count;
	pthread_mutex_unlock(&path->lock);
	return mark;
}

/* See `answers_learn`. */
bool fastpath_teach(struct fastpath *path, uint64_t mark, const struct answer *answer,
		    const struct process *process, const struct program *program)
{
	bool taught;

	pthread_mutex_lock(&path->lock);
	taught = answers_learn(path, mark, answer, process, program);
	pthread_mutex_unlock(&path->lock);
	return taught;
}

/* The next message, which is the caller's to free: those that wait for a verdict first, if such
 * are wanted. */
struct message *fastpath_take(struct fastpath *path, bool waiting)
{
	struct message *message;

	pthread_mutex_lock(&path->lock);
	message = waiting ? pop(&path->missed) : NULL;
	if (message == NULL)
		message = pop(&path->repeated);
	pthread_mutex_unlock(&path->lock);
	return message;
}

/* How often messages were lost to ENOBUFS, and how many were too large. */
void fastpath_losses(struct fastpath *path, uint64_t *overruns, uint64_t *lost)
{
	pthread_mutex_lock(&path->lock);
	*overruns = path->overruns;
	*lost = path->lost;
	pthread_mutex_unlock(&path->lock);
}

/* --- the thread --------------------------------------------------------------------------- */

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
	int error;

	if (*spare == NULL && (*spare = malloc(sizeof **spare + LARGEST)) == NULL) {
		poll(NULL, 0, NO_MEMORY);
		return false;
	}
	size = recv(path->netlink, (*spare)->data, LARGEST, MSG_DONTWAIT | MSG_TRUNC);
	error = size < 0 ? errno : 0;
	pthread_mutex_lock(&path->lock);
	path->overruns += error == ENOBUFS;
	path->lost += size > LARGEST;
	pthread_mutex_unlock(&path->lock);
	if (error && error != EAGAIN && error != EINTR && error != ENOBUFS)
		*problem = error;
	if (size < 0 || size > LARGEST)
		return size > LARGEST || error == ENOBUFS || error == EINTR;
	message = malloc(sizeof *message + size);
	if (message != NULL) {
		memcpy(message->data, (*spare)->data, size);
	} else {
		message = *spare;
		*spare = NULL;
	}
	message->size = size;
	pthread_mutex_lock(&path->lock);
	handle(path, message);
	pthread_mutex_unlock(&path->lock);
	return true;
}

/* Who is to be told: at once of what waits for a verdict. Nobody waits for what was repeated: it
 * is gathered, as each time that Python works between two packets costs the second its caches.
 * `due` is when it is told at last. */
static bool tell_now(struct fastpath *path, uint64_t due)
{
	bool waiting;

	pthread_mutex_lock(&path->lock);
	waiting = path->missed.count || path->repeated.count >= BATCH;
	pthread_mutex_unlock(&path->lock);
	return waiting || nanoseconds() >= due;
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
	struct message *spare = NULL;
	uint64_t due = 0; /* of what was not told yet; 0: there is none */
	int problem = 0;

	pthread_setname_np(pthread_self(), "arbiter-fast");
	run_soon();
	while (!problem) {
		const uint64_t one = 1;
		int count = 0;

		if (poll(ready, 3, due ? until(due) : -1) < 0 && errno != EINTR)
			problem = errno;
		if (ready[1].revents)
			break;
		while (count < BATCH && read_one(path, &spare, &problem))
			count++;
		if (count && !due)
			due = nanoseconds() + TOLD_AFTER * 1000000ull;
		if (due && tell_now(path, due)) {
			/* A full counter is one that wakes, too. */
			if (write(path->wake, &one, sizeof one) < 0 && errno != EAGAIN)
				problem = errno;
			due = 0;
		}
		if (ready[2].revents) {
			pthread_mutex_lock(&path->lock);
			births_read(path);
			pthread_mutex_unlock(&path->lock);
		}
	}
	free(spare);
	return problem;
}
