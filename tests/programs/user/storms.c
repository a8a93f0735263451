/* Much of everything at once: children, signals, threads. Arguments: how many children, how many signals. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4 };
static atomic_long handled, queued, ticks;
static long signals;

static void on_queued(int n, siginfo_t *info, void *context)
{
    (void)n, (void)context;
    queued += info->si_value.sival_int;
}

static void on_signal(int n)
{
    (void)n;
    handled++;
}

static void on_tick(int n)
{
    (void)n;
    ticks++;
}

/* All at once, each with a memory of its own; a third ends by a signal, a third has children itself. */
static void children(int count)
{
    pid_t *p = calloc(count, sizeof *p);
    int memory = 1000;
    for (int i = 0; i < count; i++) {
        p[i] = fork();
        CHECK(p[i] >= 0);
        if (p[i] == 0) {
            memory += i;
            if (i % 3 == 1)
                kill(getpid(), SIGKILL);
            if (i % 3 == 2) {
                pid_t q = fork();
                if (q == 0)
                    _exit(memory - i == 1000 ? 5 : 6);
                int status = 0;
                _exit(waitpid(q, &status, 0) == q && WEXITSTATUS(status) == 5 ? 7 : 8);
            }
            _exit(memory % 100);
        }
    }
    for (int i = count - 1; i >= 0; i--) {
        int status;
        CHECK(waitpid(p[i], &status, 0) == p[i]);
        switch (i % 3) {
        case 0: CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (1000 + i) % 100); break;
        case 1: CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); break;
        default: CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        }
    }
    CHECK(memory == 1000);
    free(p);
}

/* To itself: each arrives before the call is over. */
static void to_itself(void)
{
    long before = handled;
    for (long i = 0; i < signals; i++)
        CHECK(raise(SIGUSR1) == 0);
    CHECK(handled == before + signals);
    for (long i = 0; i < signals; i++) {
        union sigval v = { .sival_int = 1 };
        while (sigqueue(getpid(), SIGRTMIN + 1, v) != 0)
            CHECK(errno == EAGAIN);
    }
    CHECK(queued == signals);
}

static pthread_t threads[THREADS];
static pthread_barrier_t all;

/* Threads that signal each other while they count. */
static void *storm(void *number)
{
    long me = (long)number;
    uint64_t sum = 0;
    pthread_barrier_wait(&all);
    for (long i = 0; i < signals; i++) {
        CHECK(pthread_kill(threads[(me + 1 + i % (THREADS - 1)) % THREADS], SIGUSR1) == 0);
        for (int j = 0; j < 100; j++)
            sum += (uint64_t)i * j ^ me;
    }
    pthread_barrier_wait(&all);
    uint64_t again = 0;
    for (long i = 0; i < signals; i++)
        for (int j = 0; j < 100; j++)
            again += (uint64_t)i * j ^ me;
    CHECK(sum == again);
    return 0;
}

static void between_threads(void)
{
    pthread_barrier_init(&all, 0, THREADS);
    long before = handled;
    /* Nobody signals a thread that is not known yet. */
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], 0, storm, (void *)i) == 0);
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    CHECK(handled > before && handled <= before + signals * THREADS);
}

/* A timer that interrupts floating-point work; the result is as without. */
static volatile int length = 200000;

static double work(void)
{
    double x = 1;
    for (int i = 1, n = length; i < n; i++)
        x += 1.0 / i - x / (i + 3);
    return x;
}

static void timer(void)
{
    /* In memory, where it has no more digits than it should. */
    volatile double quiet = work(), now;
    struct itimerval often = { { 0, 200 }, { 0, 200 } }, off = { { 0, 0 }, { 0, 0 } };
    CHECK(setitimer(ITIMER_REAL, &often, 0) == 0);
    for (int i = 0; i < 20; i++) {
        now = work();
        CHECK(now == quiet);
    }
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0 && ticks > 0);
}

int main(int argc, char **argv)
{
    signals = argc > 2 ? atol(argv[2]) : 300;
    signal(SIGUSR1, on_signal);
    signal(SIGALRM, on_tick);
    struct sigaction action = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(SIGRTMIN + 1, &action, 0) == 0);
    children(argc > 1 ? atoi(argv[1]) : 60);
    to_itself();
    between_threads();
    timer();
    puts("storms ok");
    return 0;
}
