/* recall.c: whether a packet asks what was answered before.
 *
 * All of it with the lock of the path held. */
#include "fastpath.h"

#include <stdlib.h>
#include <string.h>

/* What a packet asks: about its destination, and about whatever destination. */
struct asked {
	struct question questions[2];
	const struct answer *firsts[2]; /* in the buckets of these */
	uint64_t now;
};

static void ask(const struct fastpath *path, const struct packet *packet, uint64_t now, struct asked *asked)
{
	asked->questions[0] = asked->questions[1] = packet->question;
	memset(asked->questions[1].daddr, 0, sizeof asked->questions[1].daddr);
	for (int i = 0; i < 2; i++)
		asked->firsts[i] = path->buckets[answers_bucket(&asked->questions[i])];
	if (asked->firsts[1] != NULL && answers_excepted(path, packet->question.daddr))
		asked->firsts[1] = NULL;
	asked->now = now;
}

/* The answer to it after this one, what is just about the destination first; NULL: the first of all,
 * or there is no other. */
static const struct answer *next(const struct asked *asked, const struct answer *answer)
{
	int about = 0;

	if (answer != NULL)
		about = memcmp(&answer->question, &asked->questions[0], sizeof answer->question) != 0;
	answer = answer ? answer->next : asked->firsts[0];
	for (;;) {
		for (; answer != NULL; answer = answer->next)
			if (answer->until >= asked->now && !memcmp(&answer->question, &asked->questions[about],
								   sizeof answer->question))
				return answer;
		if (about++)
			return NULL;
		answer = asked->firsts[1];
	}
}

/* Whether the same process sent it. */
static bool by_process(struct fastpath *path, const struct answer *answer,
		       const struct socket_found *found)
{
	struct process *process = answer->process;

	if (!answer_known(answer) || !process_holds(process, found->inode))
		return false;
	if (!process_same(process)) {
		process_close(process);
		return false;
	}
	answers_drain(path); /* last: whom it has as a child by now may hold the socket, too */
	return answer_known(answer);
}

/* Where programs that were asked this have their sockets; how many there are. */
static int places(const struct asked *asked, int *descriptors)
{
	const struct answer *answer = NULL;
	int count = 0;

	while ((answer = next(asked, answer)) != NULL) {
		if (!answer_program_known(answer))
			continue;
		for (int i = 0; i < answer->program->descriptor_count; i++) {
			bool new = count < PLACES;

			for (int k = 0; k < count; k++)
				new = new && descriptors[k] != answer->program->descriptors[i];
			if (new)
				descriptors[count++] = answer->program->descriptors[i];
		}
	}
	return count;
}

static bool name(struct message *message, pid_t pid, pid_t parent, uint64_t start, const char *argv,
		 size_t size)
{
	message->argv = malloc(size + 1);
	if (message->argv == NULL)
		return false;
	memcpy(message->argv, argv, size);
	message->argv_size = size;
	message->pid = pid;
	message->parent = parent;
	message->known = true;
	message->start = start;
	return true;
}

/* Python knows the process that was decided about. */
static bool name_process(const struct process *one, struct message *message)
{
	return one->argv == NULL ||
	       name(message, one->pid, one->relatives[0], one->start, one->argv, one->argv_size);
}

/* The answer for a process that was looked up before. */
static const struct answer *of_processes(struct fastpath *path, const struct asked *asked,
					 const struct socket_found *found, struct message *message)
{
	const struct answer *answer = NULL;

	while ((answer = next(asked, answer)) != NULL)
		if (answer->uid == found->uid && by_process(path, answer, found))
			return name_process(answer->process, message) ? answer : NULL;
	return NULL;
}

/* The answer for a new process of a program that was looked up before: `path->newborn` then. */
static const struct answer *of_programs(struct fastpath *path, const struct asked *asked,
					const struct socket_found *found, struct message *message)
{
	int descriptors[PLACES], count = places(asked, descriptors);
	struct newborn *one = count ? holder_newborn(path, descriptors, count, found->inode) : NULL;
	const struct answer *answer = NULL;

	while (one != NULL && (answer = next(asked, answer)) != NULL) {
		if (answer->uid != found->uid || !answer_program_known(answer) ||
		    !program_is(answer->program, &one->facts) ||
		    (answer->program->only && answer->program->only != one->parent))
			continue;
		path->newborn = one;
		if (!name(message, one->pid, one->parent, one->start, one->argv, one->argv_size))
			return NULL;
		message->known = answer->program->parent == one->parent;
		return answer;
	}
	return NULL;
}

/* The answer to a packet's question, if all is as it was when the answer was given. None, too, where
 * its record could not say who it was. */
const struct answer *answers_recall(struct fastpath *path, const struct packet *packet,
				    struct message *message)
{
	const struct answer *answer;
	struct socket_found found;
	struct asked asked;

	path->newborn = NULL;
	ask(path, packet, message->came, &asked);
	if (next(&asked, NULL) == NULL || !packet_socket(path->diag, packet, &found))
		return NULL;
	answer = of_processes(path, &asked, &found, message);
	if (answer == NULL)
		answer = of_programs(path, &asked, &found, message);
	if (answer != NULL)
		message->inode = found.inode;
	return answer;
}
