// Filters of system calls: errors, traps, what children, threads and executed programs inherit.
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { printf("line %d: %s (errno %d)\n", __LINE__, #x, errno); exit(1); } } while (0)

#if defined(__riscv)
#define ARCH AUDIT_ARCH_RISCV64
#elif defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_I386
#endif

static volatile int trapped, code, number;

static void caught(int signal, siginfo_t *info, void *context)
{
    trapped = info->si_errno;
    code = info->si_code;
    number = info->si_syscall;
}

static int filter(int call, unsigned action)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { sizeof program / sizeof *program, program };
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}

static int refused(void)
{
    errno = 0;
    return syscall(SYS_getppid) == -1 && errno == 77;
}

static void *other(void *unused)
{
    return (void *)(long)refused();
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        CHECK(refused());
        return 9;
    }
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    struct sock_filter bad = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3);
    struct sock_fprog prog = { 1, &bad };
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == -1 && errno == EINVAL);
    CHECK(!refused());
    CHECK(filter(SYS_getppid, SECCOMP_RET_ERRNO | 77) == 0);
    CHECK(prctl(PR_GET_SECCOMP) == 2);
    CHECK(refused());
    pthread_t thread;
    void *result;
    CHECK(pthread_create(&thread, 0, other, 0) == 0 && pthread_join(thread, &result) == 0 && result);
    struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(SIGSYS, &action, 0) == 0);
    CHECK(filter(SYS_getpgid, SECCOMP_RET_TRAP | 5) == 0);
    syscall(SYS_getpgid, 0);
    CHECK(trapped == 5 && code == 1 && number == SYS_getpgid);
    int status, pid = fork();
    if (pid == 0) {
        char *arguments[] = { argv[0], "executed", 0 };
        execv("/proc/self/exe", arguments);
        _exit(8);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 9);
    pid = fork();
    if (pid == 0) {
        CHECK(filter(SYS_getsid, SECCOMP_RET_KILL_PROCESS) == 0);
        syscall(SYS_getsid, 0);
        _exit(8);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    printf("filters ok\n");
    return 0;
}
