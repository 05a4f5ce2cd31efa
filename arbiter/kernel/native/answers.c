/* answers.c: questions that were answered before, and for which process or program.
 *
 * All of it with the lock of the path held. */
#include "fastpath.h"

#include <stdlib.h>
#include <string.h>

static uint32_t hashed(const uint8_t *bytes, size_t size)
{
	uint32_t hash = 2166136261u; /* FNV-1a. Whoever makes it collide slows down own programs. */

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

unsigned answers_bucket(const struct question *question)
{
	return hashed((const uint8_t *)question, sizeof *question) % BUCKETS;
}

/* What an area starts with, and how much of it that is: 0 is a free cell. */
static struct area area_of(const uint8_t *address, int bits)
{
	struct area area = { .size = bits + 1 };

	memcpy(area.start, address, bits / 8);
	if (bits % 8)
		area.start[bits / 8] = address[bits / 8] & 0xff00 >> bits % 8;
	return area;
}

/* Its cell, or the free one where it would be. */
static int cell_of(const struct fastpath *path, const struct area *area)
{
	int at = hashed((const uint8_t *)area, sizeof *area) % CELLS;

	while (path->excepted[at].size && memcmp(&path->excepted[at], area, sizeof *area))
		at = (at + 1) % CELLS;
	return at;
}

/* What is answered wherever it goes does not hold at addresses that start with these bits, until all
 * is forgotten; false if there are too many. As in a question: an address of IPv4 is zeros from its
 * fifth byte on, and is meant with all 128 bits. */
bool answers_except(struct fastpath *path, const uint8_t *address, int bits)
{
	const struct area area = area_of(address, bits);
	int at = cell_of(path, &area);

	if (path->excepted[at].size)
		return true;
	if (path->excepted_count == EXCEPTED)
		return false;
	path->excepted_count++;
	path->excepted[at] = area;
	if (path->excepted_of_size[bits]++ == 0)
		path->sizes[path->size_count++] = bits;
	return true;
}

/* Whether only what is just about this address holds there. One of IPv6 that stands for one of IPv4
 * is never taken for another: rules for either may mean it (RFC 4291 2.5.5.2). */
bool answers_excepted(const struct fastpath *path, const uint8_t *address)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	for (int i = 0; i < path->size_count; i++) {
		const struct area area = area_of(address, path->sizes[i]);

		if (path->excepted[cell_of(path, &area)].size)
			return true;
	}
	return !memcmp(address, mapped, sizeof mapped);
}

/* No answer holds any more. */
void answers_forget(struct fastpath *path)
{
	memset(path->buckets, 0, sizeof path->buckets);
	path->used = 0;
	if (path->excepted_count)
		memset(path->excepted, 0, sizeof path->excepted);
	memset(path->excepted_of_size, 0, sizeof path->excepted_of_size);
	path->excepted_count = path->size_count = 0;
	for (int i = 0; i < PROGRAMS; i++)
		path->programs[i].until = 0;
}

/* A process has changed: what was taught of it holds no more. */
static void seen(void *of, pid_t pid, enum change what)
{
	struct fastpath *path = of;
	bool ended = what == ENDED;

	if (ended)
		births_ended(path, pid);
	for (int i = 0; what != FORKED && i < PROGRAMS; i++) {
		if (path->programs[i].only == pid)
			path->programs[i].born = 0; /* its children have other ancestors now */
		if (path->programs[i].parent == pid)
			path->programs[i].parent = 0;
		if (ended && path->programs[i].bearer == pid)
			path->programs[i].bearer = 0;
	}
	for (int i = 0; i < PROCESSES; i++) {
		struct process *process = &path->processes[i];
		bool gone = process->pid == pid;

		for (int k = 0; ended && k < process->relative_count; k++)
			gone |= process->relatives[k] == pid;
		if (process->pid && gone)
			process_close(process);
	}
}

/* Hear of what processes have done until now. */
void answers_drain(struct fastpath *path)
{
	if (events_drain(&path->events, seen, path))
		return;
	for (int i = 0; i < PROCESSES; i++)
		if (path->processes[i].pid)
			process_close(&path->processes[i]);
	for (int i = 0; i < PROGRAMS; i++) {
		if (path->programs[i].only)
			path->programs[i].born = 0;
		path->programs[i].parent = path->programs[i].bearer = 0;
	}
	births_ended(path, 0);
}

bool answer_known(const struct answer *answer)
{
	return answer->process->pid && answer->process->born == answer->born;
}

bool answer_program_known(const struct answer *answer)
{
	return answer->program != NULL && answer->program->born == answer->program_born;
}

/* A place for a process, whose descriptors are opened; NULL if it has gone, or changed. Its `argv`
 * is the place's from then on. */
static struct process *place(struct fastpath *path, const struct process *process)
{
	struct process *mine = NULL;

	for (int i = 0; i < PROCESSES && mine == NULL; i++)
		if (!path->processes[i].pid || path->processes[i].pid == process->pid)
			mine = &path->processes[i];
	if (mine == NULL)
		mine = &path->processes[path->turn++ % PROCESSES];
	if (mine->pid)
		process_close(mine);
	*mine = *process;
	if (!process_open(mine))
		return NULL;
	if (mine->argv == NULL && !process_is_image(mine)) {
		process_close(mine);
		return NULL;
	}
	mine->born = ++path->born;
	return mine;
}

/* The place of an answer to this question for this process: the one that there is, one that holds no
 * more (a new process each time fills no table), or a new one; NULL if there is no room. */
static struct answer *answer_place(struct fastpath *path, const struct question *question,
				   const struct process *holder)
{
	unsigned bucket = answers_bucket(question);
	struct answer *mine = path->buckets[bucket];

	for (; mine != NULL; mine = mine->next)
		if (!memcmp(&mine->question, question, sizeof *question) &&
		    ((mine->process == holder && mine->born == holder->born) ||
		     !(answer_known(mine) || answer_program_known(mine))))
			return mine;
	if (path->used == ANSWERS)
		return NULL;
	mine = &path->answers[path->used++];
	mine->next = path->buckets[bucket];
	path->buckets[bucket] = mine;
	return mine;
}

static void answer_fill(struct answer *mine, const struct answer *answer, struct process *holder)
{
	struct answer *next = mine->next;

	*mine = *answer;
	mine->next = next;
	mine->process = holder;
	mine->born = holder->born;
}

/* Whether this new process was met before; most connect once. */
static bool met(struct fastpath *path, pid_t pid)
{
	for (int i = 0; i < MET; i++)
		if (path->met[i] == pid)
			return true;
	path->met[path->met_turn++ % MET] = pid;
	return false;
}

static struct process *adopted(struct fastpath *path)
{
	const struct newborn *one = path->newborn;
	struct process process = {
		.pid = one->pid,
		.uid = one->facts.uid,
		.device = one->facts.device,
		.file = one->facts.file,
		.relatives = { one->parent },
		.relative_count = 1,
		.descriptors = { one->descriptor },
		.descriptor_count = 1,
		.start = one->start,
		.argv_size = one->argv_size,
	};

	for (int i = 0; i < PROCESSES; i++)
		if (path->processes[i].pid == process.pid && path->processes[i].argv != NULL &&
		    path->processes[i].start == process.start)
			return &path->processes[i];
	process.argv = malloc(process.argv_size + 1);
	if (process.argv == NULL)
		return NULL;
	memcpy(process.argv, one->argv, process.argv_size);
	return place(path, &process);
}

/* The new process of a program is a process like others from its second connection on: it need not
 * be looked for among those that were just born again. */
void answers_adopt(struct fastpath *path, const struct answer *answer)
{
	struct answer *mine, like = *answer;
	struct process *holder;

	if (!met(path, path->newborn->pid) || (holder = adopted(path)) == NULL)
		return;
	like.program = NULL;
	mine = answer_place(path, &like.question, holder);
	if (mine != NULL)
		answer_fill(mine, &like, holder);
}

static struct process *same_one(struct fastpath *path, const struct process *process)
{
	for (int i = 0; i < PROCESSES; i++) {
		struct process *other = &path->processes[i];

		if (other->pid != process->pid || other->device != process->device ||
		    other->file != process->file || other->uid != process->uid ||
		    strcmp(other->image, process->image) ||
		    other->relative_count != process->relative_count ||
		    memcmp(other->relatives, process->relatives, process->relative_count * sizeof(pid_t)))
			continue;
		return other;
	}
	return NULL;
}

/* Its sockets may be here, too: the last one first, and the one that is older than DESCRIPTORS is
 * forgotten. */
static void has_also(struct program *program, int descriptor)
{
	int at = 0;

	while (at < program->descriptor_count && program->descriptors[at] != descriptor)
		at++;
	if (at == DESCRIPTORS)
		at--;
	else if (at == program->descriptor_count)
		program->descriptor_count++;
	memmove(program->descriptors + 1, program->descriptors, at * sizeof(int));
	program->descriptors[0] = descriptor;
}

/* The place of the same program, or a new one; NULL if the process does not run it. */
static struct program *program_place(struct fastpath *path, const struct program *program, pid_t pid)
{
	struct program mine = *program, *place = NULL;
	pid_t parent;

	if (!program_learn(&mine, pid, &parent) || (mine.only && mine.only != parent))
		return NULL;
	for (int i = 0; i < PROGRAMS; i++) {
		struct program *other = &path->programs[i];

		if (!other->born) {
			place = other;
		} else if (program_is(other, &mine.facts) && other->only == mine.only) {
			other->strangers = 0;
			other->bearer = parent;
			for (int k = 0; k < mine.descriptor_count; k++)
				has_also(other, mine.descriptors[k]);
			return other;
		}
	}
	if (place == NULL)
		place = &path->programs[path->program_turn++ % PROGRAMS];
	*place = mine;
	place->born = ++path->born;
	place->bearer = parent;
	return place;
}

/* Answer a question so from now on; false if the process has changed since `mark`, or there is no
 * room. The answer's process is the given one, whose descriptors are not open. `program`: others
 * that run it are answered so, too; NULL if they are not. */
bool answers_learn(struct fastpath *path, uint64_t mark, const struct answer *answer,
		   const struct process *process, const struct program *program)
{
	struct process *holder;
	struct answer *mine;

	answers_drain(path);
	if (events_had(&path->events, mark, process->pid))
		return false;
	holder = same_one(path, process);
	if (holder == NULL)
		holder = place(path, process);
	mine = holder ? answer_place(path, &answer->question, holder) : NULL;
	if (mine == NULL)
		return false;
	answer_fill(mine, answer, holder);
	if (program && program->only && events_had(&path->events, mark, program->only))
		program = NULL; /* its children may have other ancestors now */
	mine->program = program ? program_place(path, program, process->pid) : NULL;
	mine->program_born = mine->program ? mine->program->born : 0;
	if (mine->program) {
		if (mine->program->until < mine->until)
			mine->program->until = mine->until;
		births_watch(path);
	}
	return true;
}
