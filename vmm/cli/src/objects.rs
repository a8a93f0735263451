//! Objects of the user: threads and limits for disks, sources of random bytes, credentials.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result, anyhow, bail};
use block::IoPool;
use block_filters::{Limits, ThrottleGroup};
use block_formats::{Options, Secrets};
use block_nbd::{AUTHZ_KINDS, Authz, TlsClient, TlsServer};
use control::config::ObjectConfig;
use control::vm::IothreadInfo;
use serde_json::{Map, Value};

use crate::host;
use crate::nodes::Graph;

/// Where `rng-random` reads unless it is told otherwise.
const RANDOM: &str = "/dev/urandom";

/// One object.
enum Object {
    /// A thread that does a disk's work.
    Iothread { pool: IoPool, thread_id: u64 },
    /// Random bytes from a file, or from the host if there is none.
    Rng(Option<File>),
    /// Limits that block nodes share.
    Throttle(Arc<ThrottleGroup>),
    /// A password or key; the graph has it.
    Secret,
    /// Credentials of clients.
    TlsClient(TlsClient),
    /// Credentials of servers.
    TlsServer(TlsServer),
    /// Who may use a server.
    Authz(Authz),
}

/// All of them, with how many users each has.
#[derive(Default)]
pub(crate) struct Objects {
    all: BTreeMap<String, (ObjectConfig, Object, usize)>,
    secrets: Secrets,
}

impl Objects {
    /// Makes one more, under an id that is free.
    pub(crate) fn add(&mut self, o: &ObjectConfig) -> Result<()> {
        let said = || format!("object '{}'", o.id);
        let mut shown = o.clone();
        let object = if o.qom_type == "secret" {
            self.secrets.define(secret(o).with_context(said)?).with_context(said)?;
            // What is kept here can be asked for.
            shown.props.remove("data");
            Object::Secret
        } else {
            make(o).with_context(said)?
        };
        self.all.insert(o.id.clone(), (shown, object, 0));
        Ok(())
    }

    /// Takes one away that nobody uses.
    pub(crate) fn remove(&mut self, id: &str) -> Result<()> {
        match self.all.get(id) {
            None => bail!("object '{id}' not found"),
            Some((_, _, users)) if *users > 0 => bail!("object '{id}' is in use, can not be deleted"),
            Some(_) => drop(self.all.remove(id)),
        }
        self.secrets.remove(id);
        Ok(())
    }

    fn find(&mut self, kind: &str, id: &str) -> Result<&mut (ObjectConfig, Object, usize)> {
        let fits = |o: &ObjectConfig| o.qom_type.starts_with(kind);
        let known: Vec<String> =
            self.all.values().filter(|(o, ..)| fits(o)).map(|(o, ..)| o.id.clone()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let found = self.all.get_mut(id).filter(|(o, ..)| fits(o));
        found.ok_or_else(|| anyhow!("{kind} object '{id}' does not exist; there are: {known}"))
    }

    /// The threads of an `iothread`.
    pub(crate) fn pool(&mut self, id: &str) -> Result<IoPool> {
        let (_, object, users) = self.find("iothread", id)?;
        let Object::Iothread { pool, .. } = object else { bail!("object '{id}' is no iothread") };
        *users += 1;
        Ok(pool.clone())
    }

    /// The source of an `rng-*`: a file of its own, or the host's generator.
    pub(crate) fn rng(&mut self, id: &str) -> Result<Option<File>> {
        let (_, object, users) = self.find("rng-", id)?;
        let Object::Rng(file) = object else { bail!("object '{id}' is no source of random bytes") };
        *users += 1;
        Ok(file.as_ref().map(File::try_clone).transpose()?)
    }

    /// Tells the block graph of what its nodes name.
    pub(crate) fn give(&self, graph: &mut Graph) {
        graph.tls.clear();
        graph.secrets = self.secrets.clone();
        for (id, (_, object, _)) in &self.all {
            match object {
                Object::Throttle(group) => drop(graph.groups.insert(id.clone(), group.clone())),
                Object::TlsClient(tls) => graph.tls.push((id.clone(), tls.clone())),
                _ => {}
            }
        }
    }

    /// Credentials of servers, by id.
    pub(crate) fn tls_servers(&self) -> Vec<(String, TlsServer)> {
        let one = |(id, (_, object, _)): (&String, &(ObjectConfig, Object, usize))| match object {
            Object::TlsServer(tls) => Some((id.clone(), tls.clone())),
            _ => None,
        };
        self.all.iter().filter_map(one).collect()
    }

    /// Who may use servers, by id.
    pub(crate) fn authz(&self) -> Vec<(String, Authz)> {
        let one = |(id, (_, object, _)): (&String, &(ObjectConfig, Object, usize))| match object {
            Object::Authz(authz) => Some((id.clone(), authz.clone())),
            _ => None,
        };
        self.all.iter().filter_map(one).collect()
    }

    /// For `query-iothreads`.
    pub(crate) fn iothreads(&self) -> Vec<IothreadInfo> {
        let one = |(id, (_, object, _)): (&String, &(ObjectConfig, Object, usize))| match object {
            Object::Iothread { thread_id, .. } => {
                Some(IothreadInfo { id: id.clone(), thread_id: *thread_id })
            }
            _ => None,
        };
        self.all.iter().filter_map(one).collect()
    }

    /// Ids and types.
    pub(crate) fn list(&self) -> impl Iterator<Item = &ObjectConfig> {
        self.all.values().map(|(o, ..)| o)
    }
}

/// The options of a secret.
fn secret(o: &ObjectConfig) -> Result<Options> {
    let mut options = Options::default();
    options.set("id", &o.id);
    for (key, _) in o.props.iter() {
        if let Some(value) = o.props.text(key)? {
            options.set(key, value);
        }
    }
    Ok(options)
}

fn make(o: &ObjectConfig) -> Result<Object> {
    Ok(match o.qom_type.as_str() {
        "iothread" => {
            for (key, value) in o.props.iter() {
                if value.as_str().is_some_and(|v| v != "0") || value.as_u64().is_some_and(|n| n != 0) {
                    bail!("iothread: {key} is not supported: the thread sleeps instead of polling");
                }
            }
            let pool = IoPool::new(1);
            let (tx, rx) = mpsc::channel();
            pool.run(Box::new(move || {
                let _ = tx.send(host::thread_id());
            }));
            Object::Iothread { thread_id: rx.recv().unwrap_or_default(), pool }
        }
        "rng-builtin" => Object::Rng(None),
        "rng-random" => {
            let path = o.props.text("filename")?;
            let path = path.as_deref().unwrap_or(RANDOM);
            Object::Rng(Some(host::open_unblocking(path).with_context(|| path.to_owned())?))
        }
        "throttle-group" => {
            // QMP's `limits`, and the command line's `x-` properties.
            let mut map: Map<String, Value> =
                o.props.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
            if let Some(Value::Object(limits)) = map.remove("limits") {
                map.extend(limits);
            }
            Object::Throttle(ThrottleGroup::new(&o.id, Limits::parse(&map)?))
        }
        "tls-creds-x509" => {
            o.props.check_keys(
                "tls-creds-x509",
                &["dir", "endpoint", "verify-peer", "priority", "sanity-check"],
            )?;
            let dir = o.props.text("dir")?.ok_or_else(|| anyhow!("needs 'dir'"))?.into_owned();
            match o.props.text("endpoint")?.as_deref().unwrap_or("client") {
                "client" => Object::TlsClient(TlsClient::open(dir.as_ref())?),
                "server" => {
                    let verify = o.props.bool("verify-peer")?.unwrap_or(true);
                    Object::TlsServer(TlsServer::open(dir.as_ref(), verify)?)
                }
                other => bail!("endpoint={other}: expected client or server"),
            }
        }
        kind if AUTHZ_KINDS.contains(&kind) => {
            let map = o.props.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
            Object::Authz(Authz::parse(kind, &map).map_err(|e| anyhow!("{kind}: {e}"))?)
        }
        other => bail!("an object of type '{other}' cannot be made while the machine runs"),
    })
}

/// Fills `data` from a source of random bytes; false if it has none at the moment.
pub(crate) fn draw(mut file: &File, data: &mut [u8]) -> bool {
    file.read_exact(data).is_ok()
}
