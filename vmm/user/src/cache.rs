//! Where translations of programs are kept between runs: a directory of this user's own, a file for each program.
//!
//! What is in the files is executed, so nobody else may be able to write them: directory and files must belong to the user Rhea
//! runs as and be writable by no other. Programs that run with more rights than their caller's keep nothing and use nothing. The
//! engine checks each unit against the guest's code; the key here covers the rest: Rhea's build, the host's processor, the options.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tcg_engine::kept::{Kept, host_features};

use crate::host;

/// Most bytes of all files in a directory.
const MOST: u64 = 256 << 20;
/// Most bytes of one file.
const LARGEST: u64 = 80 << 20;
const SUFFIX: &str = "units";
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// Writable by the group or by others.
const OTHERS_WRITE: u32 = 0o022;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The user's own directory.
    #[default]
    Usual,
    Off,
    In(PathBuf),
}

/// The translations of one program.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    file: PathBuf,
    pub(crate) kept: Arc<Kept>,
    /// Makes names of temporary files different.
    count: AtomicU32,
}

fn is_own(m: &Metadata) -> bool {
    let user = host::call(libc::SYS_geteuid, &[]).unwrap_or(u64::MAX);
    u64::from(m.uid()) == user && m.mode() & OTHERS_WRITE == 0
}

/// True if this process has rights that whoever started it has not.
fn has_more_rights() -> bool {
    let id = |n| host::call(n, &[]).unwrap_or(0);
    host::is_secure()
        || id(libc::SYS_getuid) != id(libc::SYS_geteuid)
        || id(libc::SYS_getgid) != id(libc::SYS_getegid)
}

/// `$XDG_CACHE_HOME/rhea`, or `.cache/rhea` at home.
fn usual(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("rhea"))
}

/// What identifies this build of Rhea: the file it was started from.
fn build() -> Option<String> {
    let m = fs::metadata("/proc/self/exe").ok()?;
    Some(format!(
        "{} {} {} {} {}.{} {}.{}",
        env!("CARGO_PKG_VERSION"),
        m.dev(),
        m.ino(),
        m.size(),
        m.mtime(),
        m.mtime_nsec(),
        m.ctime(),
        m.ctime_nsec()
    ))
}

/// FNV-1a, for names of files.
fn name_of(key: &[u8]) -> String {
    let hash =
        key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}.{SUFFIX}")
}

/// The directory, made if it is not there; `Err` says what is wrong with it.
fn prepare(dir: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(dir);
    let m = made.and_then(|()| fs::symlink_metadata(dir)).map_err(|e| e.to_string())?;
    if m.is_dir() && is_own(&m) {
        Ok(())
    } else {
        Err("is not a directory of yours that nobody else can write to".into())
    }
}

/// A file's contents if nobody else can have written it.
fn read(path: &Path) -> Option<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let m = file.metadata().ok()?;
    if !m.is_file() || !is_own(&m) || m.size() > LARGEST {
        return Some(Vec::new());
    }
    let mut bytes = Vec::with_capacity(m.size() as usize + 1);
    File::take(file, LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

impl Store {
    /// The store of the program `exe`; `options` are those that decide about its code. `None` if there is none to be used.
    ///
    /// # Errors
    /// The directory that was asked for by name cannot be used: one line.
    pub(crate) fn open(wanted: &Wanted, exe: &str, options: &str) -> Result<Option<Self>, String> {
        let usual = |n: &str| std::env::var(n).ok();
        let (dir, named) = match wanted {
            _ if has_more_rights() => return Ok(None),
            Wanted::Off => return Ok(None),
            Wanted::In(dir) => (dir.clone(), true),
            Wanted::Usual => match self::usual(usual) {
                Some(dir) => (dir, false),
                None => return Ok(None),
            },
        };
        match prepare(&dir) {
            Ok(()) => {}
            Err(e) if named => return Err(format!("-cache: {}: {e}", dir.display())),
            Err(_) => return Ok(None),
        }
        let Some(build) = build() else { return Ok(None) };
        Ok(Some(Self::at(&dir, &format!("{exe}\n{options}\n{build}\n{:x}", host_features()))))
    }

    fn at(dir: &Path, key: &str) -> Self {
        let file = dir.join(name_of(key.as_bytes()));
        let kept = read(&file).and_then(|bytes| {
            let kept = Kept::parse(bytes, key.as_bytes());
            if kept.is_none() {
                let _ = fs::remove_file(&file);
            }
            kept
        });
        let kept = Arc::new(kept.unwrap_or_else(|| Kept::empty(key.as_bytes())));
        Self { dir: dir.to_owned(), file, kept, count: AtomicU32::new(0) }
    }

    /// Writes what has been made, if it is worth it. What fails is as if there were no store.
    pub(crate) fn save(&self) {
        let Some(bytes) = self.kept.take() else { return };
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let new = self.dir.join(format!(".{}-{n}.new", std::process::id()));
        let opened = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&new);
        let Ok(mut file) = opened else { return };
        if file.write_all(&bytes).and_then(|()| fs::rename(&new, &self.file)).is_err() {
            let _ = fs::remove_file(&new);
        }
        trim(&self.dir, MOST);
    }
}

/// Removes the files that were used least lately, and what crashes have left, until no more than `most` bytes are there.
fn trim(dir: &Path, most: u64) {
    const OLD_SECONDS: i64 = 3600;
    let Ok(list) = fs::read_dir(dir) else { return };
    let mut files: Vec<(i64, u64, PathBuf)> = Vec::new();
    for entry in list.flatten() {
        let (path, Ok(m)) = (entry.path(), entry.metadata()) else { continue };
        let used = m.mtime().max(m.atime());
        match path.extension().and_then(|e| e.to_str()) {
            Some(SUFFIX) => files.push((used, m.size(), path)),
            Some("new") => {
                let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs() as i64);
                if now - used > OLD_SECONDS {
                    let _ = fs::remove_file(path);
                }
            }
            _ => {}
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|f| f.1).sum();
    for (_, size, path) in files {
        if total <= most {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_others_can_write_to_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        prepare(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o777, PRIVATE_DIR);
        mode(&inner, 0o777);
        assert!(prepare(&inner).unwrap_err().contains("nobody else"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("a"), &link).unwrap();
        assert!(prepare(&link).is_err());
        let named = Wanted::In(inner);
        assert!(Store::open(&named, "x", "").unwrap_err().starts_with("-cache: "));
    }

    #[test]
    fn files_that_are_none_go_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name_of(b"key"));
        fs::write(&file, "nonsense").unwrap();
        let store = Store::at(dir.path(), "key");
        assert!(!file.exists());
        store.save();
        assert!(!file.exists(), "nothing to keep");
    }

    #[test]
    fn the_oldest_files_go_first() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..4u64 {
            let path = dir.path().join(format!("{n}.units"));
            fs::write(&path, [0; 100]).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - n);
            let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }
        fs::write(dir.path().join("other"), [0; 900]).unwrap();
        trim(dir.path(), 250);
        let left = |n: u32| dir.path().join(format!("{n}.units")).exists();
        assert_eq!([0, 1, 2, 3].map(left), [true, true, false, false]);
        assert!(dir.path().join("other").exists());
    }

    #[test]
    fn the_usual_place() {
        let env = |name: &str| match name {
            "HOME" => Some("/home/x".to_owned()),
            _ => None,
        };
        assert_eq!(usual(env), Some(PathBuf::from("/home/x/.cache/rhea")));
        let env = |name: &str| (name == "XDG_CACHE_HOME").then(|| "/c".to_owned());
        assert_eq!(usual(env), Some(PathBuf::from("/c/rhea")));
        assert_eq!(usual(|_| Some("relative".into())), None);
    }
}
