/* Code that runs long enough to be looked at twice: nested loops with branches, recursion, faults and signals in the middle, code
 * that changes beside a loop, threads that wait for each other. */
#define _GNU_SOURCE
#include "arch.h"
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static unsigned __attribute__((noinline)) odd(unsigned n);
static unsigned __attribute__((noinline)) even(unsigned n) { return n == 0 ? 1 : odd(n - 1) + 2; }
static unsigned __attribute__((noinline)) odd(unsigned n) { return n == 0 ? 0 : even(n - 1) + 1; }

/* Steps of Collatz's sequences below n: a loop with a diamond in a loop. */
static unsigned long __attribute__((noinline)) steps(unsigned n)
{
    unsigned long all = 0;
    for (unsigned i = 1; i < n; i++)
        for (unsigned long x = i; x != 1; all++)
            x = x & 1 ? 3 * x + 1 : x / 2;
    return all;
}

static unsigned __attribute__((noinline)) primes(unsigned char *sieve, unsigned n)
{
    unsigned count = 0;
    memset(sieve, 1, n);
    for (unsigned i = 2; i < n; i++) {
        if (!sieve[i])
            continue;
        count++;
        for (unsigned j = 2 * i; j < n; j += i)
            sieve[j] = 0;
    }
    return count;
}

static double __attribute__((noinline)) sums(const float *a, int n)
{
    double even = 0, odd = 0;
    for (int i = 0; i < n; i++) {
        if (i & 1)
            odd += a[i] * 0.5;
        else
            even -= a[i];
        if (even < -1e6)
            even += 1e6;
    }
    return even + odd;
}

static char *guarded;
static volatile int faults, ticks;

static void opened(int s, siginfo_t *i, void *c)
{
    (void)s, (void)c;
    char *page = (char *)((uintptr_t)i->si_addr & ~4095ul);
    CHECK(page >= guarded && page < guarded + 64 * 4096);
    faults++;
    CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
}

/* Everything in registers counts on at each fault. */
static unsigned long __attribute__((noinline)) walk(char *at, int n)
{
    unsigned long a = 1, b = 2, c = 3;
    for (int i = 0; i < n; i++) {
        a += i;
        if (i % 3 == 0)
            b ^= a;
        at[i * 16] = (char)b;
        c += b & 0xff;
        c += at[i * 16] & 1;
    }
    return a + b + c;
}

static void tick(int s) { (void)s, ticks++; }

static volatile int turn;
static void wait_for(int n)
{
    for (int i = 1; turn != n; i++)
        if (i % 1000 == 0)
            sched_yield();
}

static void *partner(void *p)
{
    for (int i = 1; i < 400; i += 2) {
        wait_for(i);
        turn = i + 1;
    }
    return p;
}

int main(void)
{
    static unsigned char sieve[100000];
    static float floats[4096];
    double start = now();
    for (int i = 0; i < 4096; i++)
        floats[i] = (float)(i % 100);
    /* At least long enough for the engine to notice. */
    do {
        CHECK(fib(18) == 2584 && even(300) == 451 && odd(300) == 450);
        CHECK(steps(2000) == 133988);
        CHECK(primes(sieve, 100000) == 9592);
        CHECK(sums(floats, 4096) == -49104.0);
    } while (now() - start < 0.15);

    struct sigaction sa = { 0 };
    sa.sa_sigaction = opened;
    sa.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSEGV, &sa, 0) == 0);
    guarded = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(guarded != MAP_FAILED);
    unsigned long right = walk(guarded, 64 * 256);
    for (int round = 0; round < 30; round++) {
        memset(guarded, 0, 64 * 4096);
        faults = 0;
        CHECK(mprotect(guarded, 64 * 4096, round & 1 ? PROT_READ : PROT_NONE) == 0);
        CHECK(walk(guarded, 64 * 256) == right && faults == 64);
    }

    /* A timer's signals in the middle of a loop that makes no calls. */
    sa = (struct sigaction){ 0 };
    sa.sa_handler = tick;
    CHECK(sigaction(SIGALRM, &sa, 0) == 0);
    struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0 } };
    CHECK(setitimer(ITIMER_REAL, &often, 0) == 0);
    unsigned long turns = 0;
    while (ticks < 40)
        turns += turns & 4 ? 3 : 1;
    CHECK(setitimer(ITIMER_REAL, &never, 0) == 0);

    /* A loop that calls code which changes under it. */
    char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED);
    int (*made)(void) = (int (*)(void))code;
    for (int i = 1; i <= 300; i++) {
        int sum = 0;
        write_code(code, i);
        __builtin___clear_cache(code, code + 8);
        for (int k = 0; k < 200; k++)
            sum += made() + (k & 1);
        CHECK(sum == 200 * i + 100);
    }

    pthread_t t;
    CHECK(pthread_create(&t, 0, partner, 0) == 0);
    for (int i = 0; i < 400; i += 2) {
        wait_for(i);
        turn = i + 1;
    }
    CHECK(pthread_join(t, 0) == 0 && turn == 400);
    printf("hot ok\n");
    return turns == 0;
}
