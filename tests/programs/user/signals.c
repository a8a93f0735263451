/* Signals: faults with exact addresses and contexts that handlers change, masks, queues, restarts, alternate stacks. */
#define _GNU_SOURCE
#include "arch.h"
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last_code;
static void *volatile last_addr;
static char *page;
static sigjmp_buf env;
static volatile int order[16], ordered;

static void fault(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    count++;
    last_code = si->si_code;
    last_addr = si->si_addr;
    CHECK(sig == si->si_signo);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void jump(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    last_code = si->si_code;
    last_addr = si->si_addr;
    siglongjmp(env, sig);
}

/* Skips the instruction that faulted and sets its result. */
static void skip(int sig, siginfo_t *si, void *ctx)
{
    ucontext_t *uc = ctx;
    (void)sig, (void)si;
    CONTEXT_PC(uc) += INSN_LENGTH(CONTEXT_PC(uc));
    CONTEXT_RESULT(uc) = 77;
    count++;
}

static void note(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    order[ordered++] = sig >= SIGRTMIN ? si->si_value.sival_int : sig;
}

static void plain(int sig) { (void)sig, count++; }

static void set(int sig, void (*f)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = { 0 };
    sa.sa_sigaction = f;
    sa.sa_flags = SA_SIGINFO | flags;
    CHECK(sigaction(sig, &sa, 0) == 0);
}

static char stack_of_handler[65536];
static int on_stack;
static void on_alt(int sig)
{
    char here;
    (void)sig;
    on_stack = &here >= stack_of_handler && &here < stack_of_handler + sizeof stack_of_handler;
}

int main(void)
{
    /* A store to a read-only page is made again after the handler has changed the rights. */
    page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    set(SIGSEGV, fault, 0);
    page[123] = 5;
    CHECK(count == 1 && last_code == SEGV_ACCERR && last_addr == page + 123 && page[123] == 5);
    double d = 1.5;
    mprotect(page, 4096, PROT_NONE);
    *(double *)(page + 8) = d * 2;
    CHECK(count == 2 && last_addr == page + 8 && *(double *)(page + 8) == 3.0);

    /* Nothing mapped. */
    munmap(page, 4096);
    set(SIGSEGV, jump, SA_NODEFER);
    if (sigsetjmp(env, 1) == 0) {
        *(volatile char *)page = 1;
        CHECK(0);
    }
    CHECK(last_code == SEGV_MAPERR && last_addr == page);
    if (sigsetjmp(env, 1) == 0) {
        (void)*(volatile long *)(0x10 + ((uintptr_t)1 << (8 * sizeof(long) - 1)));
        CHECK(0);
    }
#if defined(__x86_64__)
    /* That is no address: a general protection fault. */
    CHECK(last_code == SI_KERNEL && last_addr == 0);
#elif defined(__riscv)
    CHECK(last_code == SEGV_MAPERR && (uintptr_t)last_addr == 0x8000000000000010);
#endif
    if (sigsetjmp(env, 1) == 0) {
        ((void (*)(void))16)();
        CHECK(0);
    }
    CHECK(last_addr == (void *)16);
    /* Beyond the end of a file. */
    FILE *f = tmpfile();
    char *m = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fileno(f), 0);
    set(SIGBUS, jump, SA_NODEFER);
    if (sigsetjmp(env, 1) == 0) {
        (void)*(volatile char *)(m + 4096);
        CHECK(0);
    }
    CHECK(last_code == BUS_ADRERR && last_addr == m + 4096);

    /* A handler moves the program counter. */
    set(SIGSEGV, skip, 0);
    set(SIGILL, skip, 0);
    count = 0;
    long result;
    BAD_LOAD(result);
    CHECK(result == 77);
    BAD_INSN(result);
    CHECK(result == 77 && count == 2);

    /* Blocked signals wait; standard ones merge, real-time ones queue in order. */
    sigset_t s, old;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigaddset(&s, SIGRTMIN + 1);
    set(SIGUSR1, note, 0);
    set(SIGRTMIN + 1, note, 0);
    CHECK(sigprocmask(SIG_BLOCK, &s, &old) == 0);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR1);
    for (int i = 100; i < 104; i++) {
        union sigval v = { .sival_int = i };
        CHECK(sigqueue(getpid(), SIGRTMIN + 1, v) == 0);
    }
    CHECK(ordered == 0);
    sigset_t pending;
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR1));
    CHECK(sigprocmask(SIG_SETMASK, &old, 0) == 0);
    CHECK(ordered == 5);
    int seen = 0;
    for (int i = 0; i < 5; i++) {
        if (order[i] != SIGUSR1)
            CHECK(order[i] == 100 + seen++);
    }
    CHECK(seen == 4);

    /* sigsuspend, sigtimedwait. */
    signal(SIGALRM, plain);
    count = 0;
    sigemptyset(&s);
    sigaddset(&s, SIGALRM);
    sigprocmask(SIG_BLOCK, &s, &old);
    struct itimerval it = { .it_value = { 0, 20000 } };
    setitimer(ITIMER_REAL, &it, 0);
    CHECK(sigsuspend(&old) == -1 && errno == EINTR && count == 1);
    setitimer(ITIMER_REAL, &it, 0);
    siginfo_t si;
    CHECK(sigwaitinfo(&s, &si) == SIGALRM && count == 1);
    sigprocmask(SIG_SETMASK, &old, 0);

    /* A read is made again with SA_RESTART, ends with EINTR without. */
    int p[2];
    CHECK(pipe(p) == 0);
    struct sigaction sa = { .sa_handler = plain };
    sigaction(SIGALRM, &sa, 0);
    setitimer(ITIMER_REAL, &it, 0);
    char c;
    CHECK(read(p[0], &c, 1) == -1 && errno == EINTR);
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, 0);
    pid_t pid = fork();
    if (pid == 0) {
        usleep(100000);
        CHECK(write(p[1], "x", 1) == 1);
        _exit(3);
    }
    count = 0;
    setitimer(ITIMER_REAL, &it, 0);
    CHECK(read(p[0], &c, 1) == 1 && c == 'x' && count == 1);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3);

    /* A tight loop is interrupted. */
    setitimer(ITIMER_REAL, &it, 0);
    count = 0;
    while (!count)
        ;

    /* Alternate stack; SA_RESETHAND. */
    stack_t ss = { .ss_sp = stack_of_handler, .ss_size = sizeof stack_of_handler };
    CHECK(sigaltstack(&ss, 0) == 0);
    sa.sa_handler = on_alt;
    sa.sa_flags = SA_ONSTACK | SA_RESETHAND;
    sigaction(SIGUSR2, &sa, 0);
    raise(SIGUSR2);
    CHECK(on_stack);
    sigaction(SIGUSR2, 0, &sa);
    CHECK(sa.sa_handler == SIG_DFL);

    /* Ends by signals are seen by the parent. */
    pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)0 = 1;
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    pid = fork();
    if (pid == 0)
        abort();
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);

    /* Floating point state survives a handler. */
    count = 0;
    double x = 1.25;
#if defined(__riscv)
    asm volatile("" : "+f"(x));
#elif defined(__i386__)
    asm volatile("" : "+t"(x));
#else
    asm volatile("" : "+x"(x));
#endif
    raise(SIGALRM);
    signal(SIGALRM, plain);
    raise(SIGALRM);
    CHECK(x == 1.25 && count >= 1);
    puts("signals ok");
    return 0;
}
