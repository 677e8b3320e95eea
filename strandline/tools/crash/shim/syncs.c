/* fsync and fdatasync. The lock is not held while the disk works, so that what other threads
 * write meanwhile is recorded between a sync's beginning and its end: that is not covered. */
#include "shim.h"

static int synchronise(int descriptor, long number, enum kind kind) {
    struct stat about;
    uint32_t node;
    if (!enter_descriptor(NULL, descriptor, &about, &node)) {
        return (int)RAW(number, descriptor);
    }
    int directory = S_ISDIR(about.st_mode);
    struct verdict verdict = shim_turn(directory ? KIND_SYNC_DIRECTORY : kind);
    uint64_t token = ++shim.syncs;
    struct head head = {.type = RECORD_SYNC_BEGIN,
                        .flags = (directory ? FLAG_DIRECTORY : 0) |
                                 (number == SYS_fdatasync ? FLAG_DATA_ONLY : 0),
                        .node = node,
                        .at = token};
    record_append(head, NULL, 0, 0);
    shim_unlock(0);

    int done = -1;
    if (verdict.error != 0) {
        errno = verdict.error;
    } else {
        done = (int)RAW(number, descriptor);
    }

    int error = errno;
    shim_lock();
    if (shim_mode() == ARMED) {
        head.type = RECORD_SYNC_END;
        head.error = (uint16_t)(done < 0 ? error : 0);
        head.flags |= verdict.error != 0 ? FLAG_INJECTED : 0;
        record_append(head, NULL, 0, 0);
    }
    errno = error;
    return shim_unlock(done);
}

EXPORT int fsync(int descriptor) { return synchronise(descriptor, SYS_fsync, KIND_FSYNC); }

EXPORT int fdatasync(int descriptor) {
    return synchronise(descriptor, SYS_fdatasync, KIND_FDATASYNC);
}
