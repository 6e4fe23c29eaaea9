// Counts by address what passes an interface: at its ingress by source, at its egress by destination. setup.py compiles it,
// replaykit/vantages/netfilter/ebpf.py loads it. Every packet goes on.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

struct counts {
	__u64 bytes;
	__u64 packets;
};

// By address, IPv4 as ::ffff:0:0/96. What finds no room is in the interface's own counters only.
struct table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, sizeof(struct in6_addr));
	__uint(value_size, sizeof(struct counts));
	__uint(max_entries, 65536);
};

struct table received SEC(".maps");
struct table sent SEC(".maps");

static __always_inline bool read_address(struct __sk_buff *packet, bool source, struct in6_addr *address)
{
	if (packet->protocol == bpf_htons(ETH_P_IP)) {
		__u32 at = source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);

		address->s6_addr32[2] = bpf_htonl(0xffff);
		return !bpf_skb_load_bytes_relative(packet, at, &address->s6_addr32[3], 4, BPF_HDR_START_NET);
	}
	if (packet->protocol == bpf_htons(ETH_P_IPV6)) {
		__u32 at = source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);

		return !bpf_skb_load_bytes_relative(packet, at, address, sizeof(*address), BPF_HDR_START_NET);
	}
	return false;
}

// link_header: of the bytes of a packet, those that are not counted.
static __always_inline int count(struct __sk_buff *packet, struct table *table, bool source, __u64 link_header)
{
	struct in6_addr address = {};
	struct counts none = {};
	struct counts *counts;

	if (!read_address(packet, source, &address))
		return TC_ACT_UNSPEC;
	counts = bpf_map_lookup_elem(table, &address);
	if (!counts) {
		// Another processor may have been quicker; then that entry is the one.
		bpf_map_update_elem(table, &address, &none, BPF_NOEXIST);
		counts = bpf_map_lookup_elem(table, &address);
		if (!counts)
			return TC_ACT_UNSPEC;
	}
	__sync_fetch_and_add(&counts->bytes, packet->len - link_header);
	__sync_fetch_and_add(&counts->packets, 1);
	return TC_ACT_UNSPEC;
}

SEC("tcx/ingress")
int received_ethernet(struct __sk_buff *packet)
{
	return count(packet, &received, true, ETH_HLEN);
}

SEC("tcx/ingress")
int received_bare(struct __sk_buff *packet)
{
	return count(packet, &received, true, 0);
}

SEC("tcx/egress")
int sent_ethernet(struct __sk_buff *packet)
{
	return count(packet, &sent, false, ETH_HLEN);
}

SEC("tcx/egress")
int sent_bare(struct __sk_buff *packet)
{
	return count(packet, &sent, false, 0);
}
