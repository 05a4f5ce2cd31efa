/* fastpath.c: a message of the queue is answered, if it can be, and handed over.
 *
 * What is repeated is handed over afterwards, for the record; what is not known is handed over without
 * a verdict. One lock: a change that has been told to `fastpath_forget` is in force when that
 * returns. */
#define _GNU_SOURCE
#include "fastpath.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GATHERED 64	    /* messages, at most */
#define TOLD_AFTER 50	    /* milliseconds that what was repeated is gathered, at most */
#define ELDER_TOLD_AFTER 5 /* where the parent is new: who is above it may end, too */

/* Whether Python can tell who it was, when it has gone: a script's path leads elsewhere in others'
 * mounts. */
static bool is_here(const struct fastpath *path, const struct newborn *elder)
{
	return elder != NULL && (!strcmp(elder->facts.mounts, path->mounts[0]) ||
				 !strcmp(elder->facts.mounts, path->mounts[1]));
}

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
	memset(path->mounts, 0, sizeof path->mounts);
	if (readlink("/proc/self/ns/mnt", path->mounts[0], sizeof path->mounts[0] - 1) < 0 ||
	    readlink("/proc/1/ns/mnt", path->mounts[1], sizeof path->mounts[1] - 1) < 0)
		path->mounts[1][0] = 0; /* then it is looked at sooner than it need be */
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

/* When Python is to be told of a message. Nobody waits for what was repeated, as a rule: it is
 * gathered, as each time that Python works between two packets costs the second its caches. */
static void tell(struct fastpath *path, const struct message *message)
{
	uint64_t due = message->came;

	if (message->token && path->repeated.count < GATHERED) {
		if (!message->pid || message->known)
			due += TOLD_AFTER * 1000000ull;
		else if (is_here(path, message->elder))
			due += ELDER_TOLD_AFTER * 1000000ull;
	}
	if (!path->due || due < path->due)
		path->due = due;
}

/* Answer a message, if it can be, and keep it for Python. */
void fastpath_handle(struct fastpath *path, struct message *message)
{
	const struct answer *answer = NULL;
	struct packet packet;

	pthread_mutex_lock(&path->lock);
	message->token = message->answered = 0;
	message->inode = message->pid = message->parent = message->start = message->argv_size = 0;
	message->argv = NULL;
	message->known = false;
	message->elder = NULL;
	message->came = nanoseconds();
	/* Where Python does not take what it is told, packets wait for it in the kernel's queue. */
	if (path->used && path->repeated.count < UNTOLD &&
	    packet_read(message->data, message->size, &packet))
		answer = answers_recall(path, &packet, message);
	if (answer != NULL && packet_accept(path->netlink, path->queue, packet.id, answer->mark) == 0) {
		message->token = answer->token;
		message->answered = nanoseconds();
		if (path->newborn != NULL) {
			answers_adopt(path, answer); /* first: then it hears of what is read next */
			if (!message->known && path->repeated.count < ELDERS)
				message->elder = holder_parent(path, message->parent);
			births_met(path, answer->program, message->parent);
		}
	}
	push(message->token ? &path->repeated : &path->missed, message);
	tell(path, message);
	pthread_mutex_unlock(&path->lock);
}

void message_free(struct message *message)
{
	free(message->argv);
	free(message->elder);
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

/* See `answers_except`. */
bool fastpath_except(struct fastpath *path, const uint8_t *address, int bits)
{
	bool excepted;

	pthread_mutex_lock(&path->lock);
	excepted = answers_except(path, address, bits);
	pthread_mutex_unlock(&path->lock);
	return excepted;
}

/* See `answers_excepted`. */
bool fastpath_excepted(struct fastpath *path, const uint8_t *address)
{
	bool excepted;

	pthread_mutex_lock(&path->lock);
	excepted = answers_excepted(path, address);
	pthread_mutex_unlock(&path->lock);
	return excepted;
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

/* When Python is to be told of something, at last: nanoseconds of CLOCK_MONOTONIC; 0: of nothing. */
uint64_t fastpath_due(struct fastpath *path)
{
	uint64_t due;

	pthread_mutex_lock(&path->lock);
	due = path->due;
	pthread_mutex_unlock(&path->lock);
	return due;
}

/* Whether it is time to tell it. Once. */
bool fastpath_tell(struct fastpath *path)
{
	const uint64_t now = nanoseconds();
	bool due;

	pthread_mutex_lock(&path->lock);
	due = path->due && now >= path->due;
	if (due)
		path->due = 0;
	pthread_mutex_unlock(&path->lock);
	return due;
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
