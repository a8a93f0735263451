//! `-sandbox`: system calls that the process gives up for good (seccomp(2)).
//!
//! Everything else stays allowed: the filter is a fence behind the guest's, for a process that a guest has taken over. Some
//! calls are always behind it, groups of others when the user denies them. A call that is denied ends the process.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use control::config::RunWith;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// What runs the host, not a process on it.
const ALWAYS: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_vhangup,
];

/// `elevateprivileges`: other users, groups and sessions.
const PRIVILEGES: &[libc::c_long] = &[
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setpgid,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setsid,
    libc::SYS_setuid,
];

/// `resourcecontrol`: the scheduler's favour.
const RESOURCES: &[libc::c_long] = &[
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
];

/// `spawn`: other programs. New processes come on top, see [`denied`].
const SPAWN: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat];

#[cfg(target_arch = "x86_64")]
mod old {
    //! Calls that only some architectures have.
    /// `obsolete`: calls that no program needs any more.
    pub(super) const OBSOLETE: &[libc::c_long] =
        &[libc::SYS__sysctl, libc::SYS_sysfs, libc::SYS_uselib, libc::SYS_ustat];
    /// Older ways to make a process.
    pub(super) const FORK: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
}

#[cfg(not(target_arch = "x86_64"))]
mod old {
    //! Younger architectures never had them.
    pub(super) const OBSOLETE: &[libc::c_long] = &[];
    pub(super) const FORK: &[libc::c_long] = &[];
}

/// Denies what the user gave up, to all threads there are and will be.
pub(crate) fn close(run: &RunWith) -> Result<()> {
    if !run.sandbox {
        return Ok(());
    }
    let install = || -> Result<()> {
        for (calls, action) in filters(run)? {
            let arch = TargetArch::try_from(std::env::consts::ARCH)?;
            let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, arch)?;
            seccompiler::apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
        }
        Ok(())
    };
    install().context("-sandbox on")
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters: calls, with conditions on their arguments, and what comes of them.
fn filters(run: &RunWith) -> Result<Vec<(Calls, SeccompAction)>> {
    let group = |name: &str| run.sandbox_groups.text(name).map(|v| v.unwrap_or_default().into_owned());
    let (spawn, privileges) = (group("spawn")?, group("elevateprivileges")?);
    // Children may have what the process gave up, but no more than it: that comes with every filter.
    let elevate = privileges == "deny";
    let mut calls = Calls::new();
    let mut deny = |list: &[libc::c_long]| calls.extend(list.iter().map(|n| (*n, Vec::new())));
    deny(ALWAYS);
    // Of old the default: a call that is obsolete is denied unless the user wants it.
    if group("obsolete")? != "allow" {
        deny(old::OBSOLETE);
    }
    if elevate {
        deny(PRIVILEGES);
    }
    if group("resourcecontrol")? == "deny" {
        deny(RESOURCES);
    }
    if spawn != "deny" {
        return Ok(vec![(calls, SeccompAction::KillProcess)]);
    }
    deny(SPAWN);
    deny(old::FORK);
    // A clone that is no thread. What clone3 makes cannot be seen from here; who is told that there is no such call takes clone.
    let thread = u64::try_from(libc::CLONE_THREAD).map_err(|_| anyhow!("CLONE_THREAD"))?;
    let process = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    calls.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process])?]);
    let unknown = Calls::from([(libc::SYS_clone3, Vec::new())]);
    let no_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok(vec![(unknown, no_call), (calls, SeccompAction::KillProcess)])
}
