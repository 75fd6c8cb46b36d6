/* A target that acknowledges everything and keeps nothing, and a source that sends a file: what is left is portd.
 *
 *   sink PORT BACKEND_PORT [SNAPSHOT [STREAM]]
 *
 * In front of a real server, which answers whatever is asked (probe, lease, checkpoint, transactions). Commands that write
 * data are counted and answered with +OK (+QUEUED in a transaction) and go no further, unless their key begins with
 * "portd:". SINK.STATS tells the counts. With files, PSYNC is answered with the snapshot and then the stream, by sendfile.
 * One thread, loopback only; it ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOM (1 << 20) /* bytes that a read may bring */
#define EVENTS 64

static const char *const SWALLOWED[] = {
    "SET", "MSET", "RESTORE", "HSET", "RPUSH", "SADD", "ZADD", "XADD", "PEXPIREAT", "INCR", "INCRBY", "APPEND", "SETRANGE",
    "HMSET", "HSETEX", "HPEXPIREAT", "LPUSH", "DEL", "UNLINK", "PEXPIRE", "XGROUP", "XSETID", "XCLAIM", "EVAL", "ZREM", NULL};

struct buffer {
    char *data;
    size_t used, capacity;
};

struct client {
    int fd, backend;
    int in_transaction, feeding;
    long queued;
    struct buffer in, out;
};

struct words { /* the first two of a command */
    const char *text[2];
    size_t size[2];
};

static int backend_port;
static const char *snapshot_path, *stream_path;
static unsigned long long commands, bytes;

static void die(const char *why) {
    perror(why);
    exit(1);
}

static void reserve(struct buffer *b, size_t more) {
    if (b->capacity - b->used >= more) return;
    b->capacity = (b->used + more) * 2;
    if (!(b->data = realloc(b->data, b->capacity))) die("realloc");
}

static void add(struct buffer *b, const char *data, size_t size) {
    reserve(b, size);
    memcpy(b->data + b->used, data, size);
    b->used += size;
}

static int send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* The number of a line such as "*3\r\n" behind its mark; where the next line begins, NULL when it is not whole. */
static const char *number_line(const char *p, const char *end, long *number) {
    const char *line_end = memchr(p, '\n', (size_t)(end - p));
    if (!line_end) return NULL;
    *number = strtol(p + 1, NULL, 10);
    return line_end + 1;
}

/* Behind the command at p, NULL when it is not whole. */
static const char *read_command(const char *p, const char *end, struct words *words) {
    long count, size;
    words->size[0] = words->size[1] = 0;
    if (!(p = number_line(p, end, &count))) return NULL;
    for (long i = 0; i < count; i++) {
        if (p >= end || !(p = number_line(p, end, &size)) || end - p < size + 2) return NULL;
        if (i < 2) words->text[i] = p, words->size[i] = (size_t)size;
        p += size + 2;
    }
    return p;
}

/* Behind the reply at p, NULL when it is not whole. */
static const char *read_reply(const char *p, const char *end) {
    long number;
    if (p >= end) return NULL;
    char mark = *p;
    if (!(p = number_line(p, end, &number))) return NULL;
    if (mark == '$' && number >= 0) return end - p < number + 2 ? NULL : p + number + 2;
    for (long i = 0; mark == '*' && i < number; i++)
        if (!(p = read_reply(p, end))) return NULL;
    return p;
}

static int is_word(const struct words *words, const char *word) {
    return words->size[0] == strlen(word) && !strncasecmp(words->text[0], word, words->size[0]);
}

static int is_swallowed(const struct words *words) {
    if (words->size[1] >= 6 && !memcmp(words->text[1], "portd:", 6)) return 0;
    for (const char *const *name = SWALLOWED; *name; name++)
        if (is_word(words, *name)) return 1;
    return 0;
}

static int connect_backend(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)backend_port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("backend");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Has the real server answer; the reply of EXEC gets one +OK for each command that it has not seen. */
static int forward(struct client *c, const char *command, size_t size, const struct words *words) {
    static struct buffer reply;
    reply.used = 0;
    if (send_all(c->backend, command, size)) return -1;
    while (!reply.used || !read_reply(reply.data, reply.data + reply.used)) {
        reserve(&reply, ROOM);
        ssize_t got = recv(c->backend, reply.data + reply.used, reply.capacity - reply.used, 0);
        if (got <= 0) return -1;
        reply.used += (size_t)got;
    }
    if (is_word(words, "MULTI")) c->in_transaction = 1, c->queued = 0;
    if (is_word(words, "DISCARD")) c->in_transaction = 0;
    if (is_word(words, "EXEC") && c->in_transaction) {
        char head[32];
        long count = -1;
        const char *rest = number_line(reply.data, reply.data + reply.used, &count);
        c->in_transaction = 0;
        if (reply.data[0] == '*' && count >= 0) {
            add(&c->out, head, (size_t)snprintf(head, sizeof head, "*%ld\r\n", count + c->queued));
            for (long i = 0; i < c->queued; i++) add(&c->out, "+OK\r\n", 5);
            add(&c->out, rest, (size_t)(reply.data + reply.used - rest));
            return 0;
        }
    }
    add(&c->out, reply.data, reply.used);
    return 0;
}

static int send_file(int fd, const char *path, off_t size) {
    int file = open(path, O_RDONLY);
    off_t at = 0;
    if (file < 0) die(path);
    while (at < size)
        if (sendfile(fd, file, &at, (size_t)(size - at)) <= 0 && errno != EINTR) break;
    close(file);
    return at == size ? 0 : -1;
}

static off_t size_of(const char *path) {
    struct stat found;
    if (stat(path, &found)) die(path);
    return found.st_size;
}

static void *feed(void *argument) {
    struct client *c = argument;
    char head[128];
    int size = snprintf(head, sizeof head, "+FULLRESYNC %s 1\r\n$%lld\r\n", "5151515151515151515151515151515151515151",
                        (long long)size_of(snapshot_path));
    if (!send_all(c->fd, head, (size_t)size) && !send_file(c->fd, snapshot_path, size_of(snapshot_path)) && stream_path)
        send_file(c->fd, stream_path, size_of(stream_path));
    return NULL;
}

static int answer(struct client *c, const char *command, size_t size, const struct words *words) {
    if (c->feeding) return 0; /* ACKs */
    if (is_swallowed(words)) {
        commands++;
        bytes += size;
        c->queued += c->in_transaction;
        if (c->in_transaction)
            add(&c->out, "+QUEUED\r\n", 9);
        else
            add(&c->out, "+OK\r\n", 5);
        return 0;
    }
    if (is_word(words, "SINK.STATS")) {
        char text[128];
        add(&c->out, text, (size_t)snprintf(text, sizeof text, "*2\r\n:%llu\r\n:%llu\r\n", commands, bytes));
        return 0;
    }
    if (snapshot_path && is_word(words, "PSYNC")) {
        pthread_t thread;
        c->feeding = 1;
        if (pthread_create(&thread, NULL, feed, c)) die("thread");
        pthread_detach(thread);
        return 0;
    }
    return forward(c, command, size, words);
}

/* Takes what has come; -1 when the connection is over. */
static int serve(struct client *c) {
    reserve(&c->in, ROOM);
    ssize_t got = recv(c->fd, c->in.data + c->in.used, c->in.capacity - c->in.used, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) return -1;
    c->in.used += (size_t)got;
    const char *p = c->in.data, *end = p + c->in.used, *behind;
    struct words words;
    while (p < end && (behind = read_command(p, end, &words))) {
        if (answer(c, p, (size_t)(behind - p), &words)) return -1;
        p = behind;
    }
    c->in.used = (size_t)(end - p);
    memmove(c->in.data, p, c->in.used);
    if (c->out.used && send_all(c->fd, c->out.data, c->out.used)) return -1;
    c->out.used = 0;
    return 0;
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64)) die("listen");
    return fd;
}

static void watch(int poller, int fd, void *who) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = who};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll");
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    static char listening, ending;
    if (argc < 3) return 2;
    backend_port = atoi(argv[2]);
    snapshot_path = argc > 3 ? argv[3] : NULL;
    stream_path = argc > 4 ? argv[4] : NULL;
    int listener = listen_on(atoi(argv[1])), poller = epoll_create1(0);
    watch(poller, listener, &listening);
    watch(poller, 0, &ending);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (events[i].data.ptr == &ending) return 0;
            if (events[i].data.ptr == &listening) {
                int one = 1;
                c = calloc(1, sizeof *c);
                if (!c || (c->fd = accept(listener, NULL, NULL)) < 0) die("accept");
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c->backend = connect_backend();
                watch(poller, c->fd, c);
            } else if (serve(c)) {
                shutdown(c->fd, SHUT_RDWR); /* kept open: a thread may still send */
                epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
                close(c->backend);
                if (!c->feeding) close(c->fd);
            }
        }
    }
}
