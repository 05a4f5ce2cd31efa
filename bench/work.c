/* work.c: the programs of the benchmark.
 *   work same N ADDRESS PORT         N times connect() by this process
 *   work paced N ADDRESS PORT        as same, 20 ms apart
 *   work fresh N ADDRESS PORT        N times, each by a new process (fork and exec)
 *   work nested N ADDRESS PORT       as fresh, each by a new process of a new process
 *   work asked N ADDRESS PORT        as same, but tells when each came back (CLOCK_MONOTONIC)
 *   work roam N ADDRESS PORT         as same, to another address each time: the next one in its net
 *   work udp N ADDRESS PORT          N times a datagram from a new socket, and its echo
 *   work burst N RATE ADDRESS PORT   N datagrams from new sockets, RATE each second, and a second
 *                                    in which the last of them are still open
 *   work serve ADDRESS PORT          accepts and closes; echoes datagrams
 *   work idle N FDS                  N processes that sleep with so many descriptors each
 * The first seven print nanoseconds, one line each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PACE 20000 /* microseconds */
#define OPEN 900 /* sockets of a burst that stay open: below the usual limit of descriptors */

extern char **environ;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, text, &to.sin_addr) != 1)
		die(text);
	return to;
}

static long connect_once(const struct sockaddr_in *to)
{
	struct linger reset = { 1, 0 }; /* no TIME_WAIT: ports must not run out */
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	long before = now(), after;

	if (connect(fd, (const struct sockaddr *)to, sizeof *to))
		die("connect");
	after = now();
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(fd);
	return after - before;
}

static long query_once(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct pollfd ready = { fd, POLLIN, 0 };
	char byte = 0;
	long before = now(), after;

	if (connect(fd, (const struct sockaddr *)to, sizeof *to) || send(fd, "q", 1, 0) != 1)
		die("send");
	if (poll(&ready, 1, 10000) != 1 || recv(fd, &byte, 1, 0) != 1)
		die("no echo");
	after = now();
	close(fd);
	return after - before;
}

static void fresh(char *self, char *what, char **argv)
{
	char *child[] = { self, what, "1", argv[3], argv[4], NULL };
	int status;
	pid_t pid;

	if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, child, environ))
		die("spawn");
	waitpid(pid, &status, 0);
	if (status)
		exit(1);
}

static void burst(int n, int rate, const struct sockaddr_in *to)
{
	int open[OPEN]; /* whose a datagram is cannot be told once its socket is closed */
	long due = now();

	memset(open, -1, sizeof open);
	for (int i = 0; i < n; i++, due += 1000000000L / rate) {
		int *fd = &open[i % OPEN];

		if (*fd >= 0)
			close(*fd);
		*fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		while (now() < due)
			;
		sendto(*fd, "q", 1, 0, (const struct sockaddr *)to, sizeof *to);
	}
	sleep(1);
}

static void serve(const struct sockaddr_in *at)
{
	int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
	struct pollfd ready[] = { { tcp, POLLIN, 0 }, { udp, POLLIN, 0 } };
	unsigned long heard = 0;

	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(tcp, (const struct sockaddr *)at, sizeof *at) || listen(tcp, 4096) ||
	    bind(udp, (const struct sockaddr *)at, sizeof *at))
		die("bind");
	printf("up\n");
	fflush(stdout);
	for (;;) {
		struct sockaddr_in from;
		socklen_t size = sizeof from;
		char byte;

		if (poll(ready, 2, -1) < 0)
			die("poll");
		if (ready[0].revents)
			close(accept(tcp, NULL, NULL));
		if (ready[1].revents && recvfrom(udp, &byte, 1, 0, (struct sockaddr *)&from, &size) == 1) {
			if (byte == '?') { /* how many were heard since the last time? */
				sendto(udp, &heard, sizeof heard, 0, (struct sockaddr *)&from, size);
				heard = 0;
				continue;
			}
			heard++;
			sendto(udp, &byte, 1, 0, (struct sockaddr *)&from, size);
		}
	}
}

static void idle(int n, int fds)
{
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (int k = 0; k < fds; k++)
				open("/dev/null", O_RDONLY);
			for (;;)
				pause();
		}
	}
	printf("up\n");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct sockaddr_in to;

	if (!strcmp(what, "serve") && argc == 4) {
		to = address(argv[2], atoi(argv[3]));
		serve(&to);
	}
	if (!strcmp(what, "idle") && argc == 4)
		idle(atoi(argv[2]), atoi(argv[3]));
	if (!strcmp(what, "burst") && argc == 6) {
		to = address(argv[4], atoi(argv[5]));
		burst(atoi(argv[2]), atoi(argv[3]), &to);
		return 0;
	}
	if (argc != 5) {
		fprintf(stderr, "work: what it can do stands at the head of work.c\n");
		return 2;
	}
	to = address(argv[3], atoi(argv[4]));
	for (long took, i = 0, n = atoi(argv[2]); i < n; i++) {
		if (!strcmp(what, "fresh") || !strcmp(what, "nested")) {
			fresh(argv[0], strcmp(what, "fresh") ? "fresh" : "same", argv);
			continue;
		}
		if (!strcmp(what, "paced"))
			usleep(PACE);
		took = strcmp(what, "udp") ? connect_once(&to) : query_once(&to);
		if (!strcmp(what, "roam"))
			to.sin_addr.s_addr = htonl(ntohl(to.sin_addr.s_addr) + 1);
		printf("%ld\n", strcmp(what, "asked") ? took : now());
		fflush(stdout);
	}
	return 0;
}
