/* accept.c: the least that a program can do with a queue: accept each packet at once. The floor of
 * what any consumer costs.
 *   accept QUEUE    prints "ready" once it is bound */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int nl, queue;

/* One message with one attribute, which is all that a queue is told. */
static void tell(int type, int attribute, const void *value, int size)
{
	struct {
		struct nlmsghdr head;
		struct nfgenmsg body;
		struct nlattr attr;
		char value[32];
	} message = {
		.head = { .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type, .nlmsg_flags = NLM_F_REQUEST },
		.body = { .version = NFNETLINK_V0, .res_id = htons(queue) },
		.attr = { .nla_len = NLA_HDRLEN + size, .nla_type = attribute },
	};

	memcpy(message.value, value, size);
	message.head.nlmsg_len = NLMSG_LENGTH(sizeof message.body) + NLA_ALIGN(NLA_HDRLEN + size);
	if (send(nl, &message, message.head.nlmsg_len, 0) < 0) {
		perror("accept: netlink");
		exit(1);
	}
}

static void accept_packet(const struct nlmsghdr *head)
{
	const char *at = (const char *)NLMSG_DATA(head) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	const char *end = (const char *)head + head->nlmsg_len;

	while (at + NLA_HDRLEN <= end) {
		const struct nlattr *attr = (const void *)at;

		if ((attr->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) {
			const struct nfqnl_msg_packet_hdr *packet = (const void *)(at + NLA_HDRLEN);
			struct nfqnl_msg_verdict_hdr verdict = { htonl(NF_ACCEPT), packet->packet_id };

			tell(NFQNL_MSG_VERDICT, NFQA_VERDICT_HDR, &verdict, sizeof verdict);
			return;
		}
		at += NLA_ALIGN(attr->nla_len);
	}
}

int main(int argc, char **argv)
{
	static char buffer[0xffff + 8192];
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct nfqnl_msg_config_cmd bind_it = { .command = NFQNL_CFG_CMD_BIND };
	struct nfqnl_msg_config_params copy = { htonl(256), NFQNL_COPY_PACKET };
	ssize_t size;

	queue = argc > 1 ? atoi(argv[1]) : 0;
	nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (nl < 0 || connect(nl, (struct sockaddr *)&kernel, sizeof kernel)) {
		perror("accept: netlink");
		return 1;
	}
	tell(NFQNL_MSG_CONFIG, NFQA_CFG_CMD, &bind_it, sizeof bind_it);
	tell(NFQNL_MSG_CONFIG, NFQA_CFG_PARAMS, &copy, sizeof copy);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		size = recv(nl, buffer, sizeof buffer, 0);
		if (size < 0 && errno != EINTR && errno != ENOBUFS) {
			perror("accept: netlink");
			return 1;
		}
		for (struct nlmsghdr *head = (void *)buffer; NLMSG_OK(head, size);
		     head = NLMSG_NEXT(head, size))
			if (head->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
				accept_packet(head);
	}
}
