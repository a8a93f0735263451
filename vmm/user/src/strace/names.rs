//! Names of bits and values, and which arguments have them: the numbers of Linux that every architecture here shares
//! (`include/uapi`).

/// What is to be said of an argument beyond its kind.
#[derive(Clone, Copy)]
pub(super) enum Show {
    /// Names of bits, and what none at all is called.
    Bits(&'static [(u64, &'static str)], &'static str),
    /// Names of values, of which some bits may be set besides.
    One(&'static [(u64, &'static str)]),
    /// Bytes that the call wrote, as many as its result says.
    Bytes,
    /// The `stat` that the call filled.
    Stat,
    /// Two descriptors that the call made.
    Pair,
    /// How a child ended.
    Status,
    /// A set of signals that the call reads, or fills.
    Signals,
    SignalsOut,
    /// What is done about a signal.
    Action,
    ActionOut,
    /// A limit.
    Limit,
    LimitOut,
    /// A time.
    Time,
    TimeOut,
    /// Entries of a folder.
    Entries,
}

impl Show {
    /// True if there is nothing to show before the call has been made.
    pub(super) const fn is_late(self) -> bool {
        matches!(
            self,
            Self::Bytes
                | Self::Stat
                | Self::Pair
                | Self::Status
                | Self::SignalsOut
                | Self::ActionOut
                | Self::LimitOut
                | Self::TimeOut
                | Self::Entries
        )
    }
}

/// What is shown of an argument of a call.
pub(super) fn shown(call: &str, argument: usize) -> Option<Show> {
    SHOWN.iter().find(|(name, n, _)| *name == call && *n == argument).map(|(.., show)| *show)
}

const SHOWN: &[(&str, usize, Show)] = &[
    ("access", 1, Show::Bits(ACCESS, "F_OK")),
    ("faccessat", 2, Show::Bits(ACCESS, "F_OK")),
    ("faccessat2", 2, Show::Bits(ACCESS, "F_OK")),
    ("faccessat2", 3, Show::Bits(AT, "0")),
    ("newfstatat", 2, Show::Stat),
    ("newfstatat", 3, Show::Bits(AT, "0")),
    ("fstatat64", 2, Show::Stat),
    ("fstatat64", 3, Show::Bits(AT, "0")),
    ("fstat", 1, Show::Stat),
    ("stat", 1, Show::Stat),
    ("lstat", 1, Show::Stat),
    ("statx", 2, Show::Bits(AT, "AT_STATX_SYNC_AS_STAT")),
    ("fchownat", 4, Show::Bits(AT, "0")),
    ("linkat", 4, Show::Bits(AT, "0")),
    ("utimensat", 3, Show::Bits(AT, "0")),
    ("unlinkat", 2, Show::Bits(&[(0x200, "AT_REMOVEDIR")], "0")),
    ("read", 1, Show::Bytes),
    ("pread64", 1, Show::Bytes),
    ("recvfrom", 1, Show::Bytes),
    ("readlink", 1, Show::Bytes),
    ("readlinkat", 2, Show::Bytes),
    ("getcwd", 0, Show::Bytes),
    ("getrandom", 0, Show::Bytes),
    ("getrandom", 2, Show::Bits(&[(1, "GRND_NONBLOCK"), (2, "GRND_RANDOM"), (4, "GRND_INSECURE")], "0")),
    ("pipe", 0, Show::Pair),
    ("pipe2", 0, Show::Pair),
    ("pipe2", 1, Show::Bits(OPEN, "0")),
    ("dup3", 2, Show::Bits(OPEN, "0")),
    ("socketpair", 3, Show::Pair),
    ("wait4", 1, Show::Status),
    ("wait4", 2, Show::Bits(WAIT, "0")),
    ("waitid", 3, Show::Bits(WAIT, "0")),
    ("fcntl", 1, Show::One(FCNTL)),
    ("fcntl64", 1, Show::One(FCNTL)),
    ("ioctl", 1, Show::One(IOCTL)),
    ("lseek", 2, Show::One(SEEK)),
    ("madvise", 2, Show::One(MADVISE)),
    ("mremap", 3, Show::Bits(&[(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED"), (4, "MREMAP_DONTUNMAP")], "0")),
    ("futex", 1, Show::One(FUTEX)),
    ("rt_sigprocmask", 0, Show::One(&[(0, "SIG_BLOCK"), (1, "SIG_UNBLOCK"), (2, "SIG_SETMASK")])),
    ("rt_sigprocmask", 1, Show::Signals),
    ("rt_sigprocmask", 2, Show::SignalsOut),
    ("rt_sigaction", 1, Show::Action),
    ("rt_sigaction", 2, Show::ActionOut),
    ("rt_sigpending", 0, Show::SignalsOut),
    ("rt_sigsuspend", 0, Show::Signals),
    ("rt_sigtimedwait", 0, Show::Signals),
    ("signalfd4", 1, Show::Signals),
    ("getdents64", 1, Show::Entries),
    ("prlimit64", 1, Show::One(RESOURCE)),
    ("prlimit64", 2, Show::Limit),
    ("prlimit64", 3, Show::LimitOut),
    ("clock_gettime", 1, Show::TimeOut),
    ("clock_settime", 1, Show::Time),
    ("clock_getres", 1, Show::TimeOut),
    ("clock_nanosleep", 2, Show::Time),
    ("nanosleep", 0, Show::Time),
    ("getrlimit", 0, Show::One(RESOURCE)),
    ("setrlimit", 0, Show::One(RESOURCE)),
    ("arch_prctl", 0, Show::One(ARCH_PRCTL)),
    ("clock_gettime", 0, Show::One(CLOCK)),
    ("clock_getres", 0, Show::One(CLOCK)),
    ("clock_nanosleep", 0, Show::One(CLOCK)),
    ("clock_nanosleep", 1, Show::Bits(&[(1, "TIMER_ABSTIME")], "0")),
    ("socket", 0, Show::One(FAMILY)),
    ("socket", 1, Show::One(SOCKET)),
    ("socketpair", 0, Show::One(FAMILY)),
    ("socketpair", 1, Show::One(SOCKET)),
    ("epoll_ctl", 1, Show::One(&[(1, "EPOLL_CTL_ADD"), (2, "EPOLL_CTL_DEL"), (3, "EPOLL_CTL_MOD")])),
    ("getrusage", 0, Show::One(&[(0, "RUSAGE_SELF"), (1, "RUSAGE_THREAD"), (u64::MAX, "RUSAGE_CHILDREN")])),
];

pub(super) const OPEN: &[(u64, &str)] = &[
    (0o1, "O_WRONLY"),
    (0o2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
    (0o20200000, "O_TMPFILE"),
    (0o200000, "O_DIRECTORY"),
];
/// Bits of `open` with which it takes a mode.
pub(super) const OPEN_MAKES: u64 = 0o100 | 0o20000000;

pub(super) const PROT: &[(u64, &str)] = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
pub(super) const MAP: &[(u64, &str)] = &[
    (3, "MAP_SHARED_VALIDATE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x20000, "MAP_STACK"),
    (0x40000, "MAP_HUGETLB"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
pub(super) const CLONE: &[(u64, &str)] = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x4000, "CLONE_VFORK"),
    (0x1_0000, "CLONE_THREAD"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (17, "SIGCHLD"),
];
const ACCESS: &[(u64, &str)] = &[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")];
const AT: &[(u64, &str)] = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x200, "AT_EACCESS"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
];
const WAIT: &[(u64, &str)] = &[
    (1, "WNOHANG"),
    (2, "WSTOPPED"),
    (4, "WEXITED"),
    (8, "WCONTINUED"),
    (0x100_0000, "WNOWAIT"),
    (0x2000_0000, "__WNOTHREAD"),
    (0x4000_0000, "__WALL"),
    (0x8000_0000, "__WCLONE"),
];
const FCNTL: &[(u64, &str)] = &[
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (8, "F_SETOWN"),
    (9, "F_GETOWN"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
    (1033, "F_ADD_SEALS"),
    (1034, "F_GET_SEALS"),
];
const IOCTL: &[(u64, &str)] = &[
    (0x5401, "TCGETS"),
    (0x5402, "TCSETS"),
    (0x5403, "TCSETSW"),
    (0x5404, "TCSETSF"),
    (0x540b, "TCFLSH"),
    (0x540e, "TIOCSCTTY"),
    (0x540f, "TIOCGPGRP"),
    (0x5410, "TIOCSPGRP"),
    (0x5413, "TIOCGWINSZ"),
    (0x5414, "TIOCSWINSZ"),
    (0x541b, "FIONREAD"),
    (0x5421, "FIONBIO"),
    (0x5450, "FIONCLEX"),
    (0x5451, "FIOCLEX"),
    (0x4004_9409, "FICLONE"),
];
const SEEK: &[(u64, &str)] =
    &[(0, "SEEK_SET"), (1, "SEEK_CUR"), (2, "SEEK_END"), (3, "SEEK_DATA"), (4, "SEEK_HOLE")];
const MADVISE: &[(u64, &str)] = &[
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (10, "MADV_DONTFORK"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (102, "MADV_GUARD_INSTALL"),
];
/// With FUTEX_PRIVATE_FLAG (0x80) and FUTEX_CLOCK_REALTIME (0x100) where they are usual.
const FUTEX: &[(u64, &str)] = &[
    (0, "FUTEX_WAIT"),
    (1, "FUTEX_WAKE"),
    (3, "FUTEX_REQUEUE"),
    (4, "FUTEX_CMP_REQUEUE"),
    (5, "FUTEX_WAKE_OP"),
    (6, "FUTEX_LOCK_PI"),
    (7, "FUTEX_UNLOCK_PI"),
    (8, "FUTEX_TRYLOCK_PI"),
    (9, "FUTEX_WAIT_BITSET"),
    (0x80, "FUTEX_WAIT_PRIVATE"),
    (0x81, "FUTEX_WAKE_PRIVATE"),
    (0x83, "FUTEX_REQUEUE_PRIVATE"),
    (0x84, "FUTEX_CMP_REQUEUE_PRIVATE"),
    (0x85, "FUTEX_WAKE_OP_PRIVATE"),
    (0x86, "FUTEX_LOCK_PI_PRIVATE"),
    (0x87, "FUTEX_UNLOCK_PI_PRIVATE"),
    (0x88, "FUTEX_TRYLOCK_PI_PRIVATE"),
    (0x89, "FUTEX_WAIT_BITSET_PRIVATE"),
    (0x109, "FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME"),
    (0x189, "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME"),
];
/// Number of arguments of a futex operation.
pub(super) fn futex_arguments(operation: u64) -> usize {
    match operation & 0x7f {
        1 => 3,
        7 | 8 => 2,
        0 | 6 => 4,
        _ => 6,
    }
}
const RESOURCE: &[(u64, &str)] = &[
    (0, "RLIMIT_CPU"),
    (1, "RLIMIT_FSIZE"),
    (2, "RLIMIT_DATA"),
    (3, "RLIMIT_STACK"),
    (4, "RLIMIT_CORE"),
    (5, "RLIMIT_RSS"),
    (6, "RLIMIT_NPROC"),
    (7, "RLIMIT_NOFILE"),
    (8, "RLIMIT_MEMLOCK"),
    (9, "RLIMIT_AS"),
    (10, "RLIMIT_LOCKS"),
    (11, "RLIMIT_SIGPENDING"),
    (12, "RLIMIT_MSGQUEUE"),
    (13, "RLIMIT_NICE"),
    (14, "RLIMIT_RTPRIO"),
    (15, "RLIMIT_RTTIME"),
];
const ARCH_PRCTL: &[(u64, &str)] = &[
    (0x1001, "ARCH_SET_GS"),
    (0x1002, "ARCH_SET_FS"),
    (0x1003, "ARCH_GET_FS"),
    (0x1004, "ARCH_GET_GS"),
    (0x1011, "ARCH_GET_CPUID"),
    (0x1012, "ARCH_SET_CPUID"),
];
const CLOCK: &[(u64, &str)] = &[
    (0, "CLOCK_REALTIME"),
    (1, "CLOCK_MONOTONIC"),
    (2, "CLOCK_PROCESS_CPUTIME_ID"),
    (3, "CLOCK_THREAD_CPUTIME_ID"),
    (4, "CLOCK_MONOTONIC_RAW"),
    (5, "CLOCK_REALTIME_COARSE"),
    (6, "CLOCK_MONOTONIC_COARSE"),
    (7, "CLOCK_BOOTTIME"),
    (11, "CLOCK_TAI"),
];
const FAMILY: &[(u64, &str)] = &[
    (1, "AF_UNIX"),
    (2, "AF_INET"),
    (10, "AF_INET6"),
    (16, "AF_NETLINK"),
    (17, "AF_PACKET"),
    (38, "AF_ALG"),
    (40, "AF_VSOCK"),
];
const SOCKET: &[(u64, &str)] = &[
    (1, "SOCK_STREAM"),
    (2, "SOCK_DGRAM"),
    (3, "SOCK_RAW"),
    (5, "SOCK_SEQPACKET"),
    (0x80001, "SOCK_STREAM|SOCK_CLOEXEC"),
    (0x80002, "SOCK_DGRAM|SOCK_CLOEXEC"),
    (0x80003, "SOCK_RAW|SOCK_CLOEXEC"),
    (0x80005, "SOCK_SEQPACKET|SOCK_CLOEXEC"),
    (0x80801, "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK"),
    (0x80802, "SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK"),
];

/// Name of an error.
pub(super) fn error(n: i32) -> Option<&'static str> {
    usize::try_from(n).ok().and_then(|n| ERRORS.get(n)).copied().filter(|name| !name.is_empty())
}

/// By their numbers (`asm-generic/errno-base.h`, `asm-generic/errno.h`).
const ERRORS: [&str; 134] = [
    "",
    "EPERM",
    "ENOENT",
    "ESRCH",
    "EINTR",
    "EIO",
    "ENXIO",
    "E2BIG",
    "ENOEXEC",
    "EBADF",
    "ECHILD",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EFAULT",
    "ENOTBLK",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENODEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENFILE",
    "EMFILE",
    "ENOTTY",
    "ETXTBSY",
    "EFBIG",
    "ENOSPC",
    "ESPIPE",
    "EROFS",
    "EMLINK",
    "EPIPE",
    "EDOM",
    "ERANGE",
    "EDEADLK",
    "ENAMETOOLONG",
    "ENOLCK",
    "ENOSYS",
    "ENOTEMPTY",
    "ELOOP",
    "",
    "ENOMSG",
    "EIDRM",
    "ECHRNG",
    "EL2NSYNC",
    "EL3HLT",
    "EL3RST",
    "ELNRNG",
    "EUNATCH",
    "ENOCSI",
    "EL2HLT",
    "EBADE",
    "EBADR",
    "EXFULL",
    "ENOANO",
    "EBADRQC",
    "EBADSLT",
    "",
    "EBFONT",
    "ENOSTR",
    "ENODATA",
    "ETIME",
    "ENOSR",
    "ENONET",
    "ENOPKG",
    "EREMOTE",
    "ENOLINK",
    "EADV",
    "ESRMNT",
    "ECOMM",
    "EPROTO",
    "EMULTIHOP",
    "EDOTDOT",
    "EBADMSG",
    "EOVERFLOW",
    "ENOTUNIQ",
    "EBADFD",
    "EREMCHG",
    "ELIBACC",
    "ELIBBAD",
    "ELIBSCN",
    "ELIBMAX",
    "ELIBEXEC",
    "EILSEQ",
    "ERESTART",
    "ESTRPIPE",
    "EUSERS",
    "ENOTSOCK",
    "EDESTADDRREQ",
    "EMSGSIZE",
    "EPROTOTYPE",
    "ENOPROTOOPT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "EOPNOTSUPP",
    "EPFNOSUPPORT",
    "EAFNOSUPPORT",
    "EADDRINUSE",
    "EADDRNOTAVAIL",
    "ENETDOWN",
    "ENETUNREACH",
    "ENETRESET",
    "ECONNABORTED",
    "ECONNRESET",
    "ENOBUFS",
    "EISCONN",
    "ENOTCONN",
    "ESHUTDOWN",
    "ETOOMANYREFS",
    "ETIMEDOUT",
    "ECONNREFUSED",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EALREADY",
    "EINPROGRESS",
    "ESTALE",
    "EUCLEAN",
    "ENOTNAM",
    "ENAVAIL",
    "EISNAM",
    "EREMOTEIO",
    "EDQUOT",
    "ENOMEDIUM",
    "EMEDIUMTYPE",
    "ECANCELED",
    "ENOKEY",
    "EKEYEXPIRED",
    "EKEYREVOKED",
    "EKEYREJECTED",
    "EOWNERDEAD",
    "ENOTRECOVERABLE",
    "ERFKILL",
    "EHWPOISON",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[test]
    fn errors_have_the_host_s_numbers() {
        for (n, name) in [
            (libc::ENOSYS, "ENOSYS"),
            (libc::EBADFD, "EBADFD"),
            (libc::ENOTSOCK, "ENOTSOCK"),
            (libc::EHWPOISON, "EHWPOISON"),
            (libc::ESTALE, "ESTALE"),
        ] {
            assert_eq!(error(n), Some(name));
        }
        assert_eq!((error(0), error(41), error(-1), error(1000)), (None, None, None, None));
    }

    #[test]
    fn what_is_shown_is_an_argument() {
        for (name, n, _) in SHOWN {
            // Those of other architectures alone have no row of their own.
            if let Some(call) = sys::find(name) {
                assert!(*n < call.args.len(), "{name} {n}");
            }
        }
    }
}
