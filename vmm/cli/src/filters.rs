//! Network filters of the user: objects that sit on the cable of a back end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use control::chardev::PortKind;
use control::config::{ObjectConfig, Props};
use device::{CharBackend, CharEvent, CharReceiver};
use net::filter::{
    BufferFilter, DumpFilter, Filter, FrameCodec, FrameSink, ImpairFilter, Impairment, MirrorFilter, Queue,
    RedirectFilter, ReplayFilter, RewriterFilter,
};
use net::{Cable, Position};
use parking_lot::Mutex;

use crate::chardevs::Chars;
use crate::netdevs::Nets;

/// What the types of all filters begin with.
const PREFIX: &str = "filter-";
/// Bytes that wait for a slow character back end.
const PENDING: usize = 4 << 20;
/// Bytes of a frame that are dumped unless told otherwise.
const DUMPED: u64 = 65536;

/// A filter in its place.
struct Placed {
    config: ObjectConfig,
    cable: Weak<Cable>,
    /// What it reads from goes when it goes.
    input: Option<Arc<dyn CharBackend>>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Filters(BTreeMap<String, Placed>);

/// Whether an object is one of them.
pub(crate) fn is_filter(o: &ObjectConfig) -> bool {
    o.qom_type.starts_with(PREFIX)
}

impl Filters {
    /// Makes one and puts it on its cable.
    pub(crate) fn add(&mut self, o: &ObjectConfig, nets: &Nets, chars: &Chars) -> Result<()> {
        let placed = place(o, nets, chars).with_context(|| format!("object '{}'", o.id))?;
        self.0.insert(o.id.clone(), placed);
        Ok(())
    }

    /// Takes one away; false if there is none.
    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let Some(placed) = self.0.remove(id) else { return false };
        if let Some(cable) = placed.cable.upgrade() {
            cable.detach(id);
        }
        if let Some(input) = placed.input {
            input.set_receiver(None);
        }
        true
    }

    /// Switches one on or off; false if there is none.
    pub(crate) fn switch(&self, id: &str, on: bool) -> bool {
        let cable = self.0.get(id).and_then(|p| p.cable.upgrade());
        cable.is_some_and(|c| c.switch(id, on))
    }

    /// Ids and types.
    pub(crate) fn list(&self) -> impl Iterator<Item = &ObjectConfig> {
        self.0.values().map(|p| &p.config)
    }
}

fn needed(props: &Props, key: &str) -> Result<String> {
    Ok(props.text(key)?.ok_or_else(|| anyhow!("needs {key}=..."))?.into_owned())
}

fn position(props: &Props) -> Result<Position> {
    let insert = props.text("insert")?;
    let before = match insert.as_deref() {
        None | Some("behind") => false,
        Some("before") => true,
        Some(other) => bail!("insert={other}: expected before or behind"),
    };
    Ok(match props.text("position")?.as_deref() {
        None | Some("tail") => Position::Tail,
        Some("head") => Position::Head,
        Some(text) => match text.strip_prefix("id=") {
            Some(id) if before => Position::Before(id.to_owned()),
            Some(id) => Position::Behind(id.to_owned()),
            None => bail!("position={text}: expected head, tail or id=FILTER"),
        },
    })
}

fn place(o: &ObjectConfig, nets: &Nets, chars: &Chars) -> Result<Placed> {
    let props = &o.props;
    let cable = nets.cable(&needed(props, "netdev")?)?.clone();
    let queue = props.text("queue")?;
    let queue = match queue.as_deref() {
        None => Queue::All,
        Some(text) => Queue::parse(text).ok_or_else(|| anyhow!("queue={text}: expected all, rx or tx"))?,
    };
    let on = props.bool("status")?.unwrap_or(true);
    let position = position(props)?;
    let headers = props.bool("vnet_hdr_support")?.unwrap_or(false);
    let out =
        |key: &str| -> Result<Option<FrameSink>> { props.text(key)?.map(|id| sink(&id, chars)).transpose() };
    let mut input = None;
    let filter: Arc<dyn Filter> = match o.qom_type.as_str() {
        "filter-dump" => {
            let most = props.size("maxlen")?.unwrap_or(DUMPED);
            let most = u32::try_from(most).map_err(|_| anyhow!("maxlen={most}: expected less than 4 GiB"))?;
            Arc::new(DumpFilter::create(Path::new(&needed(props, "file")?), most)?)
        }
        "filter-buffer" => {
            let interval = props.u64("interval")?.ok_or_else(|| anyhow!("needs interval=MICROSECONDS"))?;
            Arc::new(BufferFilter::new(Duration::from_micros(interval))?)
        }
        "filter-mirror" => {
            let out = out("outdev")?.ok_or_else(|| anyhow!("needs outdev=CHARDEV"))?;
            Arc::new(MirrorFilter::new(out, headers))
        }
        "filter-redirector" => {
            let (inward, outward) = (props.text("indev")?, props.text("outdev")?);
            if inward.is_none() && outward.is_none() {
                bail!("needs indev=CHARDEV, outdev=CHARDEV or both");
            }
            if inward == outward {
                bail!("indev and outdev: expected two character back ends");
            }
            let redirect = Arc::new(RedirectFilter::new(out("outdev")?, headers, queue));
            if let Some(id) = inward {
                let from = chars.connect(&id, PortKind::Device)?;
                let codec = redirect.codec();
                from.set_receiver(Some(Box::new(Inward { codec, to: Arc::downgrade(&redirect) })));
                input = Some(from);
            }
            redirect
        }
        "filter-rewriter" => Arc::new(RewriterFilter::new()),
        "filter-impair" => Arc::new(ImpairFilter::new(impairment(props)?)?),
        "filter-replay" => Arc::new(ReplayFilter),
        other => bail!("{other} is not supported"),
    };
    cable.attach(&o.id, queue, filter, &position, on)?;
    Ok(Placed { config: o.clone(), cable: Arc::downgrade(&cable), input })
}

fn impairment(props: &Props) -> Result<Impairment> {
    let percent = |key: &str| -> Result<f64> {
        let Some(text) = props.text(key)? else { return Ok(0.0) };
        text.parse().map_err(|_| anyhow!("{key}={text}: expected a percentage such as 0.5"))
    };
    let time = |key: &str| Ok::<_, anyhow::Error>(Duration::from_micros(props.u64(key)?.unwrap_or(0)));
    Ok(Impairment {
        loss: percent("loss")?,
        duplicate: percent("duplicate")?,
        reorder: percent("reorder")?,
        delay: time("delay")?,
        jitter: time("jitter")?,
        seed: props.u64("seed")?.unwrap_or(0),
    })
}

/// Bytes on their way into a character back end.
struct Outward {
    to: Arc<dyn CharBackend>,
    pending: Mutex<Vec<u8>>,
}

impl Outward {
    fn flush(&self, pending: &mut Vec<u8>) {
        let mut done = 0;
        while done < pending.len() {
            match self.to.write(&pending[done..]) {
                0 => break,
                n => done += n,
            }
        }
        pending.drain(..done);
    }

    fn write(&self, data: &[u8]) -> bool {
        let mut pending = self.pending.lock();
        if !self.to.is_open() || pending.len() + data.len() > PENDING {
            return false;
        }
        pending.extend_from_slice(data);
        self.flush(&mut pending);
        true
    }
}

/// Hears when there is room again.
struct Room(Weak<Outward>);

impl CharReceiver for Room {
    fn can_receive(&mut self) -> usize {
        4096
    }

    fn receive(&mut self, _data: &[u8]) {}

    fn event(&mut self, event: CharEvent) {
        let Some(out) = self.0.upgrade() else { return };
        let mut pending = out.pending.lock();
        match event {
            // A new peer is not to begin in the middle of a frame.
            CharEvent::Opened | CharEvent::Closed => pending.clear(),
            _ => out.flush(&mut pending),
        }
    }
}

fn sink(id: &str, chars: &Chars) -> Result<FrameSink> {
    let out = Arc::new(Outward { to: chars.connect(id, PortKind::Device)?, pending: Mutex::default() });
    out.to.set_receiver(Some(Box::new(Room(Arc::downgrade(&out)))));
    Ok(Box::new(move |data| out.write(data)))
}

/// Frames from a character back end.
struct Inward {
    codec: FrameCodec,
    to: Weak<RedirectFilter>,
}

impl CharReceiver for Inward {
    fn can_receive(&mut self) -> usize {
        65536
    }

    fn receive(&mut self, data: &[u8]) {
        let Some(to) = self.to.upgrade() else { return };
        if !self.codec.decode(data, |frame, header| to.feed(frame, header)) {
            tracing::warn!(
                "network filter: its indev announces a frame that is too long: what came is dropped"
            );
        }
    }

    fn event(&mut self, event: CharEvent) {
        if matches!(event, CharEvent::Opened | CharEvent::Closed) {
            self.codec.clear();
        }
    }
}
