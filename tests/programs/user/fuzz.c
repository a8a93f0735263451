/* System calls with random numbers and arguments. The emulator must not crash: every call ends with a result or an error, and this
   program itself goes on to its end. Calls that would end, stop or multiply the process, reach out of it, or wait for long
   are left out. usage: fuzz SEED COUNT */
#define _GNU_SOURCE
#include "check.h"
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const short left_out[] = {
    SYS_exit, SYS_exit_group, SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
    SYS_pidfd_send_signal, SYS_reboot, SYS_clone, SYS_clone3, SYS_execve, SYS_execveat, SYS_unlinkat, SYS_renameat2,
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_swapon, SYS_swapoff, SYS_sethostname, SYS_setdomainname,
    SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_ppoll,
    SYS_pselect6, SYS_nanosleep, SYS_clock_nanosleep, SYS_futex, SYS_rt_sigtimedwait, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_wait4, SYS_waitid, SYS_accept, SYS_accept4, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_connect, SYS_sendto,
    SYS_sendmsg, SYS_sendmmsg, SYS_mknodat, SYS_mkdirat, SYS_symlinkat, SYS_linkat, SYS_truncate, SYS_fchmodat,
    SYS_fchownat, SYS_fchmod, SYS_fchown, SYS_openat, SYS_openat2, SYS_ftruncate, SYS_fallocate, SYS_sync, SYS_syncfs,
    SYS_fsync, SYS_fdatasync, SYS_vhangup, SYS_setsid, SYS_setpgid, SYS_setpriority, SYS_sched_setscheduler,
    SYS_sched_setparam, SYS_sched_setattr, SYS_sched_setaffinity, SYS_ioprio_set, SYS_setrlimit, SYS_prlimit64,
    SYS_unshare, SYS_setns, SYS_personality, SYS_acct, SYS_quotactl, SYS_syslog, SYS_setxattr, SYS_lsetxattr,
    SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_utimensat, SYS_setuid, SYS_setgid,
    SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capset,
    SYS_keyctl, SYS_add_key, SYS_request_key, SYS_semop, SYS_semtimedop, SYS_msgrcv, SYS_msgsnd, SYS_shmctl, SYS_semctl,
    SYS_msgctl, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink, SYS_fanotify_init, SYS_flock, SYS_fcntl,
    SYS_setitimer, SYS_timer_settime, SYS_landlock_restrict_self, SYS_seccomp, SYS_prctl, SYS_getrandom, SYS_ioctl,
    SYS_process_vm_writev, SYS_shmget, SYS_semget, SYS_msgget, SYS_mq_open, SYS_memfd_create, SYS_mlockall, SYS_mlock,
    SYS_mlock2, SYS_close_range, SYS_move_mount, SYS_fsopen, SYS_open_tree, SYS_chdir, SYS_fchdir, SYS_nfsservctl,
    SYS_process_mrelease, SYS_splice, SYS_tee, SYS_vmsplice, SYS_copy_file_range, SYS_sendfile, SYS_read, SYS_readv,
    SYS_pread64, SYS_preadv, SYS_preadv2, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_sigaltstack, SYS_close, SYS_dup3,
    SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_shutdown,
#ifdef SYS_fork
    SYS_fork, SYS_vfork, SYS_open, SYS_creat, SYS_unlink, SYS_rmdir, SYS_rename, SYS_renameat, SYS_mkdir, SYS_mknod, SYS_link,
    SYS_symlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_poll, SYS_select, SYS_pause,
    SYS_alarm, SYS_epoll_wait, SYS_dup2, SYS_inotify_init,
#endif
#ifdef SYS_arch_prctl
    SYS_arch_prctl, SYS_modify_ldt,
#endif
};

static uint64_t x;
static uint64_t rnd(void)
{
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static char *room;
static uint64_t argument(void)
{
    static const uint64_t odd[] = { 0, 1, 2, 8, 16, 24, 64, 128, 4096, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
                                    0x8000000000000000, -1ull, -2ull, -4096ull, 0x3fffffffff, 0x7fffffffff000, 0xdeadbeef0000 };
    switch (rnd() % 4) {
    case 0: return odd[rnd() % (sizeof odd / sizeof *odd)];
    case 1: return (uint64_t)room + rnd() % 65536;
    case 2: return rnd() % 1024;
    default: return rnd();
    }
}

int main(int argc, char **argv)
{
    x = argc > 1 ? strtoull(argv[1], 0, 10) * 0x9e3779b97f4a7c15 + 1 : 1;
    long count = argc > 2 ? atol(argv[2]) : 1000;
    static char skip[512];
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        skip[left_out[i]] = 1;
    fflush(stdout);
    int round = 0, status;
    for (long done = 0; done < count;) {
        /* Memory calls may take away what the program stands on: a child does some, and may die of a signal. */
        uint64_t seed = rnd();
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            x = seed | 1;
            alarm(20);
            room = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (int i = 0; i < 65536; i += 8)
                *(uint64_t *)(room + i) = rnd() % 3 ? argument() : 0;
            for (int i = 0; i < 200; i++) {
                uint64_t n = rnd() % 100 ? rnd() % 470 : rnd();
                if (n < 512 && skip[n])
                    continue;
                syscall(n, argument(), argument(), argument(), argument(), argument(), argument());
            }
            _exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        /* What an emulator that failed would show: a panic, an abort, or no end. */
        if (WIFEXITED(status))
            CHECK(WEXITSTATUS(status) == 0);
        else
            CHECK(WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS || WTERMSIG(status) == SIGILL);
        done += 200;
        round++;
    }
    printf("fuzz ok\n");
    return 0;
}
