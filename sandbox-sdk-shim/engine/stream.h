/* engine/stream.h - a connected TCP socket with bounded buffers, in the clear or behind TLS that ends here.
 *
 * Reading and writing are calls on buffers; `ready` tells that something changed: bytes came, room came free,
 * the connection is up, its end or an error. Back pressure is the bounds: a full input buffer stops reading
 * from the socket, a full output buffer has no room. A callback may free its stream; nothing is touched
 * afterwards. */
#ifndef CAISSON_ENGINE_STREAM_H
#define CAISSON_ENGINE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define STREAM_IN_ROOM  65536u  /* bytes read and not yet taken */
#define STREAM_OUT_ROOM 131072u /* bytes, of records where there is TLS, not yet sent */

typedef struct stream stream;
typedef void stream_ready(void *arg);

/* Takes a connected socket. */
stream *stream_new(int fd, stream_ready *ready, void *arg);
/* Begins to connect. NULL with errno when that fails at once; otherwise stream_is_up() or stream_error()
 * follow. */
stream *stream_connect(const struct sockaddr *sa, socklen_t len, stream_ready *ready, void *arg);
/* From now on another is told. */
void stream_set_ready(stream *s, stream_ready *ready, void *arg);
/* Closes without another word. `reset`: the peer sees that it was no proper end. */
void stream_free(stream *s, bool reset);
/* From now on all that comes, what was read already included, is TLS with a certificate for `name`. */
bool stream_start_tls(stream *s, const char *name);

/* The same as a client of a server `name`, whose certificate must be for that name and signed by one of
 * roots(). There is room for the first byte when the handshake is over. */
bool stream_connect_tls(stream *s, const char *name);
/* After an error: what became of TLS, in words. */
const char *stream_tls_trouble(const stream *s);

bool stream_is_up(const stream *s);
/* 0, or why the connection is of no use any more: an errno value. */
int stream_error(const stream *s);
/* The bytes at the front of the input. */
const char *stream_input(const stream *s, size_t *len);
void stream_take(stream *s, size_t len);
/* The peer will send no more; what it has sent may still be in the input. */
bool stream_has_ended(const stream *s);
/* The same, and all of it has been taken. */
bool stream_at_end(const stream *s);
/* How much stream_put takes now. */
size_t stream_room(const stream *s);
/* At most stream_room() bytes. They are on their way only after stream_flush(). */
void stream_put(stream *s, const void *data, size_t len);
void stream_flush(stream *s);
/* Nothing is left to be sent. */
bool stream_is_flushed(const stream *s);
/* After what was put: the end of this direction. */
void stream_end(stream *s);
/* Gives the buffers back while there is nothing in them: for a connection that waits. */
void stream_rest(stream *s);

#endif
