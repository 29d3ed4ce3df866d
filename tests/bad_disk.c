/* A disk that fails where it is told to, below the C library: `LD_PRELOAD` puts these functions before its own.
   Only what is asked of files below a folder counts (`disk_watch`). What is on it is not synced, which saves time. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MOST_FILES 4096
#define LONGEST 400
#define LOG_BYTES (8 << 20)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char folder[LONGEST], kinds_armed[32], name_armed[LONGEST], names[MOST_FILES][LONGEST], *calls;
static size_t logged;
static int error_armed, lasts, nth, seen, recording;
static long asked, most;

/* The folder that counts, "" for none; after so many calls the process ends with 99. */
void disk_watch(const char *root, long limit) {
    snprintf(folder, sizeof folder, "%s", root);
    asked = 0;
    most = limit;
}

/* Records every call as a line, kind and name. */
void disk_record(void) {
    if (!calls) calls = malloc(LOG_BYTES);
    logged = 0;
    recording = 1;
}

const char *disk_calls(void) {
    recording = 0;
    calls[logged] = 0;
    return calls;
}

/* The `n`-th call of this kind for this name fails, or all from it on. */
void disk_break(const char *kind, const char *name, int n, int error, int for_good) {
    snprintf(kinds_armed, sizeof kinds_armed, "%s", kind);
    snprintf(name_armed, sizeof name_armed, "%s", name);
    nth = n, error_armed = error, lasts = for_good, seen = 0;
}

int disk_mend(void) {
    error_armed = 0;
    return seen >= nth;
}

/* A path below the folder without that; `.NAME.123.tmp`, as files are called before they have their names, as `NAME~`. */
static int name_of(const char *path, char *name) {
    size_t length = strlen(folder);
    if (!length || !path || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return 0;
    path += length + (path[length] == '/');
    snprintf(name, LONGEST, "%s", path);
    char *last = strrchr(name, '/');
    last = last ? last + 1 : name;
    size_t n = strlen(last);
    if (n > 5 && last[0] == '.' && !strcmp(last + n - 4, ".tmp")) {
        last[n - 4] = 0;
        char *process = strrchr(last, '.');
        if (process && process != last) {
            strcpy(process, "~");
            memmove(last, last + 1, strlen(last));
        }
    }
    return 1;
}

/* Whether a call fails; sets errno. */
static int fails(const char *kind, const char *path, int is_name) {
    char name[LONGEST];
    if (is_name ? !*folder : !name_of(path, name)) return 0;
    if (is_name) snprintf(name, LONGEST, "%s", path);
    pthread_mutex_lock(&mutex);
    if (++asked > most) _exit(99);
    if (recording && logged + LONGEST + 40 < LOG_BYTES)
        logged += sprintf(calls + logged, "%s %s\n", kind, name);
    int failed = 0;
    if (error_armed && !strcmp(kind, kinds_armed) && !strcmp(name, name_armed)) {
        seen++;
        failed = seen == nth || (lasts && seen > nth);
    }
    int error = error_armed;
    pthread_mutex_unlock(&mutex);
    if (failed) errno = error;
    return failed;
}

static int fails_by(const char *kind, int file) {
    return file >= 0 && file < MOST_FILES && names[file][0] && fails(kind, names[file] + 1, 1);
}

static void opened(int file, const char *path) {
    if (file < 0 || file >= MOST_FILES) return;
    char name[LONGEST];
    names[file][0] = 0;
    if (name_of(path, name)) snprintf(names[file], LONGEST, "=%.*s", LONGEST - 2, name);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (fails(flags & O_CREAT ? "create" : "open", path, 0)) return -1; \
        int file = real(path, flags, mode); \
        opened(file, path); \
        return file; \
    }
OPEN(open)
OPEN(open64)

#define BY_PATH(kind, name) \
    int name(const char *path) { \
        REAL(int, #name, const char *); \
        return fails(kind, path, 0) ? -1 : real(path); \
    }
BY_PATH("unlink", unlink)
BY_PATH("rmdir", rmdir)

#define WITH(kind, name, type) \
    int name(const char *path, type value) { \
        REAL(int, #name, const char *, type); \
        return fails(kind, path, 0) ? -1 : real(path, value); \
    }
WITH("mkdir", mkdir, mode_t)
WITH("chmod", chmod, mode_t)
WITH("stat", stat, struct stat *)
WITH("stat", lstat, struct stat *)
WITH("stat", stat64, struct stat64 *)
WITH("stat", lstat64, struct stat64 *)
WITH("statvfs", statvfs64, struct statvfs64 *)

#define TO(kind, name) \
    int name(const char *from, const char *to) { \
        REAL(int, #name, const char *, const char *); \
        return fails(kind, to, 0) ? -1 : real(from, to); \
    }
TO("rename", rename)
TO("link", link)

#define BY_FILE(kind, type, name, declared, given) \
    type name declared { \
        REAL(type, #name, TYPES_##name); \
        return fails_by(kind, file) ? -1 : real given; \
    }
#define TYPES_read int, void *, size_t
#define TYPES_write int, const void *, size_t
#define TYPES_pread int, void *, size_t, off_t
#define TYPES_pread64 int, void *, size_t, off64_t
#define TYPES_fstat64 int, struct stat64 *
#define TYPES_fchmod int, mode_t
#define TYPES_flock int, int
#define TYPES_ftruncate64 int, off64_t
BY_FILE("read", ssize_t, read, (int file, void *to, size_t n), (file, to, n))
BY_FILE("write", ssize_t, write, (int file, const void *from, size_t n), (file, from, n))
BY_FILE("read", ssize_t, pread, (int file, void *to, size_t n, off_t at), (file, to, n, at))
BY_FILE("read", ssize_t, pread64, (int file, void *to, size_t n, off64_t at), (file, to, n, at))
BY_FILE("stat", int, fstat64, (int file, struct stat64 *to), (file, to))
BY_FILE("chmod", int, fchmod, (int file, mode_t mode), (file, mode))
BY_FILE("flock", int, flock, (int file, int how), (file, how))
BY_FILE("truncate", int, ftruncate64, (int file, off64_t size), (file, size))

int fsync(int file) {
    REAL(int, "fsync", int);
    if (file >= 0 && file < MOST_FILES && names[file][0]) return fails_by("fsync", file) ? -1 : 0;
    return real(file);
}

int close(int file) {
    REAL(int, "close", int);
    int failed = fails_by("close", file), error = errno;
    if (file >= 0 && file < MOST_FILES) names[file][0] = 0;
    int answer = real(file);
    if (failed) errno = error;
    return failed ? -1 : answer;
}

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    return fails("list", path, 0) ? NULL : real(path);
}
