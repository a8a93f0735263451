//! Which threads do the work of which queues of a disk (QEMU, `iothread-vq-mapping`).

use anyhow::{Result, anyhow, bail};
use block::IoPool;
use control::config::Props;
use serde_json::Value;

use crate::backends::Backends;

const MAPPING: &str = "iothread-vq-mapping";

/// Threads for each queue of a disk: one `iothread` for all, or a list that says which queues each has.
pub(crate) fn pools(backends: &mut Backends, props: &mut Props, queues: u16) -> Result<Vec<IoPool>> {
    let iothread = props.take_text("iothread")?;
    let list = match (props.remove(MAPPING), &iothread) {
        (None, _) => return Ok(vec![backends.pool(iothread.as_deref())?]),
        (Some(_), Some(_)) => bail!("{MAPPING} and iothread cannot be set at the same time"),
        (Some(Value::Array(list)), None) if !list.is_empty() => list,
        (Some(_), None) => bail!("{MAPPING} expects a list of objects with 'iothread', in JSON"),
    };
    let named = |item: &Value| item.get("iothread").and_then(Value::as_str).map(str::to_owned);
    let mut threads = Vec::new();
    for item in &list {
        let known = ["iothread", "vqs"];
        let stray = item.as_object().and_then(|o| o.keys().find(|k| !known.contains(&k.as_str())));
        let id = named(item).filter(|_| stray.is_none());
        let id =
            id.ok_or_else(|| anyhow!("{MAPPING} expects objects with 'iothread' and 'vqs', got {item}"))?;
        if threads.iter().any(|(other, _)| *other == id) {
            bail!("{MAPPING}: iothread '{id}' is given twice");
        }
        let pool = backends.pool(Some(&id))?;
        threads.push((id, pool));
    }
    let of_queue: Vec<Option<&Value>> = list.iter().map(|item| item.get("vqs")).collect();
    if of_queue.iter().all(Option::is_none) {
        return Ok(threads.into_iter().map(|(_, pool)| pool).collect());
    }
    let mut out = vec![None; queues.into()];
    for ((id, pool), vqs) in threads.iter().zip(of_queue) {
        let Some(Value::Array(vqs)) = vqs else {
            bail!("{MAPPING}: either all iothreads have 'vqs', a list of queues, or none has")
        };
        for vq in vqs {
            let place = vq.as_u64().and_then(|n| out.get_mut(usize::try_from(n).ok()?));
            match place {
                Some(place @ None) => *place = Some(pool.clone()),
                Some(_) => bail!("{MAPPING}: queue {vq} is given twice"),
                None => bail!("{MAPPING}: iothread '{id}': queue {vq}: expected one of {queues}"),
            }
        }
    }
    let missing = out.iter().position(Option::is_none);
    if let Some(n) = missing {
        bail!("{MAPPING}: queue {n} has no iothread");
    }
    Ok(out.into_iter().flatten().collect())
}
