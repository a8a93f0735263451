/* Traces what runs already: attaching, seizing, interrupting, group stops, what waitid tells; calls that are changed or left out. */
#define _GNU_SOURCE
#include "check.h"
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif
#define STOPPED(signal, event) ((event) << 16 | (signal) << 8 | 0x7f)

static volatile long word = 5;

static int wait_for(pid_t p)
{
    int status = -1;
    CHECK(waitpid(p, &status, __WALL) == p);
    return status;
}

static void go(int how, pid_t p, long data) { CHECK(ptrace(how, p, 0, (void *)data) == 0); }

static void on_signal(int n) { word += n; }

/* A child that runs: it waits in a system call, or turns round. */
static pid_t runs(int spins)
{
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t p = fork();
    if (p == 0) {
        signal(SIGUSR1, on_signal);
        CHECK(write(ready[1], "x", 1) == 1);
        while (word != 77)
            if (!spins)
                poll(0, 0, 20);
        _exit(6);
    }
    char c;
    CHECK(p > 0 && read(ready[0], &c, 1) == 1);
    close(ready[0]);
    close(ready[1]);
    return p;
}

static void attaches(int spins)
{
    pid_t p = runs(spins);
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == -1 && errno == ESRCH);
    CHECK(ptrace(PTRACE_ATTACH, p, 0, 0) == 0);
    CHECK(wait_for(p) == STOPPED(SIGSTOP, 0));
    CHECK(ptrace(PTRACE_ATTACH, p, 0, 0) == -1 && errno == EPERM);
    CHECK(ptrace(PTRACE_INTERRUPT, p, 0, 0) == -1 && errno == EIO);
    siginfo_t info;
    CHECK(ptrace(PTRACE_GETSIGINFO, p, 0, &info) == 0 && info.si_signo == SIGSTOP);
    errno = 0;
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == 5 && errno == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(kill(p, SIGUSR1) == 0);
    CHECK(wait_for(p) == STOPPED(SIGUSR1, 0));
    uint64_t mask = 1;
    CHECK(ptrace(PTRACE_GETSIGMASK, p, (void *)8, &mask) == 0 && mask == 0);
    go(PTRACE_CONT, p, SIGUSR1);
    /* It would stop before its handler has run. */
    usleep(50000);
    CHECK(kill(p, SIGSTOP) == 0);
    CHECK(wait_for(p) == STOPPED(SIGSTOP, 0));
    CHECK(ptrace(PTRACE_GETSIGINFO, p, 0, &info) == 0 && info.si_code == SI_USER && info.si_pid == getpid());
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == 5 + SIGUSR1);
    CHECK(ptrace(PTRACE_POKEDATA, p, (void *)&word, (void *)77L) == 0);
    go(PTRACE_DETACH, p, 0);
    CHECK(WEXITSTATUS(wait_for(p)) == 6);
}

static void seizes(int spins)
{
    pid_t p = runs(spins);
    CHECK(ptrace(PTRACE_SEIZE, p, (void *)1, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_SEIZE, p, 0, (void *)(long)PTRACE_O_TRACEEXIT) == 0);
    CHECK(waitpid(p, 0, WNOHANG | __WALL) == 0);
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == -1 && errno == ESRCH);
    go(PTRACE_INTERRUPT, p, 0);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    CHECK(waitid(P_PID, p, &info, WSTOPPED | WNOWAIT | __WALL) == 0);
    CHECK(info.si_pid == p && info.si_code == CLD_TRAPPED && info.si_status == (SIGTRAP | PTRACE_EVENT_STOP << 8));
    CHECK(wait_for(p) == STOPPED(SIGTRAP, PTRACE_EVENT_STOP));
    go(PTRACE_CONT, p, 0);
    /* A group stop, as which SIGSTOP is not told of before it is let through. */
    CHECK(kill(p, SIGSTOP) == 0);
    CHECK(wait_for(p) == STOPPED(SIGSTOP, 0));
    go(PTRACE_CONT, p, SIGSTOP);
    CHECK(wait_for(p) == STOPPED(SIGSTOP, PTRACE_EVENT_STOP));
    go(PTRACE_LISTEN, p, 0);
    usleep(20000);
    CHECK(waitpid(p, 0, WNOHANG | __WALL) == 0);
    go(PTRACE_INTERRUPT, p, 0);
    CHECK(wait_for(p) == STOPPED(SIGSTOP, PTRACE_EVENT_STOP));
    go(PTRACE_LISTEN, p, 0);
    CHECK(kill(p, SIGCONT) == 0);
    CHECK(wait_for(p) == STOPPED(SIGTRAP, PTRACE_EVENT_STOP));
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == STOPPED(SIGCONT, 0));
    CHECK(ptrace(PTRACE_LISTEN, p, 0, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_POKEDATA, p, (void *)&word, (void *)77L) == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == STOPPED(SIGTRAP, PTRACE_EVENT_EXIT));
    unsigned long message = 0;
    CHECK(ptrace(PTRACE_GETEVENTMSG, p, 0, &message) == 0 && message == 6 << 8);
    go(PTRACE_CONT, p, 0);
    memset(&info, 0, sizeof info);
    CHECK(waitid(P_PID, p, &info, WEXITED | __WALL) == 0);
    CHECK(info.si_pid == p && info.si_code == CLD_EXITED && info.si_status == 6);
    CHECK(ptrace(PTRACE_CONT, p, 0, 0) == -1 && errno == ESRCH);
}

/* As strace starts its programs. */
static void seizes_what_is_stopped(void)
{
    pid_t p = fork();
    if (p == 0) {
        raise(SIGSTOP);
        _exit(9);
    }
    int status;
    CHECK(waitpid(p, &status, WUNTRACED) == p && status == STOPPED(SIGSTOP, 0));
    CHECK(ptrace(PTRACE_SEIZE, p, 0, (void *)(long)PTRACE_O_TRACESYSGOOD) == 0);
    CHECK(kill(p, SIGCONT) == 0);
    for (;;) {
        status = wait_for(p);
        if (!WIFSTOPPED(status))
            break;
        if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) == SIGSTOP)
            go(PTRACE_LISTEN, p, 0);
        else
            go(PTRACE_CONT, p, status >> 16 ? 0 : WSTOPSIG(status));
    }
    CHECK(WEXITSTATUS(status) == 9);
}

static void *turns(void *unused)
{
    while (word != 77)
        usleep(1000);
    return unused;
}

/* All threads stop with their process, and go on with it. */
static void threads_stop_together(void)
{
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t p = fork();
    if (p == 0) {
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, turns, 0) == 0);
        CHECK(write(ready[1], "x", 1) == 1);
        pthread_join(thread, 0);
        _exit(10);
    }
    char c;
    CHECK(read(ready[0], &c, 1) == 1);
    /* The other thread's number: the next one that is in the process. */
    pid_t other = 0;
    for (pid_t t = p + 1; t < p + 200 && !other; t++)
        if (syscall(SYS_tgkill, p, t, 0) == 0)
            other = t;
    CHECK(other != 0);
    CHECK(ptrace(PTRACE_SEIZE, p, 0, 0) == 0 && ptrace(PTRACE_SEIZE, other, 0, 0) == 0);
    CHECK(syscall(SYS_tgkill, p, other, SIGSTOP) == 0);
    int status = wait_for(other);
    CHECK(status == STOPPED(SIGSTOP, 0));
    go(PTRACE_CONT, other, SIGSTOP);
    CHECK(wait_for(other) == STOPPED(SIGSTOP, PTRACE_EVENT_STOP));
    CHECK(wait_for(p) == STOPPED(SIGSTOP, PTRACE_EVENT_STOP));
    go(PTRACE_LISTEN, p, 0);
    go(PTRACE_LISTEN, other, 0);
    CHECK(kill(p, SIGCONT) == 0);
    CHECK(wait_for(p) == STOPPED(SIGTRAP, PTRACE_EVENT_STOP));
    CHECK(wait_for(other) == STOPPED(SIGTRAP, PTRACE_EVENT_STOP));
    CHECK(ptrace(PTRACE_POKEDATA, p, (void *)&word, (void *)77L) == 0);
    int ends = 0;
    go(PTRACE_CONT, p, 0);
    go(PTRACE_CONT, other, 0);
    while (ends < 2) {
        pid_t who = waitpid(-1, &status, __WALL);
        if (WIFSTOPPED(status)) {
            go(PTRACE_CONT, who, WSTOPSIG(status) == SIGCONT ? SIGCONT : 0);
        } else {
            CHECK(who == other || WEXITSTATUS(status) == 10);
            ends++;
        }
    }
}

/* A call that is made another one, and one that is not made. */
static void calls_are_changed(void)
{
    pid_t p = fork();
    if (p == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        long first = syscall(SYS_getppid), second = syscall(SYS_getppid);
        _exit(first == getpid() && second < 0 ? 11 : 12);
    }
    CHECK(wait_for(p) == STOPPED(SIGSTOP, 0));
    CHECK(ptrace(PTRACE_SETOPTIONS, p, 0, (void *)(long)PTRACE_O_TRACESYSGOOD) == 0);
    int seen = 0, status;
    for (;;) {
        go(PTRACE_SYSCALL, p, 0);
        status = wait_for(p);
        if (!WIFSTOPPED(status))
            break;
        struct __ptrace_syscall_info info;
        CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, p, (void *)sizeof info, &info) > 0);
        if (info.op != 1 || info.entry.nr != SYS_getppid)
            continue;
        unsigned long regs[64];
        struct iovec v = { regs, sizeof regs };
        CHECK(ptrace(PTRACE_GETREGSET, p, (void *)NT_PRSTATUS, &v) == 0);
        long number = seen++ ? -1 : SYS_getpid;
#if defined(__riscv)
        regs[17] = number;
        if (number == -1)
            regs[10] = -ENOSYS;
#elif defined(__x86_64__)
        regs[15] = number;
#else
        regs[11] = number;
#endif
        CHECK(ptrace(PTRACE_SETREGSET, p, (void *)NT_PRSTATUS, &v) == 0);
    }
    CHECK(seen == 2 && WIFEXITED(status) && WEXITSTATUS(status) == 11);
}

int main(void)
{
    attaches(0);
    attaches(1);
    seizes(0);
    seizes(1);
    seizes_what_is_stopped();
    threads_stop_together();
    calls_are_changed();
    CHECK(ptrace(PTRACE_ATTACH, getpid(), 0, 0) == -1 && errno == EPERM);
    CHECK(ptrace(PTRACE_ATTACH, 0x7ffffff0, 0, 0) == -1 && errno == ESRCH);
    puts("attach ok");
    return 0;
}
