/* Which file a descriptor or a path is: by device and inode, given a number when first seen.
 *
 * A number is given anew when a file is made, since the inode may be that of a file removed before.
 */
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTSIDE 0

struct entry {
    dev_t device;
    ino_t inode;
    uint32_t node;
    int used;
};

static struct entry *table;
static size_t slots, entries;
static uint32_t last_node;

void nodes_clear(void) {
    free(table);
    table = NULL;
    slots = entries = 0;
    last_node = 0;
}

static struct entry *probe(struct entry *in, size_t size, dev_t device, ino_t inode) {
    size_t at = (size_t)((inode ^ (device << 7)) * 0x9E3779B97F4A7C15u) & (size - 1);
    while (in[at].used && (in[at].device != device || in[at].inode != inode)) {
        at = (at + 1) & (size - 1);
    }
    return &in[at];
}

static struct entry *find(const struct stat *about) {
    if (entries * 2 >= slots) {
        size_t size = slots == 0 ? 256 : slots * 2;
        struct entry *larger = calloc(size, sizeof *larger);
        if (larger == NULL) {
            shim_die();
        }
        for (size_t i = 0; i < slots; i++) {
            if (table[i].used) {
                *probe(larger, size, table[i].device, table[i].inode) = table[i];
            }
        }
        free(table);
        table = larger;
        slots = size;
    }
    return probe(table, slots, about->st_dev, about->st_ino);
}

static uint32_t remember(struct entry *entry, const struct stat *about, uint32_t node) {
    entries += !entry->used;
    *entry = (struct entry){about->st_dev, about->st_ino, node, 1};
    return node;
}

/* Number a file that was made just now. */
uint32_t node_made(const struct stat *about) { return remember(find(about), about, ++last_node); }

/* Number a file below the root that may have been there before. */
uint32_t node_of(const struct stat *about, const char *canonical) {
    struct entry *entry = find(about);
    if (entry->used && entry->node != OUTSIDE) {
        return entry->node;
    }
    remember(entry, about, ++last_node);
    struct head head = {.type = RECORD_SEEN,
                        .flags = S_ISDIR(about->st_mode) ? FLAG_DIRECTORY : 0,
                        .node = last_node};
    record_path(head, path_relative(canonical));
    return last_node;
}

int path_is_below(const char *path) {
    return strncmp(path, shim.root, shim.root_length) == 0 &&
           (path[shim.root_length] == '/' || path[shim.root_length] == '\0');
}

const char *path_relative(const char *canonical) {
    return canonical[shim.root_length] == '/' ? canonical + shim.root_length + 1 : ".";
}

int path_may_be_mapped(const char *path) {
    const char *slash = strrchr(path, '/');
    return strcmp(slash == NULL ? path : slash + 1, shim.mapped) == 0;
}

int path_of_descriptor(int descriptor, char *canonical) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, canonical, PATH_MAX - 1);
    if (length < 0) {
        return 0;
    }
    canonical[length] = '\0';
    return 1;
}

/* Find where a path leads whose last part need not exist, and is not followed. Return whether
 * that is below the root. */
int path_locate(int directory, const char *path, char *canonical) {
    char whole[PATH_MAX];
    size_t length = 0;
    if (path[0] != '/' && directory != AT_FDCWD) {
        if (!path_of_descriptor(directory, whole)) {
            return 0;
        }
        length = strlen(whole);
        whole[length++] = '/';
    }
    if (path[0] == '\0' || length + strlen(path) >= sizeof whole) {
        return 0;
    }
    strcpy(whole + length, path);
    length = strlen(whole);
    while (length > 1 && whole[length - 1] == '/') {
        whole[--length] = '\0';
    }
    char *slash = strrchr(whole, '/');
    const char *name = slash == NULL ? whole : slash + 1;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return realpath(whole, canonical) != NULL && path_is_below(canonical);
    }
    char last[NAME_MAX + 1];
    if (strlen(name) > NAME_MAX) {
        return 0;
    }
    strcpy(last, name);
    if (slash != NULL) {
        slash[slash == whole] = '\0';
    }
    if (realpath(slash == NULL ? "." : whole, canonical) == NULL) {
        return 0;
    }
    length = strlen(canonical);
    if (length + 1 + strlen(last) >= PATH_MAX) {
        return 0;
    }
    if (canonical[length - 1] != '/') {
        canonical[length++] = '/';
    }
    strcpy(canonical + length, last);
    return path_is_below(canonical);
}

static uint32_t node_of_descriptor(int descriptor, const struct stat *about) {
    struct entry *entry = find(about);
    if (entry->used) {
        return entry->node;
    }
    char canonical[PATH_MAX];
    if (!path_of_descriptor(descriptor, canonical) || !path_is_below(canonical)) {
        return remember(entry, about, OUTSIDE);
    }
    return node_of(about, canonical);
}

/* Begin a call on a descriptor. Return 1, the lock taken, if it is a file or directory below the
 * root of an armed process. `call` is NULL for calls that change nothing. */
int enter_descriptor(const char *call, int descriptor, struct stat *about, uint32_t *node) {
    if (shim_mode() == OFF || fstat(descriptor, about) < 0 ||
        !(S_ISREG(about->st_mode) || S_ISDIR(about->st_mode))) {
        return 0;
    }
    shim_lock();
    if (shim_mode() == ARMED) {
        *node = node_of_descriptor(descriptor, about);
        return *node != OUTSIDE ? 1 : shim_unlock(0);
    }
    char canonical[PATH_MAX];
    if (call != NULL && shim_mode() == WATCHING && path_of_descriptor(descriptor, canonical) &&
        path_is_below(canonical) && !path_may_be_mapped(canonical)) {
        record_unsupported(call, path_relative(canonical));
    }
    return shim_unlock(0);
}

/* Begin a call on a path; as `enter_descriptor`. */
int enter_path(const char *call, int directory, const char *path, char *canonical) {
    if (shim_mode() == OFF || path == NULL || !path_locate(directory, path, canonical)) {
        return 0;
    }
    shim_lock();
    if (shim_mode() == ARMED) {
        return 1;
    }
    if (call != NULL && shim_mode() == WATCHING && !path_may_be_mapped(canonical)) {
        record_unsupported(call, path_relative(canonical));
    }
    return shim_unlock(0);
}
