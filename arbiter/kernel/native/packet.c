/* packet.c: a message of the queue to the question it asks; its socket; and a verdict back.
 *
 * Every byte here was chosen by whoever sent the packet, or by the kernel: each read is of what the
 * lengths around it say is there. The usual packets only, as arbiter/packets.py _plain has them. */
#include "fastpath.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>

#define SYN 0x02
#define ACK 0x10
#define SYN_SENT 2 /* include/net/tcp_states.h */

static uint16_t word(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

/* The IP packet's addresses, protocol and ports. */
static bool headers(const uint8_t *ip, size_t size, struct packet *packet)
{
	struct question *question = &packet->question;
	size_t at, total;

	if (size >= 28 && ip[0] == 0x45) {
		at = 20;
		total = word(ip + 2);
		if (word(ip + 6) & 0x3fff) /* a fragment */
			return false;
		question->family = AF_INET;
		question->proto = ip[9];
		memcpy(question->saddr, ip + 12, 4);
		memcpy(question->daddr, ip + 16, 4);
	} else if (size >= 48 && (ip[0] & 0xf0) == 0x60) {
		at = 40;
		total = 40 + word(ip + 4);
		question->family = AF_INET6;
		question->proto = ip[6];
		memcpy(question->saddr, ip + 8, 16);
		memcpy(question->daddr, ip + 24, 16);
	} else {
		return false;
	}
	memcpy(&packet->sport, ip + at, 2);
	memcpy(&question->dport, ip + at + 2, 2);
	if (question->proto == IPPROTO_UDP)
		return total >= at + 8;
	if (question->proto != IPPROTO_TCP || size < at + 20)
		return false;
	if (ip[at + 12] >> 4 < 5 || total < at + (ip[at + 12] >> 4) * 4)
		return false;
	return (ip[at + 13] & (SYN | ACK)) == SYN;
}

/* The question of a message that holds one packet that leaves this machine and opens a connection;
 * false for every other. */
bool packet_read(const void *message, size_t size, struct packet *packet)
{
	const struct nlmsghdr *head = message;
	const uint8_t *at = message, *end = at + size, *payload = NULL;
	size_t length = 0;
	bool named = false;

	memset(packet, 0, sizeof *packet);
	if (size < NLMSG_HDRLEN + sizeof(struct nfgenmsg) ||
	    head->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET) ||
	    NLMSG_ALIGN(head->nlmsg_len) != NLMSG_ALIGN(size))
		return false;
	at += NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	while ((size_t)(end - at) >= NLA_HDRLEN) {
		struct nlattr attribute;
		const uint8_t *value = at + NLA_HDRLEN;

		memcpy(&attribute, at, sizeof attribute);
		if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > end - at)
			return false;
		length = attribute.nla_len - NLA_HDRLEN;
		switch (attribute.nla_type & NLA_TYPE_MASK) {
		case NFQA_PACKET_HDR: {
			struct nfqnl_msg_packet_hdr packet_head;

			if (length < sizeof packet_head)
				return false;
			memcpy(&packet_head, value, sizeof packet_head);
			if (packet_head.hook != NF_INET_LOCAL_OUT)
				return false;
			packet->id = packet_head.packet_id;
			named = true;
			break;
		}
		case NFQA_MARK:
		case NFQA_IFINDEX_OUTDEV: {
			uint32_t number;

			if (length != sizeof number)
				return false;
			memcpy(&number, value, sizeof number);
			if ((attribute.nla_type & NLA_TYPE_MASK) == NFQA_MARK)
				packet->question.mark = ntohl(number);
			else
				packet->question.outdev = ntohl(number);
			break;
		}
		case NFQA_PAYLOAD:
			/* Another one would leave parts of the first behind. */
			if (payload != NULL || !headers(value, length, packet))
				return false;
			payload = value;
			break;
		}
		if (NLA_ALIGN(attribute.nla_len) >= end - at)
			break;
		at += NLA_ALIGN(attribute.nla_len);
	}
	return named && payload != NULL;
}

/* Accept packet `id` with this mark; 0, or -1 with errno. */
int packet_accept(int netlink, uint16_t queue, uint32_t id, uint32_t mark)
{
	struct {
		struct nlmsghdr head;
		struct nfgenmsg body;
		struct nlattr verdict_head;
		struct nfqnl_msg_verdict_hdr verdict;
		struct nlattr mark_head;
		uint32_t mark;
	} message = {
		.head = { .nlmsg_len = sizeof message,
			  .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT,
			  .nlmsg_flags = NLM_F_REQUEST },
		.body = { .version = NFNETLINK_V0, .res_id = htons(queue) },
		.verdict_head = { NLA_HDRLEN + sizeof message.verdict, NFQA_VERDICT_HDR },
		.verdict = { htonl(NF_ACCEPT), id },
		.mark_head = { NLA_HDRLEN + sizeof message.mark, NFQA_MARK },
		.mark = htonl(mark),
	};

	return send(netlink, &message, sizeof message, 0) < 0 ? -1 : 0;
}

/* The one socket that sent the packet: of TCP one that connects, of UDP one that is connected. */
bool packet_socket(int diag, const struct packet *packet, struct socket_found *found)
{
	const struct question *question = &packet->question;
	bool udp = question->proto == IPPROTO_UDP;
	size_t length = question->family == AF_INET ? 4 : 16;
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 body;
	} request = {
		.head = { .nlmsg_len = sizeof request,
			  .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			  .nlmsg_flags = NLM_F_REQUEST },
		.body = { .sdiag_family = question->family,
			  .sdiag_protocol = question->proto,
			  .idiag_states = UINT32_MAX,
			  .id = { .idiag_if = question->outdev,
				  .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } },
	};
	union {
		struct nlmsghdr head;
		char bytes[4096];
	} answer;
	const struct inet_diag_msg *info = NLMSG_DATA(&answer.head);
	static _Atomic uint32_t last;
	const uint32_t sequence = ++last;
	ssize_t size;

	/* udp_dump_one takes them "swapped for historical reasons" (net/ipv4/udp_diag.c). */
	request.body.id.idiag_sport = udp ? question->dport : packet->sport;
	request.body.id.idiag_dport = udp ? packet->sport : question->dport;
	memcpy(request.body.id.idiag_src, udp ? question->daddr : question->saddr, length);
	memcpy(request.body.id.idiag_dst, udp ? question->saddr : question->daddr, length);
	request.head.nlmsg_seq = sequence;
	if (send(diag, &request, sizeof request, 0) < 0)
		return false;
	do {
		size = recv(diag, &answer, sizeof answer, MSG_DONTWAIT);
		if (size < (ssize_t)NLMSG_HDRLEN)
			return false;
	} while (answer.head.nlmsg_seq != sequence);
	if (answer.head.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
	    size < (ssize_t)(NLMSG_HDRLEN + sizeof *info))
		return false;
	if (!udp && info->idiag_state != SYN_SENT)
		return false;
	if (info->id.idiag_sport != packet->sport || info->id.idiag_dport != question->dport)
		return false; /* not connected: others of its port may have sent it */
	found->inode = info->idiag_inode;
	found->uid = info->idiag_uid;
	return found->inode != 0;
}
