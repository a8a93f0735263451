//! A TFTP server that only reads (RFC 1350), with the options blksize, tsize and timeout (RFC 2347 to 2349).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::worker::Cx;

/// Transfers at a time; one more takes the place of the oldest.
const MOST: usize = 16;
const IDLE: Duration = Duration::from_secs(60);

/// Error codes (RFC 1350, appendix).
mod error {
    pub(super) const NOT_FOUND: u16 = 1;
    pub(super) const ACCESS: u16 = 2;
    pub(super) const ILLEGAL: u16 = 4;
    pub(super) const UNKNOWN: u16 = 5;
}

struct Session {
    file: File,
    block_size: usize,
    used: Instant,
}

/// The transfers under way, by the client's address.
#[derive(Default)]
pub(crate) struct Tftp(HashMap<SocketAddr, Session>);

fn failure(code: u16, text: &str) -> Vec<u8> {
    let mut m = vec![0, 5];
    m.extend(code.to_be_bytes());
    m.extend(text.as_bytes());
    m.push(0);
    m
}

/// The file a name stands for, which lies in `root` even behind links.
fn locate(root: &Path, name: &str) -> Option<PathBuf> {
    let relative = Path::new(name.trim_start_matches('/'));
    if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return None;
    }
    let (root, path) = (root.canonicalize().ok()?, root.join(relative).canonicalize().ok()?);
    (path.starts_with(root) && path.is_file()).then_some(path)
}

impl Tftp {
    /// Takes what came to port 69 of the host's address.
    pub(crate) fn input(&mut self, src: SocketAddr, dst: SocketAddr, data: &[u8], cx: &mut Cx<'_>) {
        let Some(root) = cx.config.tftp.clone() else { return };
        self.0.retain(|_, s| cx.now.duration_since(s.used) < IDLE);
        let answer = match data {
            [0, 1, request @ ..] => self.begin(src, request, &root, cx.now),
            [0, 4, high, low] => match self.0.get_mut(&src) {
                Some(s) => {
                    s.used = cx.now;
                    let answer = block(s, u16::from_be_bytes([*high, *low]).wrapping_add(1));
                    if answer.is_none() {
                        self.0.remove(&src);
                    }
                    answer
                }
                None => Some(failure(error::UNKNOWN, "no such transfer")),
            },
            [0, 5, ..] => {
                self.0.remove(&src);
                None
            }
            _ => Some(failure(error::ILLEGAL, "only reading is possible")),
        };
        if let Some(answer) = answer {
            cx.out.udp(dst, src, &answer);
        }
    }

    fn begin(&mut self, src: SocketAddr, request: &[u8], root: &Path, now: Instant) -> Option<Vec<u8>> {
        let mut words = request.split(|b| *b == 0).map(String::from_utf8_lossy);
        let (name, mode) = (words.next()?, words.next()?);
        if !mode.eq_ignore_ascii_case("octet") {
            return Some(failure(error::ILLEGAL, "only mode octet is possible"));
        }
        let Some(path) = locate(root, &name) else { return Some(failure(error::NOT_FOUND, "no such file")) };
        let Ok(file) = File::open(&path) else {
            return Some(failure(error::ACCESS, "the file cannot be read"));
        };
        let size = file.metadata().map_or(0, |m| m.len());
        let mut session = Session { file, block_size: 512, used: now };
        let mut options = Vec::new();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            let key = key.to_ascii_lowercase();
            let number: Option<u64> = value.parse().ok();
            let agreed = match (key.as_str(), number) {
                ("blksize", Some(n)) if n >= 8 => {
                    session.block_size = n.min(1428) as usize;
                    session.block_size as u64
                }
                ("tsize", Some(_)) => size,
                ("timeout", Some(n)) if (1..=255).contains(&n) => n,
                _ => continue,
            };
            options.extend(key.as_bytes());
            options.push(0);
            options.extend(agreed.to_string().as_bytes());
            options.push(0);
        }
        let answer =
            if options.is_empty() { block(&mut session, 1) } else { Some([&[0, 6][..], &options].concat()) };
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, s)| s.used).map(|(a, _)| *a)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(src, session);
        answer
    }
}

/// Block `number`; `None` behind the last one. Numbers of files with more than 65535 blocks begin again at 0: which one is
/// meant follows from how far the file has been read.
fn block(s: &mut Session, number: u16) -> Option<Vec<u8>> {
    let size = s.file.metadata().map_or(0, |m| m.len());
    let block_size = s.block_size as u64;
    let done = s.file.stream_position().unwrap_or(0).div_ceil(block_size);
    // The candidate nearest to what comes next.
    let next = done + 1;
    let base = (next & !0xffff) + u64::from(number);
    let index = [base.checked_sub(0x1_0000), Some(base), Some(base + 0x1_0000)]
        .into_iter()
        .flatten()
        .filter(|n| *n > 0)
        .min_by_key(|n| n.abs_diff(next))?;
    let at = (index - 1) * block_size;
    if at > size || at == size && !size.is_multiple_of(block_size) {
        return None;
    }
    let mut message = vec![0, 3];
    message.extend(number.to_be_bytes());
    let mut data = Vec::with_capacity(s.block_size);
    let read =
        s.file.seek(SeekFrom::Start(at)).and_then(|_| (&mut s.file).take(block_size).read_to_end(&mut data));
    if read.is_err() {
        return Some(failure(error::ACCESS, "the file cannot be read"));
    }
    message.extend(data);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder() {
        let root = std::env::temp_dir().join(format!("rhea-tftp-{}", std::process::id()));
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(root.join("in/file"), [7; 1024]).unwrap();
        assert!(locate(&root, "in/file").is_some());
        assert!(locate(&root, "/in/./file").is_some());
        for bad in ["", "in", "no", "../x", "in/../in/file", "//etc/passwd/../../etc/passwd"] {
            assert!(locate(&root, bad).is_none(), "{bad}");
        }
        let mut s = Session {
            file: File::open(root.join("in/file")).unwrap(),
            block_size: 512,
            used: Instant::now(),
        };
        assert_eq!(block(&mut s, 1).unwrap().len(), 516);
        // The same block again, then the last full one and the empty one that ends it.
        assert_eq!(block(&mut s, 1).unwrap()[..4], [0, 3, 0, 1]);
        assert_eq!(block(&mut s, 2).unwrap().len(), 516);
        assert_eq!(block(&mut s, 3).unwrap(), [0, 3, 0, 3]);
        assert!(block(&mut s, 4).is_none());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
