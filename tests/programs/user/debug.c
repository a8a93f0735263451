// What a debugger is tried on: a call, a variable that changes, a signal, a second thread, and an end with a code.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

volatile long watched = 1;
volatile long calls;

__attribute__((noinline)) long twice(long n)
{
    calls = calls + 1;
    return n * 2;
}

static void *other(void *unused)
{
    return (void *)twice(21);
}

static void caught(int signal)
{
    watched = signal;
}

int main(void)
{
    pthread_t thread;
    void *result;
    signal(SIGUSR1, caught);
    long first = twice(3);
    watched = first + 1;
    pthread_create(&thread, 0, other, 0);
    pthread_join(thread, &result);
    raise(SIGUSR1);
    printf("%ld %ld %ld\n", first, (long)result, watched);
    return 7;
}
