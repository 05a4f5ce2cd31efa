/* connect.c: how long connect() takes, in nanoseconds, one line each.
 *   connect same N ADDRESS PORT    N connections by this process
 *   connect fresh N ADDRESS PORT   N connections, each by a new process (fork and exec)
 * The time is taken around connect() alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long connect_once(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct linger reset = { 1, 0 }; /* no TIME_WAIT: ports must not run out */
	struct timespec a, b;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || fd < 0)
		exit(2);
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
		perror("connect");
		exit(1);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(fd);
	return (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: connect same|fresh N ADDRESS PORT\n");
		return 2;
	}
	int fresh = !strcmp(argv[1], "fresh"), n = atoi(argv[2]), status;

	for (int i = 0; i < n; i++) {
		if (fresh) {
			char *child[] = { argv[0], "same", "1", argv[3], argv[4], NULL };
			pid_t pid;

			if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, child, environ))
				return 1;
			waitpid(pid, &status, 0);
			if (status)
				return 1;
		} else {
			printf("%ld\n", connect_once(argv[3], atoi(argv[4])));
			fflush(stdout);
		}
	}
	return 0;
}
