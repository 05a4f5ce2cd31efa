/* eager.c: whether the next packet is waited for awake.
 *
 * To sleep and be woken takes longer than to answer a packet. Where one follows another closely, as
 * when a program opens many connections, the thread looks for the next one before it sleeps; at the
 * first of them, and on an idle machine, it never does. Who waits for this CPU shall not be kept from
 * it: each time in vain it takes twice as many close ones until the next try, and half of the time
 * at most is spent so, for the thread may be a real-time one. */
#include "fastpath.h"

#define WINDOW 100000000 /* nanoseconds */
#define SPENT (WINDOW / 2)
#define DOUBT 1024
#define ROW 64 /* packets; then what else there is has its turn */

/* On so many CPUs: on one nobody can send while it is waited for. */
void eager_begin(struct eagerness *eager, int cpus)
{
	*eager = (struct eagerness){ .possible = cpus > 1, .wanted = 1 };
}

/* Whether to, at this time (nanoseconds). */
bool eager_now(struct eagerness *eager, uint64_t now)
{
	if (now - eager->since >= WINDOW) {
		eager->since = now;
		eager->spent = 0;
	}
	if (eager->row == ROW) {
		eager->row = 0;
		return false;
	}
	return eager->possible && eager->close >= eager->wanted && eager->spent < SPENT;
}

/* So it was, for so long (nanoseconds): did a packet come? */
void eager_waited(struct eagerness *eager, uint64_t spent, bool came)
{
	eager->spent += spent;
	if (came) {
		eager->wanted = 1;
		eager->row++;
		return;
	}
	eager->row = 0;
	eager->close = 0;
	if (eager->wanted < DOUBT)
		eager->wanted *= 2;
}

/* A packet ended a sleep of so many nanoseconds. */
void eager_woken(struct eagerness *eager, uint64_t slept)
{
	if (slept >= EAGER)
		eager->close = 0;
	else if (eager->close < eager->wanted)
		eager->close++;
}
