/* common/link.h - the messages between engine and guest over descriptor 4.
 *
 * A SOCK_SEQPACKET pair: one fixed-size record per packet, at most one descriptor
 * with it. Records that are not exactly right are refused, and descriptors that came
 * with them closed, so that a hostile peer cannot fill the descriptor table. */
#ifndef CAISSON_COMMON_LINK_H
#define CAISSON_COMMON_LINK_H

#include <stdint.h>
#include <sys/types.h>

#define CSN_LINK_MAGIC 0x43534e31u /* "CSN1" */

enum {
  CSN_LINK_READY =
      1, /* guest -> engine, after BEGIN: serving on descriptor 3; the entrypoint starts after it */
  CSN_LINK_CONNECT,   /* engine -> guest: connect to loopback `port`, answer with `id` */
  CSN_LINK_CONNECTED, /* guest -> engine: code 0 and the socket, or code errno */
  CSN_LINK_SIGNAL,    /* engine -> guest: as if signal `code` had come */
  CSN_LINK_EGRESS,  /* launcher -> engine, before the guest is up: a listening socket in the sandbox's network
                     */
  CSN_LINK_PACKETS, /* launcher -> engine, before that: the packet socket there */
  CSN_LINK_UP,      /* guest -> engine: waits for BEGIN */
  CSN_LINK_BEGIN,   /* engine -> guest, once: be the sandbox that the descriptor's file describes: `id`
                       variables
                       ("NAME=value"), then `port` words of the entrypoint, each with a NUL */
};

typedef struct csn_link_msg {
  uint32_t magic;
  uint32_t kind;
  uint32_t id;   /* ties CONNECTED to CONNECT; BEGIN: a count */
  uint32_t port; /* 1..65535; BEGIN: a count */
  int32_t code;
  uint32_t zero; /* must be 0 */
} csn_link_msg;
_Static_assert(sizeof(csn_link_msg) == 24, "link record layout");

/* 0, or -1 with errno. `fd` -1: no descriptor goes along. The caller keeps fd. */
int csn_link_send(int sock, uint32_t kind, uint32_t id, uint32_t port, int32_t code, int fd);
/* 1: *msg is good, *fd is the descriptor (close-on-exec, caller owns it) or -1, *peer
 * the sender's process id as seen here (0 if not passed). 0: end. -1 with errno
 * (EAGAIN, or EBADMSG for a refused record). */
int csn_link_recv(int sock, csn_link_msg *msg, int *fd, pid_t *peer);

#endif
