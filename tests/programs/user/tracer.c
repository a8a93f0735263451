/* Traces its own children: system calls, memory, registers, steps, breakpoints, signals, children of children, letting go. */
#define _GNU_SOURCE
#include "check.h"
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long word = 5;
static volatile int reached;

#if defined(__riscv)
#define BREAK 0x00100073u /* ebreak */
#define BREAK_MASK 0xffffffffu
#define PC(regs) (regs)[0]
#define SKIPS 0
#else
#define BREAK 0xccu /* int3 */
#define BREAK_MASK 0xffu
#define SKIPS 1
#if defined(__x86_64__)
#define PC(regs) (regs)[16]
#else
#define PC(regs) (regs)[12]
#endif
#endif

__attribute__((noinline)) static void place(void)
{
    asm volatile("" ::: "memory");
    reached++;
}

static int wait_for(pid_t p)
{
    int status = -1;
    CHECK(waitpid(p, &status, __WALL) == p);
    return status;
}

static void go(int how, pid_t p, int signal) { CHECK(ptrace(how, p, 0, (void *)(long)signal) == 0); }

static pid_t child(void (*body)(void))
{
    pid_t p = fork();
    if (p == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(90);
        raise(SIGSTOP);
        body();
        _exit(91);
    }
    CHECK(p > 0);
    CHECK(wait_for(p) == (SIGSTOP << 8 | 0x7f));
    return p;
}

static long registers(pid_t p, unsigned long *regs, int how)
{
    struct iovec v = { regs, 64 * sizeof(long) };
    CHECK(ptrace(how, p, (void *)NT_PRSTATUS, &v) == 0);
    return v.iov_len;
}

static void body_calls(void)
{
    getppid();
    getppid();
    if (word != 77)
        _exit(92);
    raise(SIGUSR1);
    _exit(4);
}

static void calls_and_memory(void)
{
    pid_t p = child(body_calls);
    CHECK(ptrace(PTRACE_SETOPTIONS, p, 0, (void *)PTRACE_O_TRACESYSGOOD) == 0);
    errno = 0;
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == 5 && errno == 0);
    CHECK(ptrace(PTRACE_POKEDATA, p, (void *)&word, (void *)77L) == 0);
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)16, 0) == -1 && errno == EIO);
    int stops = 0, signals = 0, status;
    for (;;) {
        go(PTRACE_SYSCALL, p, 0);
        status = wait_for(p);
        if (!WIFSTOPPED(status))
            break;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            stops++;
            continue;
        }
        siginfo_t info;
        CHECK(WSTOPSIG(status) == SIGUSR1 && ptrace(PTRACE_GETSIGINFO, p, 0, &info) == 0);
        CHECK(info.si_signo == SIGUSR1 && info.si_code == SI_TKILL && info.si_pid == p);
        signals++;
    }
    /* The end of the call in which it was stopped, two of getppid, what raise does, the last one. */
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4 && signals == 1 && stops >= 8);
    CHECK(ptrace(PTRACE_PEEKDATA, p, (void *)&word, 0) == -1 && errno == ESRCH);
}

static void body_break(void)
{
    place();
    place();
    _exit(reached == 2 ? 5 : 93);
}

static void breakpoints_and_steps(void)
{
    unsigned long regs[64];
    pid_t p = child(body_break);
    long old = ptrace(PTRACE_PEEKTEXT, p, (void *)place, 0);
    long trap = (old & ~(long)BREAK_MASK) | BREAK;
    CHECK(ptrace(PTRACE_POKETEXT, p, (void *)place, (void *)trap) == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == (SIGTRAP << 8 | 0x7f));
    CHECK(registers(p, regs, PTRACE_GETREGSET) >= 17 * (long)sizeof(long));
    CHECK(PC(regs) == (unsigned long)place + SKIPS);
    /* The instruction as it was, alone; then the trap again. */
    CHECK(ptrace(PTRACE_POKETEXT, p, (void *)place, (void *)old) == 0);
    PC(regs) = (unsigned long)place;
    registers(p, regs, PTRACE_SETREGSET);
    go(PTRACE_SINGLESTEP, p, 0);
    CHECK(wait_for(p) == (SIGTRAP << 8 | 0x7f));
    registers(p, regs, PTRACE_GETREGSET);
    CHECK(PC(regs) != (unsigned long)place);
    CHECK(ptrace(PTRACE_POKETEXT, p, (void *)place, (void *)trap) == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == (SIGTRAP << 8 | 0x7f));
    registers(p, regs, PTRACE_GETREGSET);
    CHECK(PC(regs) == (unsigned long)place + SKIPS);
    CHECK(ptrace(PTRACE_POKETEXT, p, (void *)place, (void *)old) == 0);
    PC(regs) = (unsigned long)place;
    registers(p, regs, PTRACE_SETREGSET);
    /* Let go, it ends by itself. */
    go(PTRACE_DETACH, p, 0);
    CHECK(WEXITSTATUS(wait_for(p)) == 5);
}

#if !defined(__riscv)
#include <stddef.h>
#include <sys/user.h>
#define DEBUG(n) (void *)(offsetof(struct user, u_debugreg) + (n) * sizeof(long))

static void body_watch(void)
{
    asm volatile("" ::: "memory");
    long seen = word;
    word = seen + 1;
    place();
    place();
    _exit(word == 6 && reached == 2 ? 9 : 96);
}

static long debug_stop(pid_t p)
{
    siginfo_t info;
    CHECK(wait_for(p) == (SIGTRAP << 8 | 0x7f));
    CHECK(ptrace(PTRACE_GETSIGINFO, p, 0, &info) == 0 && info.si_code == 4);
    return ptrace(PTRACE_PEEKUSER, p, DEBUG(6), 0) & 15;
}

/* What each access to `word` and each arrival at `place` is told of. */
static void debug_registers(void)
{
    unsigned long regs[64];
    pid_t p = child(body_watch);
    CHECK(ptrace(PTRACE_PEEKUSER, p, DEBUG(7), 0) == 0);
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(4), 1) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(0), &word) == 0);
    /* Four bytes are watched, for loads and stores; what is not aligned is refused. */
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(7), 0xf0001) == 0);
    CHECK(ptrace(PTRACE_PEEKUSER, p, DEBUG(0), 0) == (long)&word);
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(0), (char *)&word + 1) == -1 && errno == EINVAL);
    go(PTRACE_CONT, p, 0);
    CHECK(debug_stop(p) == 1);
    CHECK(ptrace(PTRACE_PEEKDATA, p, &word, 0) == 5);
    /* Stores alone, and an instruction. */
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(1), place) == 0);
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(7), 0xd0005) == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(debug_stop(p) == 1);
    CHECK(ptrace(PTRACE_PEEKDATA, p, &word, 0) == 6);
    go(PTRACE_CONT, p, 0);
    CHECK(debug_stop(p) == 2);
    registers(p, regs, PTRACE_GETREGSET);
    CHECK(PC(regs) == (unsigned long)place);
    go(PTRACE_CONT, p, 0);
    CHECK(debug_stop(p) == 2);
    CHECK(ptrace(PTRACE_POKEUSER, p, DEBUG(7), 0) == 0);
    go(PTRACE_CONT, p, 0);
    CHECK(WEXITSTATUS(wait_for(p)) == 9);
}
#else
static void debug_registers(void) {}
#endif

static void on_signal(int n) { reached += n; }

static void body_signal(void)
{
    signal(SIGUSR2, on_signal);
    raise(SIGUSR1);
    raise(SIGUSR2);
    _exit(reached == SIGUSR2 ? 6 : 94);
}

static void signals_are_the_tracers(void)
{
    pid_t p = child(body_signal);
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == (SIGUSR1 << 8 | 0x7f));
    /* SIGUSR1 would end it. */
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == (SIGUSR2 << 8 | 0x7f));
    go(PTRACE_CONT, p, SIGUSR2);
    CHECK(WEXITSTATUS(wait_for(p)) == 6);
    p = child(body_signal);
    go(PTRACE_CONT, p, 0);
    CHECK(wait_for(p) == (SIGUSR1 << 8 | 0x7f));
    go(PTRACE_CONT, p, SIGUSR1);
    int status = wait_for(p);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
}

static void body_fork(void)
{
    pid_t p = fork();
    if (p == 0)
        _exit(7);
    int status;
    if (waitpid(p, &status, 0) != p || WEXITSTATUS(status) != 7)
        _exit(95);
    _exit(8);
}

static void children_are_followed(void)
{
    pid_t p = child(body_fork), made = 0;
    CHECK(ptrace(PTRACE_SETOPTIONS, p, 0, (void *)PTRACE_O_TRACEFORK) == 0);
    go(PTRACE_CONT, p, 0);
    int ends = 0, seen = 0, status;
    while (ends < 2) {
        pid_t who = waitpid(-1, &status, __WALL);
        CHECK(who > 0);
        if (WIFSTOPPED(status)) {
            int signal = WSTOPSIG(status) == SIGCHLD ? SIGCHLD : 0;
            if (status >> 8 == (SIGTRAP | PTRACE_EVENT_FORK << 8)) {
                unsigned long message = 0;
                CHECK(ptrace(PTRACE_GETEVENTMSG, who, 0, &message) == 0);
                made = message;
            } else if (WSTOPSIG(status) == SIGSTOP) {
                CHECK(who != p);
                seen = who;
            }
            go(PTRACE_CONT, who, signal);
        } else {
            CHECK(WEXITSTATUS(status) == (who == p ? 8 : 7));
            ends++;
        }
    }
    CHECK(made != 0 && made == seen);
}

static void what_cannot_be(void)
{
    CHECK(ptrace(PTRACE_CONT, getpid(), 0, 0) == -1 && errno == ESRCH);
    pid_t p = child(body_calls);
    CHECK(ptrace(0x7777, p, 0, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_SETOPTIONS, p, 0, (void *)0x7f000000) == -1 && errno == EINVAL);
    CHECK(ptrace(PTRACE_KILL, p, 0, 0) == 0);
    int status = wait_for(p);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
    calls_and_memory();
    breakpoints_and_steps();
    debug_registers();
    signals_are_the_tracers();
    children_are_followed();
    what_cannot_be();
    puts("tracer ok");
    return 0;
}
