/* An MQTT 3.1.1 load generator for any broker: one thread, one epoll set, one JSON object per phase on standard output.
 *
 *   load HOST PORT [name=value ...]
 *
 * Flow (mode=flow, the default). `pubs` publishers and `subs` subscribers over `topics` names `bench/<t>/v`: publisher i
 * takes names i, i + pubs, ... in turn (only i mod topics unless walk=1), subscriber j takes `filters` names from
 * j * filters on, each as a filter of `style` (exact, plus: bench/<t>/+, hash: bench/<t>/#, mixed: half exact, then
 * both; share: all subscribers are members of one shared subscription of bench/#). Publishers keep `window` messages of `payload` bytes unacknowledged at `qos` (QoS 0: as much as the socket
 * takes); with `rate` they send that many a second together instead, and latency counts from the moment a message was
 * due. Subscribers ask for `subqos` (default: qos). `warm` seconds are not counted, `seconds` are. retain=1 sets RETAIN,
 * clean=0 makes sessions persistent, tls=1 encrypts without checking the certificate.
 * A publisher alone on its name numbers its messages: `gaps` and `repeats` in what subscribers saw are reported (not of
 * a shared subscription).
 *
 * Devices. `idle` further connections subscribe to `idle/<i>/c` each and send PINGREQ every `keepalive` seconds, spread
 * evenly; `probe` messages a second at QoS 1 go to devices chosen at random, and their latency is `probe_*`. When all
 * are there a line {"event": "ready"} is printed, so that the caller can look at the broker's memory.
 *
 * Sessions. mode=create: `count` persistent sessions from number `first` subscribe to `s/<n>/c` and disconnect.
 * mode=feed: one message at QoS 1 to every 100th of the `count` sessions that mode=return is to choose.
 * mode=return: `count` sessions chosen evenly out of `of` connect at once, latency from CONNECT to CONNACK; it ends when
 * `expect` messages have come and all CONNACKs are in, or after `seconds`.
 *
 * At most `at_once` connections are being opened at a time; one that is refused or cut before it is ready is counted in
 * `refused` and tried again. Source addresses 127.0.0.1 and up are used, 5,000 connections each:
 * with more the system looks long for a free port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SUB, PUB, IDLE, PROBE, SESSION };
enum { CLOSED, OPENING, HANDSHAKE, CONNECTING, SUBSCRIBING, READY, LEAVING };
enum { PUBACK = 4, PUBREC = 5, PUBREL = 6, PUBCOMP = 7 };

typedef struct {
    int fd, role, index, state, watching;
    uint32_t inflight, name; /* publisher: unacknowledged messages, number of the next name */
    uint32_t sequence;       /* publisher: last sent; subscriber: last seen */
    uint16_t packet_id;
    uint64_t began; /* of this attempt to connect */
    uint8_t *out;
    int out_len, out_at, out_cap;
    uint8_t *part; /* an incomplete packet */
    int part_len;
    SSL *ssl;
} Conn;

/* Latencies in nanoseconds, in buckets of 1/64 of a power of two. */
typedef struct {
    uint64_t count, max, buckets[64 * 64];
} Hist;

static const char *host;
static int port, epfd;
static Conn *conns;
static int conns_count, opening, ready_count, done_count;
static uint64_t published, delivered, refused, gaps, repeats, pings, pongs, probes, probed;
static Hist latency, connect_latency, probe_latency;
static int measuring;
static uint64_t zero_ns; /* of this run: payloads of earlier ones are not timed */
static SSL_CTX *tls_context;
static uint8_t in_buffer[1 << 18];
static int pubs, subs, topics, filters, qos, subqos, payload, window, walk, retain, clean, idle, keepalive, at_once;
static int sessions, first_session, of_sessions, returning;
static double rate;
static const char *style, *mode;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(3);
}

/* -- latencies -------------------------------------------------------------------------------------------------- */

static void hist_add(Hist *h, uint64_t ns) {
    int shift = ns < 64 ? 0 : 64 - __builtin_clzll(ns) - 7;
    if (shift < 0) shift = 0;
    h->buckets[shift * 64 + (ns >> shift)]++;
    h->count++;
    if (ns > h->max) h->max = ns;
}

static double hist_us(const Hist *h, double share) {
    uint64_t left = (uint64_t)(h->count * share);
    for (int i = 0; i < 64 * 64; i++) {
        if (h->buckets[i] > left) {
            int shift = i < 128 ? 0 : i / 64 - 1;
            uint64_t low = i < 128 ? (uint64_t)i : (uint64_t)(i - shift * 64) << shift;
            return low / 1e3;
        }
        left -= h->buckets[i];
    }
    return h->max / 1e3;
}

static void hist_print(const char *name, const Hist *h) {
    printf(", \"%sp50_us\": %.0f, \"%sp99_us\": %.0f, \"%smax_us\": %.0f", name, hist_us(h, 0.5), name,
           hist_us(h, 0.99), name, h->max / 1e3);
}

/* -- output ----------------------------------------------------------------------------------------------------- */

static void put(Conn *c, const void *data, int size) {
    if (c->out_len + size > c->out_cap) {
        c->out_cap = (c->out_len + size) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, size);
    c->out_len += size;
}

static void watch(Conn *c, int events) {
    if (c->watching == events) return;
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(epfd, c->watching ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
    c->watching = events;
}

static void lost(Conn *c, const char *why);

/* Writes what waits; 1 when all of it is gone. */
static int flush(Conn *c) {
    while (c->out_at < c->out_len) {
        int size = c->out_len - c->out_at, sent;
        if (c->ssl) {
            sent = SSL_write(c->ssl, c->out + c->out_at, size);
            if (sent <= 0) {
                int error = SSL_get_error(c->ssl, sent);
                if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ) return lost(c, "SSL_write"), 0;
                errno = EAGAIN;
            }
        } else {
            sent = send(c->fd, c->out + c->out_at, size, MSG_NOSIGNAL);
        }
        if (sent <= 0) {
            if (errno != EAGAIN) return lost(c, "send"), 0;
            watch(c, EPOLLIN | EPOLLOUT);
            return 0;
        }
        c->out_at += sent;
    }
    c->out_at = c->out_len = 0;
    if (c->out_cap > 4096 && conns_count > 2000) {
        free(c->out);
        c->out = NULL;
        c->out_cap = 0;
    }
    watch(c, EPOLLIN);
    return 1;
}

static int put_string(uint8_t *at, const char *text) {
    int size = strlen(text);
    at[0] = size >> 8;
    at[1] = size;
    memcpy(at + 2, text, size);
    return size + 2;
}

static int put_length(uint8_t *at, int length) {
    int size = 0;
    do {
        at[size] = length & 127;
        length >>= 7;
        if (length) at[size] |= 128;
        size++;
    } while (length);
    return size;
}

static void put_ack(Conn *c, int kind, int packet_id) {
    uint8_t ack[4] = {kind << 4 | (kind == PUBREL ? 2 : 0), 2, packet_id >> 8, packet_id};
    put(c, ack, 4);
}

static void put_connect(Conn *c) {
    char id[48];
    int keep_alive = c->role == IDLE ? keepalive : 600;
    if (c->role == SESSION)
        sprintf(id, "s%d", first_session + (returning ? (int)((int64_t)c->index * of_sessions / sessions) : c->index));
    else
        sprintf(id, "load%d-%d-%d", clean ? (int)getpid() : 0, c->role, c->index);
    uint8_t body[96] = {0, 4, 'M', 'Q', 'T', 'T', 4, 0, keep_alive >> 8, keep_alive}, head[8] = {0x10};
    body[7] = c->role == SESSION || ((c->role == SUB || c->role == PUB) && !clean) ? 0 : 2;
    int size = 10 + put_string(body + 10, id), length = put_length(head + 1, size);
    put(c, head, 1 + length);
    put(c, body, size);
}

static void topic_filter(char *into, int topic, int number) {
    const char *kind = style;
    if (!strcmp(style, "share")) {
        strcpy(into, "$share/load/bench/#");
        return;
    }
    if (!strcmp(style, "mixed")) kind = number & 1 ? (number & 2 ? "hash" : "plus") : "exact";
    sprintf(into, "bench/%d/%s", topic, !strcmp(kind, "plus") ? "+" : !strcmp(kind, "hash") ? "#" : "v");
}

/* Asks for all filters of a connection, in packets of at most 100; the last one has packet id 1. */
static void put_subscribe(Conn *c) {
    int count = c->role == SUB ? filters : 1;
    for (int from = 0; from < count; from += 100) {
        int upto = from + 100 < count ? from + 100 : count, size = 2;
        static uint8_t body[100 * 64];
        body[0] = 0;
        body[1] = upto == count ? 1 : 2;
        for (int i = from; i < upto; i++) {
            char filter[48];
            if (c->role == SUB)
                topic_filter(filter, (c->index * filters + i) % topics, c->index * filters + i);
            else
                sprintf(filter, c->role == IDLE ? "idle/%d/c" : "s/%d/c", c->index + (c->role == IDLE ? 0 : first_session));
            size += put_string(body + size, filter);
            body[size++] = c->role == SUB ? subqos : 1;
        }
        uint8_t head[8] = {0x82};
        put(c, head, 1 + put_length(head + 1, size));
        put(c, body, size);
    }
}

static void put_publish(Conn *c, const char *topic, int at_qos, uint32_t sequence, uint64_t stamp) {
    static uint8_t body[1 << 20];
    uint8_t head[128];
    int topic_size = strlen(topic), length = 2 + topic_size + (at_qos ? 2 : 0) + payload, size;
    head[0] = 0x30 | at_qos << 1 | retain;
    size = 1 + put_length(head + 1, length);
    size += put_string(head + size, topic);
    if (at_qos) {
        if (!++c->packet_id) c->packet_id = 1;
        head[size++] = c->packet_id >> 8;
        head[size++] = c->packet_id;
    }
    memcpy(body, &stamp, 8);
    memcpy(body + 8, &sequence, 4);
    put(c, head, size);
    put(c, body, payload);
}

static void publish(Conn *c, uint64_t stamp) {
    char topic[48];
    sprintf(topic, "bench/%u/v", c->name % topics);
    if (walk) c->name += pubs;
    put_publish(c, topic, qos, ++c->sequence, stamp);
    c->inflight++;
    if (!qos && measuring) published++;
}

/* A closed-loop publisher sends what its window allows. */
static void fill(Conn *c) {
    if (c->role != PUB || c->state != READY || rate > 0 || sessions) return;
    if (qos) {
        int before = c->out_len;
        while (c->inflight < (uint32_t)window) publish(c, now_ns());
        if (c->out_len != before) flush(c);
    } else if (!c->out_len) {
        for (int i = 0; i < window; i++) publish(c, now_ns());
        flush(c);
    }
}

/* -- connections ------------------------------------------------------------------------------------------------ */

static void leave(Conn *c) {
    if (c->ssl) SSL_free(c->ssl);
    close(c->fd);
    free(c->out);
    free(c->part);
    c->ssl = NULL;
    c->out = c->part = NULL;
    c->out_len = c->out_at = c->out_cap = c->part_len = c->watching = 0;
    c->state = CLOSED;
}

static void lost(Conn *c, const char *why) {
    if (c->state == READY) {
        fprintf(stderr, "connection %d (role %d) was lost: %s\n", c->index, c->role, why);
        exit(5);
    }
    if (c->state == LEAVING) {
        done_count++;
    } else if (c->state != CLOSED) {
        refused++;
        opening--;
        if (refused > 1000000) exit(6);
    }
    leave(c);
}

static void begin(Conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    int one = 1, number = (int)(c - conns);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    from.sin_addr.s_addr = htonl(0x7f000001u + number / 5000);
    setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
    if (number >= 5000 && bind(c->fd, (void *)&from, sizeof from)) die("bind");
    c->state = OPENING;
    c->began = now_ns();
    opening++;
    if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) return lost(c, "connect");
    watch(c, EPOLLIN | EPOLLOUT);
}

static void opened(Conn *c) {
    if (tls_context && !c->ssl) {
        c->ssl = SSL_new(tls_context);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        c->state = HANDSHAKE;
    }
    if (c->ssl) {
        int result = SSL_do_handshake(c->ssl);
        if (result != 1) {
            int error = SSL_get_error(c->ssl, result);
            if (error == SSL_ERROR_WANT_READ) return watch(c, EPOLLIN);
            if (error == SSL_ERROR_WANT_WRITE) return watch(c, EPOLLIN | EPOLLOUT);
            return lost(c, "handshake");
        }
    }
    c->state = CONNECTING;
    if (c->role == SESSION) c->began = now_ns();
    put_connect(c);
    flush(c);
}

static void become_ready(Conn *c) {
    opening--;
    ready_count++;
    if (c->role != SESSION || !returning) hist_add(&connect_latency, now_ns() - c->began);
    if (c->role == SESSION && !returning) {
        put(c, "\xe0\0", 2);
        c->state = LEAVING;
        if (flush(c)) shutdown(c->fd, SHUT_WR);
    } else {
        c->state = READY;
        fill(c);
    }
}

/* -- input ------------------------------------------------------------------------------------------------------ */

static void on_publish(Conn *c, int first, const uint8_t *body, int size) {
    int at_qos = first >> 1 & 3, at = 2 + (body[0] << 8 | body[1]);
    if (at_qos) {
        put_ack(c, at_qos == 1 ? PUBACK : PUBREC, body[at] << 8 | body[at + 1]);
        at += 2;
    }
    if (size - at < 12) return;
    uint64_t stamp;
    uint32_t sequence;
    memcpy(&stamp, body + at, 8);
    memcpy(&sequence, body + at + 8, 4);
    if (c->role == IDLE) {
        probed++;
        hist_add(&probe_latency, now_ns() - stamp);
        return;
    }
    delivered++;
    if (measuring && stamp >= zero_ns) hist_add(&latency, now_ns() - stamp);
    if (c->role == SUB && pubs && pubs <= topics && !walk && filters == 1 && subqos && strcmp(style, "share")) {
        if (c->sequence && sequence > c->sequence + 1) gaps += sequence - c->sequence - 1;
        if (c->sequence && sequence <= c->sequence) repeats++;
        c->sequence = sequence;
    }
}

static void on_packet(Conn *c, int first, const uint8_t *body, int size) {
    switch (first >> 4) {
    case 2:
        if (body[1]) return lost(c, "CONNACK refuses");
        if (returning && c->role == SESSION) hist_add(&connect_latency, now_ns() - c->began);
        if (c->role == SUB || c->role == IDLE || (c->role == SESSION && !returning)) {
            c->state = SUBSCRIBING;
            put_subscribe(c);
        } else {
            become_ready(c);
        }
        break;
    case 3:
        on_publish(c, first, body, size);
        break;
    case PUBACK:
    case PUBCOMP:
        if (c->role == PROBE) break;
        c->inflight--;
        if (measuring) published++;
        break;
    case PUBREC:
        put_ack(c, PUBREL, body[0] << 8 | body[1]);
        break;
    case PUBREL:
        put_ack(c, PUBCOMP, body[0] << 8 | body[1]);
        break;
    case 9:
        if (body[2] == 0x80) return lost(c, "SUBACK refuses");
        if (body[1] == 1 && c->state == SUBSCRIBING) become_ready(c);
        break;
    case 13:
        pongs++;
        break;
    }
}

/* Handles whole packets; returns the bytes used. */
static int on_bytes(Conn *c, const uint8_t *data, int size) {
    int at = 0;
    while (size - at >= 2) {
        int length = 0, shift = 0, head = 1, whole = 0;
        while (at + head < size && head < 5) {
            uint8_t byte = data[at + head++];
            length |= (byte & 127) << shift;
            shift += 7;
            if (!(byte & 128)) {
                whole = 1;
                break;
            }
        }
        if (!whole || size - at < head + length) break;
        on_packet(c, data[at], data + at + head, length);
        if (c->state == CLOSED) return size;
        at += head + length;
    }
    return at;
}

static void on_readable(Conn *c) {
    for (;;) {
        int kept = c->part_len;
        if (kept) memcpy(in_buffer, c->part, kept);
        int room = (int)sizeof in_buffer - kept, got;
        if (c->ssl) {
            got = SSL_read(c->ssl, in_buffer + kept, room);
            if (got <= 0) {
                int error = SSL_get_error(c->ssl, got);
                if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) break;
                return lost(c, "closed by the broker");
            }
        } else {
            got = recv(c->fd, in_buffer + kept, room, 0);
            if (got < 0 && errno == EAGAIN) break;
            if (got <= 0) return lost(c, "closed by the broker");
        }
        int size = kept + got, used = on_bytes(c, in_buffer, size);
        if (c->state == CLOSED) return;
        if (used < size) {
            c->part = realloc(c->part, size - used);
            memmove(c->part, in_buffer + used, size - used);
        } else if (c->part) {
            free(c->part);
            c->part = NULL;
        }
        c->part_len = size - used;
        if (!c->ssl && got < room) break;
    }
    if (c->out_len && !flush(c)) return;
    fill(c);
}

static void turn(int64_t wait_ns) {
    static struct epoll_event events[1024];
    struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
    int count = epoll_pwait2(epfd, events, 1024, &wait, NULL);
    for (int i = 0; i < count; i++) {
        Conn *c = events[i].data.ptr;
        if (c->state == OPENING || c->state == HANDSHAKE) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error)
                lost(c, strerror(error));
            else if (c->state == HANDSHAKE || events[i].events & EPOLLOUT)
                opened(c);
            continue;
        }
        if (events[i].events & EPOLLOUT && flush(c)) fill(c);
        if (c->state != CLOSED && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
    }
}

/* Opens connections [from, upto), at most `at_once` at a time, until all are ready. */
static void open_all(int from, int upto, double limit_s) {
    uint64_t limit = now_ns() + (uint64_t)(limit_s * 1e9);
    int next = from, again = from, target = ready_count + upto - from;
    while (ready_count < target) {
        while (next < upto && opening < at_once) begin(conns + next++);
        if (next == upto && opening < target - ready_count) { /* someone was refused: try again */
            for (; again < upto && opening < at_once; again++)
                if (conns[again].state == CLOSED) begin(conns + again);
            if (again == upto) again = from;
        }
        turn(1000000);
        if (now_ns() > limit) {
            fprintf(stderr, "only %d of %d connections after %.0f s\n", ready_count, target, limit_s);
            exit(8);
        }
    }
}

/* -- modes ------------------------------------------------------------------------------------------------------ */

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void flow(double warm, double seconds, double probe) {
    uint64_t began = now_ns();
    open_all(0, subs, 120);
    open_all(subs, subs + idle, 300);
    uint64_t idle_up = now_ns();
    open_all(subs + idle, conns_count, 120);
    printf("{\"event\": \"ready\", \"connections\": %d, \"connects_s\": %.0f, \"refused\": %lu", conns_count,
           (subs + idle) / ((idle_up - began) / 1e9), refused);
    hist_print("connect_", &connect_latency);
    printf("}\n");
    fflush(stdout);

    uint64_t start = now_ns(), warm_end = start + (uint64_t)(warm * 1e9), end = warm_end + (uint64_t)(seconds * 1e9);
    uint64_t since = 0, now, sent = 0, pinged = 0, delivered_before = 0;
    double cpu_before = 0;
    Conn *prober = conns + conns_count - 1;
    Conn *first_pub = conns + subs + idle, *devices = conns + subs;
    zero_ns = start;
    while ((now = now_ns()) < end) {
        if (!measuring && now >= warm_end) {
            measuring = 1;
            since = now;
            published = 0;
            delivered_before = delivered;
            cpu_before = cpu_s();
            memset(&latency, 0, sizeof latency);
        }
        int64_t wait = 100000000;
        if (rate > 0) {
            uint64_t due = (uint64_t)((now - start) / 1e9 * rate);
            for (; sent < due; sent++) {
                Conn *c = first_pub + sent % pubs;
                publish(c, start + (uint64_t)(sent * 1e9 / rate));
                flush(c);
            }
            wait = (int64_t)(start + (uint64_t)((sent + 1) * 1e9 / rate)) - (int64_t)now_ns();
        }
        if (idle && keepalive) {
            uint64_t due = (uint64_t)((now - start) / 1e9 * idle / keepalive);
            for (; pinged < due; pinged++, pings++) {
                put(devices + pinged % idle, "\xc0\0", 2);
                flush(devices + pinged % idle);
            }
            if (wait > 5000000) wait = 5000000;
        }
        if (probe > 0 && probes < (uint64_t)((now - start) / 1e9 * probe)) {
            char topic[48];
            sprintf(topic, "idle/%d/c", (int)(random() % idle));
            put_publish(prober, topic, 1, 0, now_ns());
            flush(prober);
            probes++;
        }
        if (!qos && rate <= 0 && pubs) {
            wait = 100000000;
            for (int i = 0; i < pubs; i++) {
                fill(first_pub + i);
                if (!first_pub[i].out_len) wait = 0;
            }
        }
        turn(wait < 0 ? 0 : wait);
    }
    double took = (now_ns() - since) / 1e9;
    printf("{\"event\": \"flow\", \"published_s\": %.0f, \"delivered_s\": %.0f, \"gaps\": %lu, \"repeats\": %lu",
           published / took, (delivered - delivered_before) / took, gaps, repeats);
    hist_print("", &latency);
    if (probe > 0) {
        printf(", \"probes\": %lu, \"probed\": %lu", probes, probed);
        hist_print("probe_", &probe_latency);
    }
    printf(", \"pings\": %lu, \"pongs\": %lu, \"load_cpu\": %.2f}\n", pings, pongs, (cpu_s() - cpu_before) / took);
}

/* Publishes one message to each 100th session that will return. */
static void run_feed(double seconds) {
    uint64_t began = now_ns(), limit = began + (uint64_t)(seconds * 1e9);
    int count = sessions / 100, sent = 0;
    Conn *c = conns;
    measuring = 1;
    open_all(0, 1, 60);
    while (published < (uint64_t)count && now_ns() < limit) {
        for (; sent < count && c->inflight < 50; sent++, c->inflight++) {
            char topic[48];
            sprintf(topic, "s/%d/c", first_session + (int)((int64_t)sent * 100 * of_sessions / sessions));
            put_publish(c, topic, 1, sent, now_ns());
        }
        if (c->out_len) flush(c);
        turn(1000000);
    }
    printf("{\"event\": \"fed\", \"messages\": %lu, \"seconds\": %.2f}\n", published, (now_ns() - began) / 1e9);
}

static void run_sessions(double seconds, uint64_t expect) {
    uint64_t began = now_ns(), limit = began + (uint64_t)(seconds * 1e9);
    zero_ns = began;
    measuring = 1;
    if (!returning) {
        open_all(0, conns_count, seconds);
        while (done_count < conns_count && now_ns() < limit) turn(1000000);
        printf("{\"event\": \"created\", \"sessions\": %d, \"seconds\": %.2f, \"refused\": %lu", done_count,
               (now_ns() - began) / 1e9, refused);
    } else {
        open_all(0, conns_count, seconds);
        uint64_t all = now_ns();
        while (delivered < expect && now_ns() < limit) turn(1000000);
        printf("{\"event\": \"returned\", \"sessions\": %d, \"connack_s\": %.2f, \"drained_s\": %.2f, "
               "\"messages\": %lu, \"refused\": %lu",
               ready_count, (all - began) / 1e9, (now_ns() - began) / 1e9, delivered, refused);
    }
    hist_print("connect_", &connect_latency);
    printf("}\n");
}

static int arguments_count;
static char **arguments;

static const char *text_of(const char *name, const char *otherwise) {
    size_t size = strlen(name);
    for (int i = 3; i < arguments_count; i++)
        if (!strncmp(arguments[i], name, size) && arguments[i][size] == '=') return arguments[i] + size + 1;
    return otherwise;
}

static double number_of(const char *name, double otherwise) {
    const char *text = text_of(name, NULL);
    return text ? atof(text) : otherwise;
}

int main(int count, char **values) {
    if (count < 3) {
        fprintf(stderr, "usage: load HOST PORT [name=value ...], see the head of load.c\n");
        return 2;
    }
    arguments_count = count;
    arguments = values;
    host = values[1];
    port = atoi(values[2]);
    mode = text_of("mode", "flow");
    pubs = number_of("pubs", 0);
    subs = number_of("subs", 0);
    topics = number_of("topics", 1);
    filters = number_of("filters", 1);
    qos = number_of("qos", 0);
    subqos = number_of("subqos", qos);
    payload = number_of("payload", 100);
    window = number_of("window", 50);
    walk = number_of("walk", 0);
    retain = number_of("retain", 0);
    clean = number_of("clean", 1);
    idle = number_of("idle", 0);
    keepalive = number_of("keepalive", 60);
    at_once = number_of("at_once", 200);
    rate = number_of("rate", 0);
    style = text_of("style", "exact");
    first_session = number_of("first", 0);
    returning = !strcmp(mode, "return");
    double probe = number_of("probe", 0);
    if (payload < 16) payload = 16;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (number_of("tls", 0)) {
        tls_context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                          SSL_MODE_RELEASE_BUFFERS);
    }
    epfd = epoll_create1(0);
    if (strcmp(mode, "flow")) {
        sessions = conns_count = number_of("count", 1);
        if (!strcmp(mode, "feed")) conns_count = 1;
        of_sessions = number_of("of", sessions);
    } else {
        conns_count = subs + idle + pubs + (probe > 0);
    }
    conns = calloc(conns_count, sizeof *conns);
    for (int i = 0; i < conns_count; i++) {
        Conn *c = conns + i;
        if (!strcmp(mode, "feed"))
            c->role = PUB;
        else if (sessions)
            c->role = SESSION, c->index = i;
        else if (i < subs)
            c->role = SUB, c->index = i;
        else if (i < subs + idle)
            c->role = IDLE, c->index = i - subs;
        else if (i < subs + idle + pubs)
            c->role = PUB, c->index = i - subs - idle, c->name = c->index;
        else
            c->role = PROBE;
    }
    if (!strcmp(mode, "feed"))
        run_feed(number_of("seconds", 600));
    else if (sessions)
        run_sessions(number_of("seconds", 600), number_of("expect", 0));
    else
        flow(number_of("warm", 1), number_of("seconds", 5), probe);
    return 0;
}
