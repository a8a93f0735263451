//! Calls of 32-bit programs whose arguments or structures differ from those of 64-bit ones, and the calls they become
//! (`arch/x86/entry/syscalls/syscall_32.tbl`, `include/uapi/asm-generic/unistd.h`, `fs/compat.c` and others of Linux 6.12).

use super::{A::*, Narrow, To::*, code, messages, old, signals};

const TIME: &str = "2l";
const TIME64: &str = "qn";
const ITIMER: &str = "4l";
const ITIMER64: &str = "qnqn";
const RUSAGE: &str = "18l";
const LIMIT: &str = "2r";
const TIMEX: &str = "w4lw3l2l3lw5l12w";
const SIGEVENT: &str = "u3w";
const MQ: &str = "8l";
const STATFS: &str = "2l5u2w7l";
const STATFS64: &str = "2l5q2w7l";
const STACK: &str = "uwu";

macro_rules! rows {
    ($($name:literal => $to:expr, [$($arg:expr),*];)*) => {
        pub(super) const ROWS: &[Narrow] = &[$(Narrow { name: $name, to: $to, args: &[$($arg),*] }),*];
    };
}

rows! {
    // Files.
    "readv" => Call("readv"), [V(0), Iov(1, 2), V(2)];
    "writev" => Call("writev"), [V(0), Iov(1, 2), V(2)];
    "preadv" => Call("preadv"), [V(0), Iov(1, 2), V(2), Pair(3, 4)];
    "pwritev" => Call("pwritev"), [V(0), Iov(1, 2), V(2), Pair(3, 4)];
    "preadv2" => Call("preadv2"), [V(0), Iov(1, 2), V(2), Pair(3, 4), Const(0), V(5)];
    "pwritev2" => Call("pwritev2"), [V(0), Iov(1, 2), V(2), Pair(3, 4), Const(0), V(5)];
    "vmsplice" => Call("vmsplice"), [V(0), Iov(1, 2), V(2), V(3)];
    "pread64" => Call("pread64"), [V(0), V(1), V(2), Pair(3, 4)];
    "pwrite64" => Call("pwrite64"), [V(0), V(1), V(2), Pair(3, 4)];
    "lseek" => Call("lseek"), [V(0), Signed(1), V(2)];
    "_llseek" => Code(code::llseek), [];
    "llseek" => Code(code::llseek), [];
    "truncate" => Call("truncate"), [V(0), Signed(1)];
    "ftruncate" => Call("ftruncate"), [V(0), Signed(1)];
    "truncate64" => Call("truncate"), [V(0), Pair(1, 2)];
    "ftruncate64" => Call("ftruncate"), [V(0), Pair(1, 2)];
    "fallocate" => Call("fallocate"), [V(0), V(1), Pair(2, 3), Pair(4, 5)];
    "fadvise64" => Call("fadvise64"), [V(0), Pair(1, 2), V(3), V(4)];
    "fadvise64_64" => Call("fadvise64"), [V(0), Pair(1, 2), Pair(3, 4), V(5)];
    "readahead" => Call("readahead"), [V(0), Pair(1, 2), V(3)];
    "sync_file_range" => Call("sync_file_range"), [V(0), Pair(1, 2), Pair(3, 4), V(5)];
    "sendfile" => Call("sendfile"), [V(0), V(1), InOut(2, "l"), V(3)];
    "sendfile64" => Call("sendfile"), [V(0), V(1), V(2), V(3)];
    "fcntl" => Code(code::fcntl), [];
    "fcntl64" => Code(code::fcntl), [];
    "statfs" => Call("statfs"), [V(0), Out(1, STATFS)];
    "fstatfs" => Call("fstatfs"), [V(0), Out(1, STATFS)];
    "statfs64" => Call("statfs"), [V(0), Out(2, STATFS64)];
    "fstatfs64" => Call("fstatfs"), [V(0), Out(2, STATFS64)];
    "stat" => Code(code::stat), [];
    "lstat" => Code(code::lstat), [];
    "fstat" => Code(code::fstat), [];
    "stat64" => Code(code::stat64), [];
    "lstat64" => Code(code::lstat64), [];
    "fstat64" => Code(code::fstat64), [];
    "fstatat64" => Code(code::fstatat64), [];
    "getdents" => Code(code::getdents), [];
    "getdents64" => Code(code::getdents64), [];
    "utime" => Call("utime"), [V(0), In(1, TIME)];
    "utimes" => Call("utimes"), [V(0), In(1, ITIMER)];
    "futimesat" => Call("futimesat"), [V(0), V(1), In(2, ITIMER)];
    "utimensat" => Call("utimensat"), [V(0), V(1), In(2, ITIMER), V(3)];
    "utimensat_time64" => Call("utimensat"), [V(0), V(1), In(2, ITIMER64), V(3)];
    "umount" => Call("umount2"), [V(0), Const(0)];
    "fanotify_mark" => Call("fanotify_mark"), [V(0), V(1), Pair(2, 3), V(4), V(5)];
    "chown32" => Call("chown"), [V(0), V(1), V(2)];
    "lchown32" => Call("lchown"), [V(0), V(1), V(2)];
    "fchown32" => Call("fchown"), [V(0), V(1), V(2)];
    "chown" => Call("chown"), [V(0), Id16(1), Id16(2)];
    "lchown" => Call("lchown"), [V(0), Id16(1), Id16(2)];
    "fchown" => Call("fchown"), [V(0), Id16(1), Id16(2)];

    "oldstat" => Code(old::oldstat), [];
    "oldlstat" => Code(old::oldlstat), [];
    "oldfstat" => Code(old::oldfstat), [];
    "readdir" => Code(old::readdir), [];
    "io_pgetevents_time64" => Call("io_pgetevents"), [];

    // Waiting.
    "ppoll" => Call("ppoll"), [V(0), V(1), In(2, TIME), V(3), V(4)];
    "ppoll_time64" => Call("ppoll"), [V(0), V(1), In(2, TIME64), V(3), V(4)];
    "poll" => Call("poll"), [V(0), V(1), Signed(2)];
    "_newselect" => Code(code::select), [];
    "select" => Code(code::old_select), [];
    "pselect6" => Code(code::pselect6), [];
    "pselect6_time64" => Code(code::pselect6_time64), [];
    "epoll_pwait2" => Call("epoll_pwait2"), [V(0), V(1), V(2), In(3, TIME64), V(4), V(5)];

    // Time.
    "time" => Call("time"), [Out(0, "l")];
    "times" => Call("times"), [Out(0, "4l")];
    "gettimeofday" => Call("gettimeofday"), [Out(0, TIME), V(1)];
    "settimeofday" => Call("settimeofday"), [In(0, TIME), V(1)];
    "getitimer" => Call("getitimer"), [V(0), Out(1, ITIMER)];
    "setitimer" => Call("setitimer"), [V(0), In(1, ITIMER), Out(2, ITIMER)];
    "clock_gettime" => Call("clock_gettime"), [V(0), Out(1, TIME)];
    "clock_settime" => Call("clock_settime"), [V(0), In(1, TIME)];
    "clock_getres" => Call("clock_getres"), [V(0), Out(1, TIME)];
    "clock_nanosleep" => Call("clock_nanosleep"), [V(0), V(1), In(2, TIME), Rest(3, TIME)];
    "nanosleep" => Call("nanosleep"), [In(0, TIME), Rest(1, TIME)];
    "clock_gettime64" => Call("clock_gettime"), [V(0), Out(1, TIME64)];
    "clock_settime64" => Call("clock_settime"), [V(0), In(1, TIME64)];
    "clock_getres_time64" => Call("clock_getres"), [V(0), Out(1, TIME64)];
    "clock_nanosleep_time64" => Call("clock_nanosleep"), [V(0), V(1), In(2, TIME64), Rest(3, TIME64)];
    "adjtimex" => Call("adjtimex"), [InOut(0, TIMEX)];
    "clock_adjtime" => Call("clock_adjtime"), [V(0), InOut(1, TIMEX)];
    "clock_adjtime64" => Call("clock_adjtime"), [V(0), V(1)];
    "timer_create" => Call("timer_create"), [V(0), In(1, SIGEVENT), V(2)];
    "timer_settime" => Call("timer_settime"), [V(0), V(1), In(2, ITIMER), Out(3, ITIMER)];
    "timer_gettime" => Call("timer_gettime"), [V(0), Out(1, ITIMER)];
    "timer_settime64" => Call("timer_settime"), [V(0), V(1), In(2, ITIMER64), Out(3, ITIMER64)];
    "timer_gettime64" => Call("timer_gettime"), [V(0), Out(1, ITIMER64)];
    "timerfd_settime" => Call("timerfd_settime"), [V(0), V(1), In(2, ITIMER), Out(3, ITIMER)];
    "timerfd_gettime" => Call("timerfd_gettime"), [V(0), Out(1, ITIMER)];
    "timerfd_settime64" => Call("timerfd_settime"), [V(0), V(1), In(2, ITIMER64), Out(3, ITIMER64)];
    "timerfd_gettime64" => Call("timerfd_gettime"), [V(0), Out(1, ITIMER64)];

    "stime" => Code(old::stime), [];

    // Memory.
    "mmap2" => Code(code::mmap2), [];
    "mmap" => Code(code::old_mmap), [];
    "process_vm_readv" => Call("process_vm_readv"), [V(0), Iov(1, 2), V(2), Iov(3, 4), V(4), V(5)];
    "process_vm_writev" => Call("process_vm_writev"), [V(0), Iov(1, 2), V(2), Iov(3, 4), V(4), V(5)];

    // Processes.
    "execve" => Call("execve"), [V(0), Pointers(1), Pointers(2)];
    "execveat" => Call("execveat"), [V(0), V(1), Pointers(2), Pointers(3), V(4)];
    "wait4" => Call("wait4"), [V(0), V(1), V(2), Out(3, RUSAGE)];
    "waitpid" => Call("wait4"), [V(0), V(1), V(2), Const(0)];
    "waitid" => Code(signals::waitid), [];
    "getrusage" => Call("getrusage"), [V(0), Out(1, RUSAGE)];
    "getrlimit" => Call("getrlimit"), [V(0), Out(1, LIMIT)];
    "ugetrlimit" => Call("getrlimit"), [V(0), Out(1, LIMIT)];
    "setrlimit" => Call("setrlimit"), [V(0), In(1, LIMIT)];
    "sysinfo" => Code(code::sysinfo), [];
    "nice" => Code(old::nice), [];
    "olduname" => Code(old::olduname), [];
    "oldolduname" => Code(old::oldolduname), [];
    "sched_rr_get_interval" => Call("sched_rr_get_interval"), [V(0), Out(1, TIME)];
    "sched_rr_get_interval_time64" => Call("sched_rr_get_interval"), [V(0), Out(1, TIME64)];
    "getuid32" => Call("getuid"), [];
    "geteuid32" => Call("geteuid"), [];
    "getgid32" => Call("getgid"), [];
    "getegid32" => Call("getegid"), [];
    "setuid32" => Call("setuid"), [V(0)];
    "setgid32" => Call("setgid"), [V(0)];
    "setfsuid32" => Call("setfsuid"), [V(0)];
    "setfsgid32" => Call("setfsgid"), [V(0)];
    "setreuid32" => Call("setreuid"), [V(0), V(1)];
    "setregid32" => Call("setregid"), [V(0), V(1)];
    "setresuid32" => Call("setresuid"), [V(0), V(1), V(2)];
    "getresuid32" => Call("getresuid"), [V(0), V(1), V(2)];
    "setresgid32" => Call("setresgid"), [V(0), V(1), V(2)];
    "getresgid32" => Call("getresgid"), [V(0), V(1), V(2)];
    "getgroups32" => Call("getgroups"), [V(0), V(1)];
    "setgroups32" => Call("setgroups"), [V(0), V(1)];
    "setuid" => Call("setuid"), [Id16(0)];
    "setgid" => Call("setgid"), [Id16(0)];
    "setfsuid" => Call("setfsuid"), [Id16(0)];
    "setfsgid" => Call("setfsgid"), [Id16(0)];
    "setreuid" => Call("setreuid"), [Id16(0), Id16(1)];
    "setregid" => Call("setregid"), [Id16(0), Id16(1)];
    "setresuid" => Call("setresuid"), [Id16(0), Id16(1), Id16(2)];
    "setresgid" => Call("setresgid"), [Id16(0), Id16(1), Id16(2)];

    // Threads.
    "futex" => Code(code::futex), [];
    "futex_time64" => Code(code::futex_time64), [];
    "set_robust_list" => Code(code::set_robust_list), [];
    "get_robust_list" => Code(code::get_robust_list), [];

    // Signals.
    "rt_sigaction" => Code(signals::rt_sigaction), [];
    "rt_sigtimedwait" => Code(signals::rt_sigtimedwait), [];
    "rt_sigtimedwait_time64" => Code(signals::rt_sigtimedwait_time64), [];
    "rt_sigqueueinfo" => Code(signals::rt_sigqueueinfo), [];
    "rt_tgsigqueueinfo" => Code(signals::rt_tgsigqueueinfo), [];
    "sigaltstack" => Call("sigaltstack"), [In(0, STACK), Out(1, STACK)];
    "sigreturn" => Code(signals::sigreturn), [];
    "sigprocmask" => Code(signals::sigprocmask), [];
    "sigaction" => Code(old::sigaction), [];
    "signal" => Code(old::signal), [];
    "sigpending" => Code(old::sigpending), [];
    "sigsuspend" => Code(old::sigsuspend), [];
    "sgetmask" => Code(old::sgetmask), [];
    "ssetmask" => Code(old::ssetmask), [];

    // Sockets and queues.
    "sendmsg" => Code(messages::sendmsg), [];
    "recvmsg" => Code(messages::recvmsg), [];
    "sendmmsg" => Code(messages::sendmmsg), [];
    "recvmmsg" => Code(messages::recvmmsg), [];
    "recvmmsg_time64" => Code(messages::recvmmsg), [];
    "setsockopt" => Code(messages::setsockopt), [];
    "getsockopt" => Code(messages::getsockopt), [];
    "socketcall" => Code(messages::socketcall), [];
    "ipc" => Code(messages::ipc), [];
    "msgsnd" => Code(messages::msgsnd), [];
    "msgrcv" => Code(messages::msgrcv), [];
    "shmctl" => Code(messages::shmctl), [];
    "msgctl" => Code(messages::msgctl), [];
    "semctl" => Code(messages::semctl), [];
    "semtimedop" => Call("semtimedop"), [V(0), V(1), V(2), In(3, TIME)];
    "semtimedop_time64" => Call("semtimedop"), [V(0), V(1), V(2), In(3, TIME64)];
    "mq_open" => Call("mq_open"), [V(0), V(1), V(2), In(3, MQ)];
    "mq_getsetattr" => Call("mq_getsetattr"), [V(0), In(1, MQ), Out(2, MQ)];
    "mq_notify" => Call("mq_notify"), [V(0), In(1, SIGEVENT)];
    "mq_timedsend" => Call("mq_timedsend"), [V(0), V(1), V(2), V(3), In(4, TIME)];
    "mq_timedreceive" => Call("mq_timedreceive"), [V(0), V(1), V(2), V(3), In(4, TIME)];
    "mq_timedsend_time64" => Call("mq_timedsend"), [V(0), V(1), V(2), V(3), In(4, TIME64)];
    "mq_timedreceive_time64" => Call("mq_timedreceive"), [V(0), V(1), V(2), V(3), In(4, TIME64)];
}
