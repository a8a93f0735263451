/* Threads: start and end, mutexes and conditions, atomics of every kind, load-reserved and store-conditional, robust mutexes. */
#define _GNU_SOURCE
#include "arch.h"
#include "check.h"
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long plain, waiting;
static atomic_long added, xored, swapped;
static _Atomic uint32_t word;
static atomic_int smallest = 1 << 30, largest;
static long reserved;
static __thread int own;

/* A stack whose top is changed by load-reserved and store-conditional alone: what was popped comes back soon, so that a top that
   only looks unchanged would corrupt it. */
struct node {
    struct node *next;
    long busy;
};
#ifdef __riscv
static struct node *top;

static struct node *pop(void)
{
    struct node *n, *next;
    long failed;
    asm volatile("1: lr.d.aq %0, (%3)\n"
                 "   beqz %0, 2f\n"
                 "   ld %1, 0(%0)\n"
                 "   sc.d.rl %2, %1, (%3)\n"
                 "   bnez %2, 1b\n"
                 "2:"
                 : "=&r"(n), "=&r"(next), "=&r"(failed)
                 : "r"(&top)
                 : "memory");
    return n;
}

static void push(struct node *n)
{
    struct node *old;
    long failed;
    asm volatile("1: lr.d.aq %0, (%3)\n"
                 "   sd %0, 0(%2)\n"
                 "   sc.d.rl %1, %2, (%3)\n"
                 "   bnez %1, 1b\n"
                 : "=&r"(old), "=&r"(failed)
                 : "r"(n), "r"(&top)
                 : "memory");
}

#else
/* Top and a count of changes, swapped together. */
static struct {
    struct node *top;
    long changes;
} versioned __attribute__((aligned(2 * sizeof(long))));

static int swap_both(struct node *old, long changes, struct node *new)
{
    char done;
#ifdef __x86_64__
    asm volatile("lock cmpxchg16b %1"
#else
    asm volatile("lock cmpxchg8b %1"
#endif
                 "; sete %0"
                 : "=q"(done), "+m"(versioned), "+a"(old), "+d"(changes)
                 : "b"(new), "c"(changes + 1)
                 : "memory", "cc");
    return done;
}

static struct node *pop(void)
{
    for (;;) {
        long changes = *(volatile long *)&versioned.changes;
        struct node *n = *(struct node *volatile *)&versioned.top;
        if (!n || swap_both(n, changes, n->next))
            return n;
    }
}

static void push(struct node *n)
{
    for (;;) {
        long changes = *(volatile long *)&versioned.changes;
        struct node *old = *(struct node *volatile *)&versioned.top;
        n->next = old;
        if (swap_both(old, changes, n))
            return;
    }
}
#endif

static void *work(void *arg)
{
    long id = (long)arg;
    own = (int)id;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        plain++;
        pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&added, 3);
        atomic_fetch_xor(&xored, i);
        atomic_exchange(&swapped, id);
        uint32_t w = atomic_load(&word);
        while (!atomic_compare_exchange_weak(&word, &w, w + 1))
            ;
#ifdef __riscv
        long v, failed;
        do {
            asm volatile("lr.d.aqrl %0, (%2)\n addi %0, %0, 1\n sc.d.rl %1, %0, (%2)\n"
                         : "=&r"(v), "=&r"(failed)
                         : "r"(&reserved)
                         : "memory");
        } while (failed);
        int x = (int)(id * ROUNDS + i);
        asm volatile("amomin.w zero, %0, (%1)" : : "r"(x), "r"(&smallest) : "memory");
        asm volatile("amomax.w zero, %0, (%1)" : : "r"(x), "r"(&largest) : "memory");
#else
        asm volatile("lock incl %0" : "+m"(reserved) : : "memory");
        int x = (int)(id * ROUNDS + i), seen = smallest;
        while (x < seen && !atomic_compare_exchange_weak(&smallest, &seen, x))
            ;
        seen = largest;
        while (x > seen && !atomic_compare_exchange_weak(&largest, &seen, x))
            ;
#endif
        struct node *n = pop();
        if (n) {
            CHECK(__sync_lock_test_and_set(&n->busy, 1) == 0);
            __sync_lock_release(&n->busy);
            push(n);
        }
    }
    CHECK(own == id);
    pthread_mutex_lock(&mutex);
    waiting++;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
    return (void *)(id * 10);
}

static pthread_mutex_t robust;
static void *dies(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&robust);
    return 0;
}

static sem_t sem;
static volatile sig_atomic_t got;
static void handler(int sig) { (void)sig, got = (int)syscall(SYS_gettid); }
static volatile int tid;
static void *target(void *arg)
{
    (void)arg;
    tid = (int)syscall(SYS_gettid);
    sem_post(&sem);
    while (!got)
        ;
    return 0;
}

int main(void)
{
    static struct node nodes[8];
    for (int i = 0; i < 8; i++)
        push(&nodes[i]);
    pthread_t t[THREADS];
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&t[i], 0, work, (void *)(i + 1)) == 0);
    pthread_mutex_lock(&mutex);
    while (waiting < THREADS)
        pthread_cond_wait(&cond, &mutex);
    pthread_mutex_unlock(&mutex);
    for (long i = 0; i < THREADS; i++) {
        void *r;
        CHECK(pthread_join(t[i], &r) == 0 && r == (void *)((i + 1) * 10));
    }
    CHECK(plain == THREADS * ROUNDS && added == 3 * THREADS * ROUNDS && word == THREADS * ROUNDS);
    CHECK(reserved == THREADS * ROUNDS);
    CHECK(smallest == ROUNDS && largest == THREADS * ROUNDS + ROUNDS - 1);
    CHECK(xored == 0);
    int count = 0;
    while (pop())
        count++;
    CHECK(count == 8);

#ifndef __riscv
    /* Locked operations at addresses that are not aligned, inside a line and across pages. */
    char *room = aligned_alloc(4096, 8192);
    for (int at = 1; at < 8192 - 8; at = at < 100 ? at + 3 : at + 4093 - at % 4093) {
        uint64_t *v = (uint64_t *)(room + at), seen = 5, want = 0x123456789abcdef;
        memcpy(v, &seen, 8);
        CHECK(__sync_val_compare_and_swap(v, seen, want) == 5);
        CHECK(!memcmp(v, &want, 8));
        CHECK(__sync_fetch_and_add((uint32_t *)v, 1) == (uint32_t)want && *(volatile uint32_t *)v == (uint32_t)want + 1);
    }
    for (int at = 4089; at < 4096; at++) {
        uint64_t *v = (uint64_t *)(room + at), seen = 5;
        memcpy(v, &seen, 8);
        CHECK(__sync_val_compare_and_swap(v, 5, 6) == 5 && *(volatile uint64_t *)v == 6);
    }
#endif
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &a);
    pthread_create(&t[0], 0, dies, 0);
    pthread_join(t[0], 0);
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
    CHECK(pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);

    /* A signal to one thread is that thread's. */
    signal(SIGUSR1, handler);
    sem_init(&sem, 0, 0);
    pthread_create(&t[0], 0, target, 0);
    sem_wait(&sem);
    CHECK(pthread_kill(t[0], SIGUSR1) == 0);
    pthread_join(t[0], 0);
    CHECK(got == tid);

    /* Fork in a process with threads. */
    got = 0;
    pthread_create(&t[0], 0, target, 0);
    sem_wait(&sem);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t x;
        pthread_create(&x, 0, dies, 0);
        pthread_join(x, 0);
        _exit(7);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status != 7 << 8)
        printf("the child ended with %#x\n", status);
    CHECK(status == 7 << 8);
    pthread_kill(t[0], SIGUSR1);
    pthread_join(t[0], 0);

    for (int i = 0; i < 200; i++) {
        CHECK(pthread_create(&t[0], 0, dies, 0) == 0);
        pthread_join(t[0], 0);
        if (pthread_mutex_lock(&robust) == EOWNERDEAD)
            pthread_mutex_consistent(&robust);
        pthread_mutex_unlock(&robust);
    }
    puts("threads ok");
    return 0;
}
