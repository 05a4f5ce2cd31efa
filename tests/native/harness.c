/* harness.c: parts of the fast path under the sanitizers, for tests/nativeharness.py.
 *
 * It reads requests from stdin, each with its size before it in four bytes: a letter, and what the
 * part is to read. Each is answered in the same way. Bytes to read are in memory of exactly their
 * size, so that AddressSanitizer sees a step beyond. The sources are included for what is static
 * in them; the kernel's side of the process events is a script. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static ssize_t scripted(int socket, void *to, size_t room, int flags, struct sockaddr *sender,
			socklen_t *length);

#include "packet.c"
#include "process.c"
#include "program.c"
#define recvfrom scripted
#include "events.c"
#undef recvfrom
#include "births.c"
#include "eager.c"

#define PATIENCE 10 /* seconds, for one request */
#define KEEP 0xffff /* of a step: repeated without end */

/* What recvfrom gives: a message from a port, or an errno. */
struct step {
	uint16_t error, port, times, size;
	const uint8_t *data;
};

static struct {
	uint8_t *bytes;
	struct step steps[8192];
	int count, next;
	uint32_t calls;
} script;
static struct events events;

/* What the births need of the thread: it is not asked for a filter. */
void answers_drain(struct fastpath *path)
{
	abort();
}

uint64_t nanoseconds(void)
{
	abort();
}

static uint8_t reply[1 << 20];
static size_t replied;

static void answer(const void *bytes, size_t size)
{
	if (replied + size > sizeof reply)
		abort();
	memcpy(reply + replied, bytes, size);
	replied += size;
}

static ssize_t scripted(int socket, void *to, size_t room, int flags, struct sockaddr *sender,
			socklen_t *length)
{
	struct sockaddr_nl from = { .nl_family = AF_NETLINK };
	struct step *step = &script.steps[script.next];

	script.calls++;
	if (script.next == script.count) {
		errno = EAGAIN;
		return -1;
	}
	if (step->times != KEEP && --step->times == 0)
		script.next++;
	if (step->error) {
		errno = step->error;
		return -1;
	}
	if (room < step->size || *length < sizeof from || !(flags & MSG_DONTWAIT))
		abort();
	from.nl_pid = step->port;
	memcpy(sender, &from, sizeof from);
	*length = sizeof from;
	memcpy(to, step->data, step->size);
	return step->size;
}

static void seen(void *of, pid_t pid, enum change what)
{
	const int32_t told[] = { pid, what };

	if (of != &script)
		abort();
	answer(told, sizeof told);
}

/* A script in place of the one before, and one drain of it. */
static void drain(const uint8_t *from, size_t size)
{
	uint8_t whole;
	uint64_t count;

	free(script.bytes);
	script.bytes = malloc(size + 1);
	memcpy(script.bytes, from, size);
	script.count = script.next = 0;
	for (const uint8_t *at = script.bytes; at < script.bytes + size;) {
		struct step *step = &script.steps[script.count++];

		if (script.count > 8192)
			abort();
		memcpy(step, at, 8);
		step->data = at + 8;
		at += 8 + step->size;
	}
	script.calls = 0;
	whole = events_drain(&events, seen, &script);
	count = events.count;
	answer(&count, sizeof count);
	answer(&script.calls, sizeof script.calls);
	answer(&whole, sizeof whole);
}

static void had(const uint8_t *from)
{
	uint64_t since;
	int32_t pid;
	uint8_t yes;

	memcpy(&since, from, sizeof since);
	memcpy(&pid, from + sizeof since, sizeof pid);
	yes = events_had(&events, since, pid);
	answer(&yes, sizeof yes);
}

static void newborns(const uint8_t *from)
{
	int32_t most;
	struct birth *births;
	int count;

	memcpy(&most, from, sizeof most);
	births = malloc(most * sizeof *births);
	count = events_newborn(&events, births, most);
	answer(births, count * sizeof *births);
	free(births);
}

/* Whether a message comes through to who watches these parents. */
static void watch(const uint8_t *from, size_t size)
{
	int32_t count;
	int ends[2];
	pid_t *parents;
	uint8_t byte, yes;

	memcpy(&count, from, sizeof count);
	from += sizeof count;
	size -= sizeof count + count * sizeof *parents;
	parents = malloc(count * sizeof *parents + 1);
	memcpy(parents, from, count * sizeof *parents);
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) || !filter(ends[1], parents, count))
		abort();
	if (send(ends[0], from + count * sizeof *parents, size, MSG_DONTWAIT) != (ssize_t)size)
		abort();
	yes = recv(ends[1], &byte, 1, MSG_DONTWAIT) >= 0;
	answer(&yes, sizeof yes);
	close(ends[0]);
	close(ends[1]);
	free(parents);
}

/* What it says to each of these: a letter (begin, now, waited in vain, waited and it came, slept)
 * and a number. */
static void be_eager(const uint8_t *from, size_t size)
{
	struct eagerness eager;

	for (size_t at = 0; at < size; at += 9) {
		uint64_t number;
		uint8_t yes;

		memcpy(&number, from + at + 1, sizeof number);
		switch (from[at]) {
		case 'b': eager_begin(&eager, number); break;
		case 'v':
		case 'c': eager_waited(&eager, number, from[at] == 'c'); break;
		case 's': eager_woken(&eager, number); break;
		case 'n':
			yes = eager_now(&eager, number);
			answer(&yes, sizeof yes);
			break;
		default: abort();
		}
	}
}

static void read_packet(const uint8_t *from, size_t size)
{
	struct packet packet;
	uint8_t yes = packet_read(from, size, &packet);

	answer(&yes, sizeof yes);
	if (yes)
		answer(&packet, sizeof packet);
}

static int stat_file(int directory, const uint8_t *from, size_t size)
{
	int file = openat(directory, "stat", O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (file < 0 || write(file, from, size) != (ssize_t)size)
		abort();
	return file;
}

static void read_image(int directory, const uint8_t *from, size_t size)
{
	int file = stat_file(directory, from, size);
	char *out = malloc(IMAGE);
	uint8_t yes = image(file, out);

	close(file);
	answer(&yes, sizeof yes);
	if (yes)
		answer(out, strlen(out));
	free(out);
}

static void read_parent(int directory, const uint8_t *from, size_t size)
{
	pid_t parent;
	uint64_t start;
	int file = stat_file(directory, from, size);
	uint8_t yes = parent_and_start(file, &parent, &start);

	close(file);
	answer(&yes, sizeof yes);
	if (yes) {
		answer(&parent, sizeof parent);
		answer(&start, sizeof start);
	}
}

static void whole_file(int directory, const uint8_t *from, size_t size)
{
	uint32_t room;
	char *to;
	int64_t found;
	int file;

	memcpy(&room, from, sizeof room);
	to = malloc(room);
	file = stat_file(directory, from + sizeof room, size - sizeof room);
	found = slurp(file, to, room);
	close(file);
	answer(&found, sizeof found);
	if (found >= 0)
		answer(to, found + 1);
	free(to);
}

static void serve(int directory, const uint8_t *request, size_t size)
{
	uint8_t *rest = malloc(size - 1);

	memcpy(rest, request + 1, size - 1);
	switch (*request) {
	case 'p': read_packet(rest, size - 1); break;
	case 'i': read_image(directory, rest, size - 1); break;
	case 's': read_parent(directory, rest, size - 1); break;
	case 'w': whole_file(directory, rest, size - 1); break;
	case 'd': drain(rest, size - 1); break;
	case 'h': had(rest); break;
	case 'f': watch(rest, size - 1); break;
	case 'n': newborns(rest); break;
	case 'e': be_eager(rest, size - 1); break;
	case '0': memset(&events, 0, sizeof events); break;
	default: abort();
	}
	free(rest);
}

/* `harness DIRECTORY`: where it may write. */
int main(int count, char **words)
{
	int directory = count == 2 ? open(words[1], O_RDONLY | O_DIRECTORY) : -1;
	uint32_t size;

	if (directory < 0)
		return 2;
	while (fread(&size, sizeof size, 1, stdin) == 1) {
		uint8_t *request = malloc(size);

		if (fread(request, 1, size, stdin) != size)
			return 2;
		replied = 0;
		alarm(PATIENCE);
		serve(directory, request, size);
		alarm(0);
		free(request);
		size = replied;
		fwrite(&size, sizeof size, 1, stdout);
		fwrite(reply, 1, replied, stdout);
		fflush(stdout);
	}
	free(script.bytes);
	return 0;
}
