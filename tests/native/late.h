/* late.h: process events that come in parts. A message of one byte ends a reading: what is behind it
 * has not happened yet. */
#define _GNU_SOURCE /* as the sources have it, before they include anything */
#include <errno.h>
#include <sys/socket.h>

static inline ssize_t late_recvfrom(int from, void *data, size_t room, int flags,
				    struct sockaddr *sender, socklen_t *length)
{
	ssize_t size = recvfrom(from, data, room, flags, sender, length);

	if (size != 1)
		return size;
	errno = EAGAIN;
	return -1;
}

#define recvfrom late_recvfrom
