/* Memory: mappings of every kind, protections, the heap, code that changes itself. */
#define _GNU_SOURCE
#include "arch.h"
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static void put_code(void *at, int n)
{
    write_code(at, n);
    __builtin___clear_cache((char *)at, (char *)at + 8);
}

static int call(void *f) { return ((int (*)(void))f)(); }

static uint32_t *shared_code;
static volatile int stop, bad;
static void *runner(void *arg)
{
    (void)arg;
    while (!stop) {
        int v = call(shared_code);
        if (v < 0 || v > 2000)
            bad = 1;
    }
    return 0;
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    const int anon = MAP_PRIVATE | MAP_ANONYMOUS;
    char *p = mmap(0, 16 * 4096, rw, anon, -1, 0);
    CHECK(p != MAP_FAILED);
    memset(p, 0x5a, 16 * 4096);
    CHECK(mmap(p + 4096, 4096, rw, anon | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
    CHECK(mmap(p + 4096, 4096, rw, anon | MAP_FIXED, -1, 0) == p + 4096 && p[4096] == 0 && p[8192] == 0x5a);
    CHECK(munmap(p + 8192, 4096) == 0);
    char *q = mmap(p + 8192, 4096, rw, anon, -1, 0);
    CHECK(q == p + 8192);
    char *r = mremap(p, 16 * 4096, 64 * 4096, MREMAP_MAYMOVE);
    CHECK(r != MAP_FAILED || errno == EFAULT);
    if (r == MAP_FAILED)
        r = p;
    CHECK(mremap(r + 12 * 4096, 4 * 4096, 2 * 4096, 0) == r + 12 * 4096);
    char *big = mmap(0, 4096, rw, anon, -1, 0);
    big[5] = 9;
    big = mremap(big, 4096, 4096 * 1024, MREMAP_MAYMOVE);
    CHECK(big != MAP_FAILED && big[5] == 9 && big[4096 * 1023] == 0);
    CHECK(madvise(big, 4096, MADV_DONTNEED) == 0 && big[5] == 0);
    if (sizeof(long) == 8)
        CHECK(mprotect((void *)(long)0x3f00000000, 4096, rw) == -1 && errno == ENOMEM);
    CHECK(mmap((void *)8192, 4096, rw, anon | MAP_FIXED, -1, 0) == MAP_FAILED);
    CHECK(munmap((void *)1, 4096) == -1 && errno == EINVAL);

    char *end = sbrk(0);
    CHECK(sbrk(1 << 20) == end);
    end[1 << 19] = 1;
    CHECK(sbrk(-(1 << 20)) == end + (1 << 20) && sbrk(0) == end);

    int fd = memfd_create("x", 0);
    CHECK(ftruncate(fd, 8192) == 0);
    char *m = mmap(0, 8192, rw, MAP_SHARED, fd, 0), *n = mmap(0, 8192, rw, MAP_SHARED, fd, 0);
    m[7000] = 42;
    CHECK(n[7000] == 42);
    if (fork() == 0) {
        m[1] = 43;
        _exit(0);
    }
    wait(0);
    CHECK(n[1] == 43);
    int id = shmget(IPC_PRIVATE, 10000, IPC_CREAT | 0600);
    if (id >= 0) {
        char *s = shmat(id, 0, 0);
        CHECK(s != (void *)-1);
        s[9999] = 1;
        CHECK(shmdt(s) == 0);
        shmctl(id, IPC_RMID, 0);
    }

    /* Code: written, changed, under a second mapping, in a page that loses its rights. */
    uint32_t *code = mmap(0, 8192, rw | PROT_EXEC, anon, -1, 0);
    for (int i = 0; i < 1000; i++) {
        put_code(code + i % 100 * 2, i);
        CHECK(call(code + i % 100 * 2) == i);
    }
    for (int i = 0; i < 100; i++) {
        change_code((char *)code, i);
        FENCE_CODE();
        CHECK(call(code) == i);
    }
    /* An instruction across two pages. */
    char *cross = (char *)code + 4094;
    put_code(cross, 55);
    CHECK(call(cross) == 55);
    put_code(cross, 66);
    CHECK(call(cross) == 66);
    int cfd = memfd_create("code", 0);
    CHECK(ftruncate(cfd, 4096) == 0);
    uint32_t *w = mmap(0, 4096, rw, MAP_SHARED, cfd, 0);
    uint32_t *x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, cfd, 0);
    for (int i = 0; i < 10; i++) {
        put_code(w, i);
        __builtin___clear_cache((char *)x, (char *)(x + 2));
        CHECK(call(x) == i);
    }
#ifndef __riscv
    /* Code that changes itself, a call of the system that writes into code, code beside data. */
    static const unsigned char self[] = {
        0xc6, 0x05, 0, 0, 0, 0, 7, /* movb $7, (the number below) */
        0xb8, 1, 0, 0, 0,          /* mov eax, 1 */
        0xc3,
    };
    memcpy(code, self, sizeof self);
    int32_t place = sizeof(long) == 8 ? 8 - 7 : (int32_t)(uintptr_t)code + 8;
    memcpy((char *)code + 2, &place, 4);
    CHECK(call(code) == 7);
    ((char *)code)[8] = 1;
    CHECK(call(code) == 7);
    int tube[2];
    CHECK(pipe(tube) == 0);
    put_code(code, 3);
    CHECK(call(code) == 3 && write(tube[1], "\x09", 1) == 1 && read(tube[0], (char *)code + 1, 1) == 1);
    CHECK(call(code) == 9);
    for (int i = 0; i < 2000; i++) {
        code[100]++;
        CHECK(call(code) == 9);
    }
#endif
    /* Another file at the same address. */
    for (int i = 0; i < 10; i++) {
        uint32_t *y = mmap(code, 4096, rw, anon | MAP_FIXED, -1, 0);
        put_code(y, i + 100);
        CHECK(mprotect(y, 4096, PROT_READ | PROT_EXEC) == 0);
        CHECK(call(y) == i + 100);
    }
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(mprotect(code, 4096, PROT_READ) == 0);
        call(code);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == 11);

    /* One thread runs what another changes. */
    shared_code = mmap(0, 4096, rw | PROT_EXEC, anon, -1, 0);
    put_code(shared_code, 0);
    pthread_t t;
    pthread_create(&t, 0, runner, 0);
    for (int i = 0; i < 2000; i++) {
        change_code((char *)shared_code, i);
        __builtin___clear_cache((char *)shared_code, (char *)(shared_code + 1));
    }
    stop = 1;
    pthread_join(t, 0);
    CHECK(!bad && call(shared_code) == 1999);
    puts("memory ok");
    return 0;
}
