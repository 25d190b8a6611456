/* A disk that fails or is slow, for one process: preloaded, it stands between the log and the kernel.
 *
 * While the file $FAULTY_DISK.fail exists, every write at an offset and every fdatasync fails with EIO; while $FAULTY_DISK.slow
 * exists, every fdatasync takes 300 ms longer. Nothing else the process does with files goes through these calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int is_on(const char *what) {
    const char *base = getenv("FAULTY_DISK");
    char path[4096];
    if (base == NULL || snprintf(path, sizeof path, "%s.%s", base, what) >= (int)sizeof path) return 0;
    int kept = errno, on = access(path, F_OK) == 0;
    errno = kept;
    return on;
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (is_on("slow")) usleep(300 * 1000);
    if (is_on("fail")) { errno = EIO; return -1; }
    return real(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (real == NULL) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (is_on("fail")) { errno = EIO; return -1; }
    return real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}
