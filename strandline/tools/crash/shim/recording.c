/* Appending to the record file: one system call a record, so that a kill leaves whole records
 * and so that a watching child can append as well. */
#include "shim.h"

#include <string.h>

#define MOST_PARTS 1024

/* Append a head and the first `bytes` of a payload. A record that cannot be written ends the
 * process: a recording with a hole is worse than none. */
void record_append(struct head head, const struct iovec *payload, int parts, size_t bytes) {
    static struct iovec all[MOST_PARTS + 1];
    int error = errno;
    if (shim.record < 0) {
        return;
    }
    head.size = (uint32_t)(sizeof head + bytes);
    head.thread = (uint32_t)RAW(SYS_gettid);
    all[0] = (struct iovec){&head, sizeof head};
    int used = 1;
    size_t left = bytes;
    for (int i = 0; i < parts && left > 0 && used <= MOST_PARTS; i++) {
        size_t length = payload[i].iov_len < left ? payload[i].iov_len : left;
        all[used++] = (struct iovec){payload[i].iov_base, length};
        left -= length;
    }
    if (left > 0 || RAW(SYS_writev, shim.record, all, used) != (long)head.size) {
        static const char text[] = "strandline shim: the record file cannot be written\n";
        RAW(SYS_write, 2, text, sizeof text - 1);
        shim_die();
    }
    errno = error;
}

/* Append a record that names a path, relative to the root. */
void record_path(struct head head, const char *path) {
    struct iovec payload = {(void *)path, strlen(path)};
    record_append(head, &payload, 1, payload.iov_len);
}

/* Append a record that names two, a null byte between them. */
void record_paths(struct head head, const char *first, const char *second) {
    struct iovec payload[2] = {{(void *)first, strlen(first) + 1}, {(void *)second, strlen(second)}};
    record_append(head, payload, 2, payload[0].iov_len + payload[1].iov_len);
}

void record_unsupported(const char *call, const char *path) {
    if (shim_mode() == ARMED) {
        shim_count_unsupported();
    }
    struct head head = {.type = RECORD_UNSUPPORTED, .length = shim_mode() == WATCHING};
    record_paths(head, call, path);
}
