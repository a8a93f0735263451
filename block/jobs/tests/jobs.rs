//! Jobs on disks that are written meanwhile, on disks that fail, and what they tell.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{BlockNode, MemoryNode};
use block_filters::{BlkDebug, Fault, Kind};
use block_formats::{Image, OpenOptions, Options};
use block_graph::{Bare, DirtyBitmap, Edge, Node, drained, lead};
use block_jobs::{
    Backup, BitmapMode, Commit, End, JobError, JobOptions, Jobs, Mirror, OnError, Status, Stream, Sync,
};

const SIZE: u64 = 4 << 20;
const LONG: Duration = Duration::from_secs(60);

fn over(name: &str, node: Arc<dyn BlockNode>) -> Arc<Node> {
    Node::new(name, Arc::new(Bare::new(node, "memory", name)))
}

fn memory(name: &str) -> Arc<Node> {
    over(name, Arc::new(MemoryNode::new(name, SIZE as usize)))
}

fn contents(node: &dyn BlockNode) -> Vec<u8> {
    let mut data = vec![0; node.size() as usize];
    node.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
    data
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A guest: it writes at random, and knows what the disk has to hold.
struct Guest {
    edge: Arc<Edge>,
    model: Mutex<Vec<u8>>,
    stop: AtomicBool,
    writes: Mutex<u64>,
}

impl Guest {
    fn new(node: &Arc<Node>) -> Arc<Self> {
        let mut random = Random(0x1234_5678);
        let edge = Edge::new("guest", node);
        let mut model = contents(&*edge);
        for at in (0..SIZE).step_by(256 << 10) {
            if random.below(3) == 0 {
                continue;
            }
            let n = (256 << 10) as usize;
            model[at as usize..at as usize + n].fill(random.below(255) as u8 + 1);
            edge.write(at, &[IoSlice::new(&model[at as usize..at as usize + n])], false).unwrap();
        }
        Arc::new(Guest {
            edge,
            model: Mutex::new(model),
            stop: AtomicBool::new(false),
            writes: Mutex::new(0),
        })
    }

    fn write(&self, random: &mut Random) {
        let at = random.below(SIZE / 512) * 512;
        let n = ((random.below(200) + 1) * 512).min(SIZE - at);
        // The model changes with the disk: whoever locks it sees both alike.
        let mut model = self.model.lock().unwrap();
        let part = &mut model[at as usize..(at + n) as usize];
        if random.below(4) == 0 {
            part.fill(0);
            self.edge.write_zeroes(at, n, true).unwrap();
        } else {
            part.fill(random.below(255) as u8 + 1);
            self.edge.write(at, &[IoSlice::new(part)], false).unwrap();
        }
        *self.writes.lock().unwrap() += 1;
    }

    fn start(self: &Arc<Self>) -> std::thread::JoinHandle<()> {
        let guest = self.clone();
        std::thread::spawn(move || {
            let mut random = Random(99);
            while !guest.stop.load(Ordering::Relaxed) {
                guest.write(&mut random);
                std::thread::yield_now();
            }
        })
    }

    fn end(&self, thread: std::thread::JoinHandle<()>) {
        let before = *self.writes.lock().unwrap();
        while *self.writes.lock().unwrap() < before + 20 {
            std::thread::yield_now();
        }
        self.stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(contents(&*self.edge) == *self.model.lock().unwrap());
    }
}

type Log = Arc<Mutex<Vec<String>>>;

fn jobs() -> (Arc<Jobs>, Log) {
    let log = Log::default();
    let to = log.clone();
    let jobs = Jobs::new(move |(name, data)| {
        let status = data.get("status").and_then(|s| s.as_str()).unwrap_or_default();
        to.lock().unwrap().push(format!("{name} {status}").trim().to_owned());
    });
    (jobs, log)
}

fn options(kind: &'static str) -> JobOptions {
    JobOptions { auto_dismiss: false, ..JobOptions::new("j", kind, Some("disk".into())) }
}

fn mirror(jobs: &Arc<Jobs>, options: JobOptions, mirror: Mirror) {
    let (source, target) = (mirror.source.clone(), mirror.target.clone());
    let work = move |job: &Arc<block_jobs::Job>| {
        mirror.run(job, |end, last| match end {
            End::Pivot => lead(
                std::slice::from_ref(&source),
                |_| false,
                || {
                    last()?;
                    Ok(vec![(source.clone(), target.clone())])
                },
            ),
            End::Leave => drained(std::slice::from_ref(&source), last),
        })
    };
    jobs.start(options, work, |_| Ok(())).unwrap();
}

fn full(source: &Arc<Node>, target: &Arc<Node>, write_blocking: bool) -> Mirror {
    Mirror {
        source: source.clone(),
        target: target.clone(),
        sync: Sync::Full,
        granularity: 64 << 10,
        write_blocking,
        target_is_zero: false,
        depth: 1,
        only: None,
    }
}

#[test]
fn a_mirror_follows_a_guest_and_takes_over() {
    for blocking in [false, true] {
        let (source, target) = (memory("source"), memory("target"));
        let guest = Guest::new(&source);
        let thread = guest.start();
        let (jobs, log) = jobs();
        mirror(&jobs, options("mirror"), full(&source, &target, blocking));
        assert_eq!(jobs.wait_for("j", &[Status::Ready], LONG), Some(Status::Ready));
        assert!(matches!(jobs.dismiss("j"), Err(JobError::NotNow { .. })));
        jobs.complete("j").unwrap();
        assert_eq!(jobs.wait_for("j", &[Status::Concluded], LONG), Some(Status::Concluded));
        assert_eq!(guest.edge.node().name(), "target", "{:?}", jobs.query());
        guest.end(thread);
        let told = log.lock().unwrap().join(", ");
        assert_eq!(
            told,
            "JOB_STATUS_CHANGE created, JOB_STATUS_CHANGE running, JOB_STATUS_CHANGE ready, BLOCK_JOB_READY, \
             JOB_STATUS_CHANGE waiting, JOB_STATUS_CHANGE pending, BLOCK_JOB_COMPLETED, JOB_STATUS_CHANGE concluded"
        );
        jobs.dismiss("j").unwrap();
        assert!(jobs.query().is_empty());
    }
}

#[test]
fn a_mirror_that_is_left_is_the_disk_of_that_moment() {
    let (source, target) = (memory("source"), memory("target"));
    let guest = Guest::new(&source);
    let thread = guest.start();
    let (jobs, _) = jobs();
    mirror(&jobs, options("mirror"), full(&source, &target, false));
    assert!(jobs.wait_for("j", &[Status::Ready], LONG).is_some());
    // Between two writes, so that there is one content to compare with.
    let model = {
        let model = guest.model.lock().unwrap();
        jobs.cancel("j", false).unwrap();
        assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
        model.clone()
    };
    guest.end(thread);
    assert_eq!(guest.edge.node().name(), "source");
    assert!(contents(&*target) == model);
    assert!(jobs.query()[0].get("error").is_none());
}

#[test]
fn errors_are_dealt_with_as_the_user_wants() {
    let fault = |kind, once, errno| Fault { kinds: vec![kind], state: 0, sector: Some(3000), once, errno };
    for (fault, on, done) in [
        (fault(Kind::Write, true, 5), OnError::Ignore, true),
        (fault(Kind::Write, true, 28), OnError::Report, false),
        (fault(Kind::Write, true, 28), OnError::Enospc, true),
        (fault(Kind::Write, true, 5), OnError::Stop, true),
    ] {
        let source = memory("source");
        let broken =
            Arc::new(BlkDebug::new(Arc::new(MemoryNode::new("t", SIZE as usize)), vec![fault.clone()]));
        let target = over("target", broken.clone());
        let guest = Guest::new(&source);
        guest.edge.write(3000 * 512, &[IoSlice::new(&[1; 512])], false).unwrap();
        guest.model.lock().unwrap()[3000 * 512..3001 * 512].fill(1);
        let (jobs, log) = jobs();
        mirror(&jobs, JobOptions { on_target_error: on, ..options("mirror") }, full(&source, &target, false));
        let status = jobs.wait_for("j", &[Status::Ready, Status::Paused, Status::Concluded], LONG).unwrap();
        if status == Status::Paused {
            assert!(matches!(on, OnError::Stop | OnError::Enospc));
            jobs.resume("j").unwrap();
            jobs.wait_for("j", &[Status::Ready], LONG).unwrap();
        }
        assert_eq!(broken.failed(), 1);
        assert!(log.lock().unwrap().iter().any(|l| l == "BLOCK_JOB_ERROR"));
        if done {
            jobs.complete("j").unwrap();
        }
        jobs.wait_for("j", &[Status::Concluded], LONG).unwrap();
        let told = jobs.query()[0].get("error").cloned();
        assert_eq!(
            (guest.edge.node().name(), told.is_none()),
            (if done { "target" } else { "source" }, done)
        );
        assert!(contents(&*guest.edge) == *guest.model.lock().unwrap());
    }
}

fn backup(jobs: &Arc<Jobs>, options: JobOptions, backup: Backup, source: &Arc<Node>) {
    let mut backup = backup;
    drained(std::slice::from_ref(source), || backup.begin()).unwrap();
    jobs.start(options, move |job| backup.run(job), |_| Ok(())).unwrap();
}

#[test]
fn a_backup_is_the_disk_as_it_was() {
    let (source, target) = (memory("source"), memory("target"));
    let guest = Guest::new(&source);
    let thread = guest.start();
    let (jobs, _) = jobs();
    let model = {
        let model = guest.model.lock().unwrap();
        let b = Backup::new(source.clone(), target.clone(), Sync::Full, false, false, None).unwrap();
        backup(&jobs, JobOptions { speed: 20 << 20, ..options("backup") }, b, &source);
        model.clone()
    };
    assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
    guest.end(thread);
    assert!(contents(&*target) == model, "{:?}", jobs.query());
    assert!(*guest.writes.lock().unwrap() > 10);
}

#[test]
fn incremental_backups_follow_a_bitmap() {
    let source = memory("source");
    let guest = Guest::new(&source);
    let bitmap = Arc::new(DirtyBitmap::new("b", SIZE, 64 << 10, false).unwrap());
    source.add_bitmap(bitmap.clone());
    let mut random = Random(5);
    let base = memory("base");
    base.write(0, &[IoSlice::new(&contents(&*source))], false).unwrap();
    let (jobs, _) = jobs();
    for round in 0..4 {
        for _ in 0..5 {
            guest.write(&mut random);
        }
        assert!(bitmap.dirty_bytes() != 0);
        // The second one fails, and the next has everything.
        let faults = if round == 1 {
            vec![Fault {
                kinds: vec![Kind::Write, Kind::WriteZeroes],
                state: 0,
                sector: None,
                once: false,
                errno: 5,
            }]
        } else {
            Vec::new()
        };
        let broken = over("broken", Arc::new(BlkDebug::new(base.clone(), faults)));
        assert!(bitmap.take());
        let how = Some((bitmap.clone(), BitmapMode::OnSuccess));
        let b = Backup::new(source.clone(), broken, Sync::Incremental, false, false, how).unwrap();
        backup(&jobs, options("backup"), b, &source);
        jobs.wait_for("j", &[Status::Concluded], LONG).unwrap();
        let failed = jobs.query()[0].get("error").is_some();
        assert_eq!((failed, bitmap.busy()), (round == 1, false));
        if failed {
            assert!(bitmap.dirty_bytes() != 0);
        } else {
            assert_eq!(bitmap.dirty_bytes(), 0);
            assert!(contents(&*base) == *guest.model.lock().unwrap(), "round {round}");
        }
        jobs.dismiss("j").unwrap();
    }
}

/// A new image in a folder, over another one.
fn qcow2(dir: &Path, name: &str, backing: Option<&str>) {
    let mut options = Options::parse("cluster_size=4k").unwrap();
    if let Some(b) = backing {
        options.set("backing_file", b);
        options.set("backing_fmt", "qcow2");
    }
    block_formats::create("qcow2", &dir.join(name), None, Some(SIZE), &options).unwrap();
}

fn open(dir: &Path, name: &str, read_only: bool) -> Arc<dyn Image> {
    let options = OpenOptions { read_only, no_backing: true, ..OpenOptions::default() };
    block_formats::open(&dir.join(name).display().to_string(), Some("qcow2"), &options).unwrap()
}

/// base <- mid <- top, each with something of its own.
fn chain(dir: &Path) -> [Arc<Node>; 3] {
    qcow2(dir, "base", None);
    qcow2(dir, "mid", Some("base"));
    qcow2(dir, "top", Some("mid"));
    let nodes = ["base", "mid", "top"].map(|n| Node::new(n, open(dir, n, false)));
    nodes[1].replace_backing(Some(Edge::new("backing of mid", &nodes[0]))).unwrap();
    nodes[2].replace_backing(Some(Edge::new("backing of top", &nodes[1]))).unwrap();
    let mut random = Random(7);
    for (i, node) in nodes.iter().enumerate() {
        for _ in 0..30 {
            let at = random.below(SIZE / 4096 - 8) * 4096;
            node.write(at, &[IoSlice::new(&[i as u8 * 50 + random.below(50) as u8 + 1; 20000])], false)
                .unwrap();
        }
        node.write_zeroes(random.below(100) * 4096, 40960, true).unwrap();
    }
    nodes
}

#[test]
fn a_stream_frees_an_image_of_those_below() {
    for depth in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let [base, mid, top] = chain(dir.path());
        let guest = Guest {
            edge: Edge::new("guest", &top),
            model: Mutex::new(contents(&*top)),
            stop: AtomicBool::new(false),
            writes: Mutex::new(0),
        };
        let guest = Arc::new(guest);
        let thread = guest.start();
        let (jobs, _) = jobs();
        let stream = Stream { top: top.clone(), depth: if depth == 1 { 2 } else { 3 } };
        let (to, below) = (top.clone(), base.clone());
        let finish = move |good: bool| {
            assert!(good);
            let name = block_formats::BackingName { file: "base".into(), format: Some("qcow2".into()) };
            let new = (depth == 1).then_some(&name);
            to.set_backing(new)?;
            to.replace_backing((depth == 1).then(|| Edge::new("backing of top", &below) as Arc<dyn Image>))
        };
        jobs.start(options("stream"), move |job| stream.run(job), finish).unwrap();
        assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
        assert!(jobs.query()[0].get("error").is_none(), "{:?}", jobs.query());
        // What was between is not looked at any more.
        mid.image().write_zeroes(0, SIZE, false).unwrap();
        guest.end(thread);
        top.close().unwrap();
        let reopened = dir.path().join("top").display().to_string();
        drop((jobs, base, mid));
        let model = guest.model.lock().unwrap().clone();
        drop((guest, top));
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let image = block_formats::open(&reopened, Some("qcow2"), &options).unwrap();
        assert!(contents(&*image) == model, "depth {depth}");
    }
}

#[test]
fn a_commit_moves_what_lies_between() {
    let dir = tempfile::tempdir().unwrap();
    let [base, mid, top] = chain(dir.path());
    let model = contents(&*top);
    let guest = Edge::new("guest", &top);
    let (jobs, _) = jobs();
    let commit = Commit { top: mid.clone(), base: base.clone(), depth: 1 };
    let (over, below) = (top.clone(), base.clone());
    let finish = move |good: bool| {
        assert!(good);
        let name = block_formats::BackingName { file: "base".into(), format: Some("qcow2".into()) };
        over.set_backing(Some(&name))?;
        over.replace_backing(Some(Edge::new("backing of top", &below)))
    };
    jobs.start(options("commit"), move |job| commit.run(job), finish).unwrap();
    assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
    assert!(contents(&*guest) == model, "{:?}", jobs.query());
    mid.image().write_zeroes(0, SIZE, false).unwrap();
    assert!(contents(&*guest) == model);
}

#[test]
fn jobs_are_held_slowed_and_ended() {
    let (source, target) = (memory("source"), memory("target"));
    let (jobs, log) = jobs();
    mirror(&jobs, JobOptions { speed: 1 << 20, ..options("mirror") }, full(&source, &target, false));
    assert!(matches!(jobs.complete("j"), Err(JobError::NotNow { .. })));
    assert_eq!(jobs.pause("nope"), Err(JobError::NotFound("nope".into())));
    jobs.pause("j").unwrap();
    assert!(jobs.wait_for("j", &[Status::Paused], LONG).is_some());
    let far = |jobs: &Jobs| jobs.query()[0]["current-progress"].as_u64().unwrap();
    let before = far(&jobs);
    std::thread::sleep(Duration::from_millis(50));
    assert!(far(&jobs) == before && before < SIZE);
    assert_eq!(jobs.query_block()[0]["paused"], true);
    jobs.resume("j").unwrap();
    assert!(jobs.wait_for("j", &[Status::Running], LONG).is_some());
    assert!(matches!(jobs.start(options("mirror"), |_| Ok(()), |_| Ok(())), Err(JobError::InUse(_))));
    jobs.cancel("j", false).unwrap();
    assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
    assert!(log.lock().unwrap().iter().any(|l| l == "BLOCK_JOB_CANCELLED"));
    jobs.dismiss("j").unwrap();
    // One that waits for its user, and one that panics.
    let by_hand = JobOptions { auto_finalize: false, ..options("backup") };
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    jobs.start(
        by_hand,
        |_| Ok(()),
        move |good| {
            flag.store(good, Ordering::Relaxed);
            Ok(())
        },
    )
    .unwrap();
    assert!(jobs.wait_for("j", &[Status::Pending], LONG).is_some());
    assert!(!done.load(Ordering::Relaxed));
    jobs.finalize("j").unwrap();
    assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
    assert!(done.load(Ordering::Relaxed));
    jobs.dismiss("j").unwrap();
    jobs.start(
        options("backup"),
        |_| panic!("on purpose"),
        |good| {
            assert!(!good);
            Ok(())
        },
    )
    .unwrap();
    assert!(jobs.wait_for("j", &[Status::Concluded], LONG).is_some());
    assert!(jobs.query()[0]["error"].as_str().unwrap().contains("internal"));
    jobs.end_all();
}
