/* fastpath.h: the parts of the fast path, each in a file of its own:
 *
 *   packet.c    a message of the queue to the question it asks, and a verdict back
 *   process.c   whether a process that was looked up before is the same, and holds a socket
 *   program.c   whether a new process runs a program that was looked up before
 *   events.c    which processes had children or ended since
 *   answers.c   questions that were answered before, and for which process or program
 *   recall.c    whether a packet asks one of them again
 *   births.c    new processes, opened as they are born, ahead of their first packet
 *   holder.c    which of them alone holds a socket
 *   fastpath.c  what is asked again is answered again
 *   eager.c     whether the next packet is waited for awake
 *   thread.c    the thread that reads the queue
 *   module.c    all of it for Python
 *
 * Nothing here decides: it repeats what the pipeline decided for the same process and destination,
 * after it has looked the owner up and verified it. What it does not know, or what is odd in the
 * least, goes to the pipeline untouched. */
#ifndef ARBITER_FASTPATH_H
#define ARBITER_FASTPATH_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a connection's first packet asks, but for who sends it and from which port. Compared byte by
 * byte: cleared before it is filled in. All zeros for `daddr`: wherever it goes to. */
struct question {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t proto;  /* IPPROTO_TCP or IPPROTO_UDP */
	uint16_t dport; /* network order, as all ports and addresses here */
	uint32_t outdev;
	uint32_t mark; /* the packet's, in host order */
	uint8_t saddr[16], daddr[16];
};

struct packet {
	struct question question;
	uint16_t sport;
	uint32_t id; /* the queue's, network order */
};

/* packet.c */
bool packet_read(const void *message, size_t size, struct packet *packet);
int packet_accept(int netlink, uint16_t queue, uint32_t id, uint32_t mark);

struct socket_found {
	uint32_t inode, uid;
};

bool packet_socket(int diag, const struct packet *packet, struct socket_found *found);

/* process.c */
#define IMAGE 128 /* four numbers of stat, at most 20 digits each */
#define RELATIVES 8
#define DESCRIPTORS 4

struct process {
	pid_t pid; /* 0: none */
	uint32_t born; /* tells it from the one that had its place before */
	int directory, table;
	uid_t uid;
	uint64_t device, file;
	char image[IMAGE];
	pid_t relatives[RELATIVES]; /* who may share its descriptors */
	int relative_count;
	int descriptors[DESCRIPTORS]; /* where its sockets were, the last one first */
	int descriptor_count;
	uint64_t start; /* of one that Python has not seen: clock ticks since boot, and its cmdline */
	size_t argv_size;
	char *argv; /* NULL: Python has */
};

bool process_open(struct process *process);
bool process_has(pid_t pid, int descriptor, const char *target);
bool process_is_image(const struct process *process);
void process_close(struct process *process);
bool process_holds(struct process *process, uint32_t inode);
bool process_same(const struct process *process);

/* program.c */
#define ARGV 4096

/* What a program is known by. */
struct facts {
	char path[256], cgroup[512], mounts[32];
	uint64_t device, file;
	uid_t uid;
};

struct program {
	uint32_t born; /* 0: none */
	struct facts facts;
	pid_t only; /* children of this one, while it lives and runs what it does; 0: of anybody */
	int descriptors[DESCRIPTORS];
	int descriptor_count;
	uint64_t until; /* some answer holds for it: nanoseconds of CLOCK_MONOTONIC */
	pid_t parent;	/* of the one that was met last, and Python was told; 0: not, or it has changed */
	pid_t bearer;	/* whose births are expected; 0: anybody's */
	int strangers;  /* births in a row that were told of for it, and none that it was met in */
};

/* A process that may run a program: what is read of it, opened, and what was read, as the record of
 * its connection says it. */
struct newborn {
	pid_t pid; /* 0: none */
	int directory;
	int cgroup, cmdline; /* -1: not opened yet */
	int descriptor;
	pid_t parent;
	uint64_t start; /* clock ticks since boot */
	struct facts facts;
	ssize_t argv_size;
	char argv[ARGV];
	char cwd[256]; /* of a parent only */
};

bool newborn_open(struct newborn *one, pid_t pid);
void newborn_prepare(struct newborn *one);
void newborn_close(struct newborn *one);
bool newborn_read(struct newborn *one);
bool newborn_cwd(struct newborn *one);
bool newborn_has(const struct newborn *one, int descriptor, const char *target);
bool program_learn(struct program *program, pid_t pid, pid_t *parent);
bool program_is(const struct program *program, const struct facts *facts);

/* events.c */
#define RECENT 256

enum change { NOTHING, BORN, FORKED, EXECED, ENDED };

struct event {
	pid_t pid;
	enum change what;
	pid_t parent; /* of one that was born */
};

struct birth {
	pid_t pid, parent;
};

struct events {
	int socket;
	bool lossy;                  /* some were lost since it was empty the last time */
	uint64_t count;              /* of all that were seen */
	struct event recent[RECENT]; /* number n is at n % RECENT */
};

typedef void events_seen(void *of, pid_t pid, enum change what);

bool events_drain(struct events *events, events_seen *seen, void *of);
bool events_had(const struct events *events, uint64_t since, pid_t pid);
int events_newborn(const struct events *events, struct birth *births, int most);
int events_younger(const struct events *events, pid_t pid, pid_t *pids, int most);

/* answers.c */
#define PROCESSES 64
#define ANSWERS 1024
#define BUCKETS 2048
#define PROGRAMS 64
#define NEWBORN 16  /* looked at for one packet */
#define NEWBORNS 16 /* kept open */
#define MET 8	    /* remembered */
#define PLACES 8    /* descriptors that are looked at in each */
#define UNTOLD 4096 /* repeated and not taken yet */
#define ELDERS 256  /* parents that wait to be told with them: some 5 kB each */
#define YOUNGER 16
#define EXCEPTED 2048 /* areas */
#define CELLS 8192
#define STRANGERS 8 /* opened for nothing, until a program is met again */

/* Addresses that start with the same bits. */
struct area {
	uint8_t start[16];
	uint8_t size; /* one more than its bits */
};

struct answer {
	struct question question;
	uint32_t uid;
	struct process *process;
	uint32_t born;
	struct program *program; /* NULL: for this process only */
	uint32_t program_born;
	uint32_t mark;
	uint64_t token, until; /* nanoseconds of CLOCK_MONOTONIC */
	struct answer *next;
};

/* A message of the queue on its way to Python. */
struct message {
	struct message *next;
	size_t size;
	uint64_t token; /* 0: it has no verdict yet */
	uint32_t inode;
	uint64_t came, answered; /* nanoseconds of CLOCK_MONOTONIC */
	pid_t pid, parent;       /* of another process than the answer's; 0: it is that one's */
	bool known;		 /* Python was told of its parent before, and nothing of it has changed */
	struct newborn *elder;   /* that parent, in memory of its own; NULL: known, or Python has to look */
	uint64_t start;
	size_t argv_size;
	char *argv; /* its cmdline, in memory of its own */
	char data[];
};

struct messages {
	struct message *first, **last;
	int count;
};

struct fastpath {
	pthread_mutex_t lock; /* of all below but the descriptors */
	int netlink, diag, wake, stop;
	uint16_t queue;
	struct events events;
	struct process processes[PROCESSES];
	struct program programs[PROGRAMS];
	uint32_t born, turn, program_turn;
	struct events births; /* they wake the thread: of watched parents only */
	pid_t watched[PROGRAMS]; /* 0 among them: of all */
	int watched_count;
	struct newborn newborns[NEWBORNS], *newborn; /* the one that was met now; NULL: none */
	uint32_t newborn_turn;
	pid_t met[MET];
	uint32_t met_turn;
	struct answer answers[ANSWERS], *buckets[BUCKETS];
	int used;
	struct area excepted[CELLS]; /* where nothing holds but what is just about an address */
	int excepted_count, excepted_of_size[129];
	uint8_t sizes[129]; /* bits that areas among them have */
	int size_count;
	char mounts[2][32]; /* the mount namespaces whose paths are ours: our own, and that of init */
	struct messages missed, repeated;
	uint64_t due; /* when Python is told of them: nanoseconds of CLOCK_MONOTONIC; 0: it was */
	uint64_t overruns, lost;
};

void answers_forget(struct fastpath *path);
void answers_drain(struct fastpath *path);
void answers_adopt(struct fastpath *path, const struct answer *answer);
bool answers_learn(struct fastpath *path, uint64_t mark, const struct answer *answer,
		   const struct process *process, const struct program *program);

bool answers_except(struct fastpath *path, const uint8_t *address, int bits);
bool answers_excepted(const struct fastpath *path, const uint8_t *address);
unsigned answers_bucket(const struct question *question);
bool answer_known(const struct answer *answer);
bool answer_program_known(const struct answer *answer);

/* recall.c */
const struct answer *answers_recall(struct fastpath *path, const struct packet *packet,
				    struct message *message);

/* births.c */
struct newborn *births_opened(struct fastpath *path, pid_t pid);
struct newborn *births_newborn(struct fastpath *path, pid_t pid);
void births_ended(struct fastpath *path, pid_t pid);
void births_met(struct fastpath *path, struct program *program, pid_t parent);
bool births_watch(struct fastpath *path);
void births_read(struct fastpath *path);

/* holder.c */
struct newborn *holder_newborn(struct fastpath *path, const int *descriptors, int count, uint32_t inode);
struct newborn *holder_parent(struct fastpath *path, pid_t pid);

/* eager.c */
#define EAGER 100000 /* nanoseconds that are waited at most, and that packets are apart that are close */

struct eagerness {
	bool possible;
	int close, wanted; /* packets in a row that came closely; so many it takes */
	int row;	   /* packets in a row that came while it was awake */
	uint64_t since, spent; /* nanoseconds spent so since then */
};

void eager_begin(struct eagerness *eager, int cpus);
bool eager_now(struct eagerness *eager, uint64_t now);
void eager_waited(struct eagerness *eager, uint64_t spent, bool came);
void eager_woken(struct eagerness *eager, uint64_t slept);

/* fastpath.c */
uint64_t nanoseconds(void);
void fastpath_begin(struct fastpath *path);
void fastpath_end(struct fastpath *path);
void fastpath_handle(struct fastpath *path, struct message *message);
void fastpath_forget(struct fastpath *path);
uint64_t fastpath_mark(struct fastpath *path);
bool fastpath_teach(struct fastpath *path, uint64_t mark, const struct answer *answer,
		    const struct process *process, const struct program *program);
bool fastpath_except(struct fastpath *path, const uint8_t *address, int bits);
bool fastpath_excepted(struct fastpath *path, const uint8_t *address);
void message_free(struct message *message);
struct message *fastpath_take(struct fastpath *path, bool waiting);
uint64_t fastpath_due(struct fastpath *path);
bool fastpath_tell(struct fastpath *path);
void fastpath_losses(struct fastpath *path, uint64_t *overruns, uint64_t *lost);

/* thread.c */
int fastpath_run(struct fastpath *path);

#endif
