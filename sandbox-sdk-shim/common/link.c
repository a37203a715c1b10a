/* common/link.c - see link.h. */
#define _GNU_SOURCE
#include "link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int csn_link_send(int sock, uint32_t kind, uint32_t id, uint32_t port, int32_t code, int fd) {
  csn_link_msg msg = {CSN_LINK_MAGIC, kind, id, port, code, 0};
  struct iovec iov = {&msg, sizeof msg};
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int))];
  } ctl;
  struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
  if (fd >= 0) {
    memset(&ctl, 0, sizeof ctl);
    mh.msg_control = &ctl;
    mh.msg_controllen = sizeof ctl.room;
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  ssize_t n;
  do
    n = sendmsg(sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t)sizeof msg ? 0 : -1;
}

int csn_link_recv(int sock, csn_link_msg *msg, int *fd, pid_t *peer) {
  *fd = -1;
  *peer = 0;
  struct iovec iov = {msg, sizeof *msg};
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int) * 4) + CMSG_SPACE(sizeof(struct ucred))];
  } ctl;
  struct msghdr mh = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof ctl.room};
  ssize_t n;
  do
    n = recvmsg(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return -1;
  unsigned fds = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c != NULL; c = CMSG_NXTHDR(&mh, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(struct ucred))) {
      struct ucred cred;
      memcpy(&cred, CMSG_DATA(c), sizeof cred);
      *peer = cred.pid;
    }
    if (c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int got;
      memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof got);
      if (fds++ == 0)
        *fd = got;
      else
        close(got);
    }
  }
  if (n == 0 && fds == 0) return 0;
  if ((size_t)n != sizeof *msg || msg->magic != CSN_LINK_MAGIC || msg->zero != 0 || fds > 1 ||
      (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
    errno = EBADMSG;
    return -1;
  }
  return 1;
}
