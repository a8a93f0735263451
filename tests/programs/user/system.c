/* Processes, files, sockets and what waits for them. */
#define _GNU_SOURCE
#include "arch.h"
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void descriptors(void)
{
    int e = epoll_create1(EPOLL_CLOEXEC), ev = eventfd(0, 0), ep2;
    struct epoll_event out[3], add = { .events = EPOLLIN, .data.u64 = 0x1122334455667788 };
    CHECK(epoll_ctl(e, EPOLL_CTL_ADD, ev, &add) == 0);
    CHECK(epoll_wait(e, out, 3, 0) == 0);
    uint64_t one = 1;
    CHECK(write(ev, &one, 8) == 8);
    CHECK(epoll_wait(e, out, 3, 100) == 1 && out[0].data.u64 == 0x1122334455667788 && out[0].events == EPOLLIN);
    int tf = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec its = { .it_value = { 0, 1000000 } };
    timerfd_settime(tf, 0, &its, 0);
    uint64_t n;
    CHECK(read(tf, &n, 8) == 8 && n >= 1);
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigprocmask(SIG_BLOCK, &s, 0);
    int sf = signalfd(-1, &s, 0);
    kill(getpid(), SIGUSR1);
    struct signalfd_siginfo si;
    CHECK(read(sf, &si, sizeof si) == sizeof si && si.ssi_signo == SIGUSR1);
    int in = inotify_init1(0);
    char dir[] = "/tmp/rhea-test-XXXXXX";
    CHECK(mkdtemp(dir));
    CHECK(inotify_add_watch(in, dir, IN_CREATE) >= 0);
    char name[64];
    snprintf(name, sizeof name, "%s/f", dir);
    int f = open(name, O_CREAT | O_RDWR | O_EXCL, 0640);
    CHECK(f >= 0);
    char buf[4096];
    CHECK(read(in, buf, sizeof buf) > 0 && ((struct inotify_event *)buf)->mask == IN_CREATE);
    struct iovec iov[2] = { { "hello ", 6 }, { "world", 5 } };
    CHECK(writev(f, iov, 2) == 11 && pread(f, buf, 5, 6) == 5 && !memcmp(buf, "world", 5));
    struct stat st;
    CHECK(fstat(f, &st) == 0 && st.st_size == 11 && (st.st_mode & 07777) == 0640 && st.st_nlink == 1);
    struct statx sx;
    CHECK(statx(AT_FDCWD, name, 0, STATX_ALL, &sx) == 0 && sx.stx_size == 11 && sx.stx_ino == st.st_ino);
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 5 };
    CHECK(fcntl(f, F_SETLK, &fl) == 0);
    int found = 0;
    DIR *d = opendir(dir);
    for (struct dirent *x; (x = readdir(d));)
        found += !strcmp(x->d_name, "f");
    closedir(d);
    CHECK(found == 1);
    CHECK(unlink(name) == 0 && rmdir(dir) == 0);
    ep2 = open("/dev/null", O_RDONLY | O_DIRECTORY);
    CHECK(ep2 == -1 && errno == ENOTDIR);
    struct pollfd pf = { ev, POLLIN, 0 };
    CHECK(poll(&pf, 1, 100) == 1 && pf.revents == POLLIN);
    fd_set fds;
    FD_ZERO(&fds);
    FD_SET(ev, &fds);
    struct timeval tv = { 1, 0 };
    CHECK(select(ev + 1, &fds, 0, 0, &tv) == 1);
    for (int i = 3; i < 64; i++)
        close(i);
}

static void sockets(void)
{
    int s[2], p[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe(p) == 0);
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 'b', got = 0;
    struct iovec iov = { &byte, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &p[1], sizeof(int));
    CHECK(sendmsg(s[0], &m, 0) == 1);
    memset(control, 0, sizeof control);
    iov.iov_base = &got;
    CHECK(recvmsg(s[1], &m, 0) == 1 && got == 'b');
    c = CMSG_FIRSTHDR(&m);
    CHECK(c && c->cmsg_type == SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    CHECK(write(fd, "z", 1) == 1 && read(p[0], &got, 1) == 1 && got == 'z');
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path + 1, 60, "rhea-test-%d", getpid());
    int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(sa_family_t) + 1 + strlen(a.sun_path + 1);
    CHECK(bind(l, (void *)&a, len) == 0 && listen(l, 1) == 0);
    int k = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(k, (void *)&a, len) == 0);
    int x = accept(l, 0, 0);
    CHECK(x >= 0 && send(k, "hey", 3, 0) == 3 && recv(x, control, 8, 0) == 3);
    int v = 0;
    socklen_t vl = sizeof v;
    CHECK(getsockopt(x, SOL_SOCKET, SO_TYPE, &v, &vl) == 0 && v == SOCK_STREAM);
    struct mmsghdr mm[2] = { 0 };
    struct iovec mi[2] = { { "ab", 2 }, { "cde", 3 } };
    for (int i = 0; i < 2; i++)
        mm[i].msg_hdr.msg_iov = &mi[i], mm[i].msg_hdr.msg_iovlen = 1;
    CHECK(sendmmsg(s[0], mm, 2, 0) == 2 && mm[1].msg_len == 3);
}

static void processes(const char *self)
{
    int status;
    char *argv[] = { (char *)self, "child", "an arg", 0 };
    char *envp[] = { "X=y z", 0 };
    pid_t pid = fork();
    if (pid == 0) {
        execve(self, argv, envp);
        _exit(99);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 42);
    /* The child tells the parent through its memory. */
    CHECK(posix_spawn(&pid, "/nonexistent", 0, 0, argv, envp) == ENOENT);
    CHECK(posix_spawn(&pid, self, 0, 0, argv, envp) == 0);
    siginfo_t si;
    CHECK(waitid(P_PID, pid, &si, WEXITED) == 0 && si.si_code == CLD_EXITED && si.si_status == 42);
    pid = vfork();
    if (pid == 0) {
        execve("/proc/self/exe", argv, envp);
        _exit(98);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 42);
    for (int i = 0; i < 50; i++) {
        pid = fork();
        if (pid == 0)
            _exit(i);
        struct rusage ru;
        CHECK(wait4(pid, &status, 0, &ru) == pid && WEXITSTATUS(status) == i);
    }
    FILE *f = popen("echo $((3*4))", "r");
    int n;
    CHECK(f && fscanf(f, "%d", &n) == 1 && n == 12 && pclose(f) == 0);
    CHECK(execve("/nonexistent", argv, envp) == -1 && errno == ENOENT);
    CHECK(execve("/", argv, envp) == -1 && errno == EACCES);
    char exe[256] = { 0 };
    CHECK(readlink("/proc/self/exe", exe, 255) > 0 && strstr(exe, "system"));
    f = fopen("/proc/self/cmdline", "r");
    CHECK(fread(exe, 1, 255, f) > 0 && strstr(exe, "system"));
    fclose(f);
    f = fopen("/proc/self/maps", "r");
    int stack = 0, code = 0;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        unsigned long a, b;
        char r[8];
        CHECK(sscanf(line, "%lx-%lx %7s", &a, &b, r) == 3);
        stack += (unsigned long)&n >= a && (unsigned long)&n < b && !strncmp(r, "rw", 2);
        code += (unsigned long)processes >= a && (unsigned long)processes < b && !strncmp(r, "r-x", 3);
    }
    CHECK(stack == 1 && code == 1);
    fclose(f);
}

/* Waits for several words; a kernel before 5.16 has no such call. */
static void several_futexes(void)
{
    static unsigned words[2] = { 1, 2 };
    struct {
        uint64_t value, at;
        uint32_t flags, zero;
    } wait[2] = { { 1, (uintptr_t)&words[0], 2, 0 }, { 2, (uintptr_t)&words[1], 2, 0 } };
    struct {
        int64_t sec, nsec;
    } soon = { 1, 0 };
    long r = syscall(449, wait, 2, 0, &soon, CLOCK_MONOTONIC);
    CHECK(r == -1 && (errno == ETIMEDOUT || errno == ENOSYS));
    if (errno == ENOSYS)
        return;
    words[1] = 3;
    CHECK(syscall(449, wait, 2, 0, &soon, CLOCK_MONOTONIC) == -1 && errno == EAGAIN);
    CHECK(syscall(449, wait, 129, 0, 0, 0) == -1 && errno == EINVAL);
    CHECK(syscall(454, &words[0], 0xffffffffUL, 1, 2) == 0 || errno == ENOSYS);
}

#if defined(__i386__)
static volatile int old_signals;

static void on_old_signal(int n) { old_signals += n == SIGUSR2; }

/* What i386 has besides, from before other calls took their place. */
static void old_calls(void)
{
    struct {
        void (*handler)(int);
        unsigned mask, flags;
        void *restorer;
    } act = { on_old_signal, 1 << (SIGHUP - 1), 0, 0 }, was;
    CHECK(syscall(67, SIGUSR2, &act, 0) == 0 && raise(SIGUSR2) == 0 && old_signals == 1);
    CHECK(syscall(67, SIGUSR2, 0, &was) == 0 && was.handler == on_old_signal && was.mask == 1 << (SIGHUP - 1));
    CHECK(syscall(48, SIGUSR2, on_old_signal) == (long)on_old_signal);
    long before = syscall(68);
    CHECK(syscall(69, 1 << (SIGUSR2 - 1)) == before && syscall(68) == 1 << (SIGUSR2 - 1));
    unsigned pending = 0;
    raise(SIGUSR2);
    CHECK(old_signals == 1 && syscall(73, &pending) == 0 && pending == 1 << (SIGUSR2 - 1));
    CHECK(syscall(72, 0, 0, 0) == -1 && errno == EINTR && old_signals == 2);
    CHECK(syscall(69, before) == 1 << (SIGUSR2 - 1));
    char names[5][65], oldest[5][9];
    CHECK(syscall(109, names) == 0 && !strcmp(names[4], MACHINE));
    CHECK(syscall(59, oldest) == 0 && !strcmp(oldest[0], "Linux"));
    struct {
        unsigned short dev, ino, mode, links, uid, gid, rdev, zero;
        unsigned size, times[3];
    } old;
    struct stat now;
    CHECK(stat("/", &now) == 0 && syscall(18, "/", &old) == 0);
    CHECK(old.mode == now.st_mode && old.times[1] == (unsigned)now.st_mtime);
    struct {
        unsigned ino, offset;
        unsigned short length;
        char name[256];
    } entry;
    int folder = open("/", O_RDONLY | O_DIRECTORY), seen = 0;
    while (syscall(89, folder, &entry, 1) == 1)
        seen += strlen(entry.name) == entry.length;
    CHECK(folder >= 0 && seen >= 2 && close(folder) == 0);
    CHECK(syscall(34, 0) == 0);
}
#else
static void old_calls(void) {}
#endif

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "child"))
        return argc == 3 && !strcmp(argv[2], "an arg") && getenv("X") && !strcmp(getenv("X"), "y z") ? 42 : 1;
    struct utsname u;
    CHECK(uname(&u) == 0 && !strcmp(u.machine, MACHINE));
    struct sysinfo info;
    CHECK(sysinfo(&info) == 0 && info.totalram > 0);
    struct timespec ts, then;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
    ts = (struct timespec){ 0, 2000000 };
    CHECK(nanosleep(&ts, 0) == 0 && clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
    CHECK((ts.tv_sec - then.tv_sec) * 1000000000 + ts.tv_nsec - then.tv_nsec >= 2000000);
    CHECK(syscall(1000) == -1 && errno == ENOSYS);
    CHECK(sizeof(long) == 4 || syscall(SYS_read, 0, (void *)8, -1L) == -1);
    CHECK(read(-1, &u, 1) == -1 && errno == EBADF);
    CHECK(syscall(SYS_write, 1, 8L, 1L) == -1 && errno == EFAULT);
    /* Restartable sequences are refused, and so is what would abort them; what is left says so. */
    static char area[64] __attribute__((aligned(32)));
    CHECK(syscall(SYS_rseq, area, 32, 0, 0x53053053) == -1 && errno == ENOSYS);
    long known = syscall(SYS_membarrier, 0, 0, 0);
    CHECK(known < 0 || (known & 0x180) == 0);
    CHECK(syscall(SYS_membarrier, 0x80, 0, 0) == -1 && errno == EINVAL);
    CHECK(syscall(SYS_membarrier, 0x100, 0, 0) == -1 && errno == EINVAL);
    CHECK(known < 0 || (syscall(SYS_membarrier, 16, 0, 0) == 0 && syscall(SYS_membarrier, 8, 0, 0) == 0));
    /* What the personality is can be asked, and it is inherited. */
    int before = personality(-1);
    CHECK(personality(before | ADDR_NO_RANDOMIZE) == before && personality(-1) == (before | ADDR_NO_RANDOMIZE));
    CHECK(personality(before) == (before | ADDR_NO_RANDOMIZE));
    int sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    if (sem >= 0) {
        union semun {
            int val;
            struct semid_ds *buf;
        } arg = { .val = 3 };
        struct semid_ds ds;
        CHECK(semctl(sem, 0, SETVAL, arg) == 0 && semctl(sem, 0, GETVAL) == 3);
        arg.buf = &ds;
        CHECK(semctl(sem, 0, IPC_STAT, arg) == 0 && ds.sem_nsems == 1);
        semctl(sem, 0, IPC_RMID);
    }
    several_futexes();
    old_calls();
    descriptors();
    sockets();
    processes(argv[0]);
    puts("system ok");
    return 0;
}
