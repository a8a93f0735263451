//! -device, -global, -object.

use super::super::ListOf;
use super::super::build::{Builder, Stop};
use super::super::group::{Group, Key, Kind, Values, number, size, switch, text, word};
use super::{Done, Family};
use crate::config::{ConfigError, DeviceConfig, FwCfgItem, GlobalProperty, ObjectConfig};

pub(crate) static DEVICE: Group = Group {
    name: "device",
    implied: Some("driver"),
    keys: &[text("driver"), text("id"), text("bus")],
    open: true,
    json: true,
    apply: device,
};

fn device(b: &mut Builder, v: &mut Values) -> Done {
    let driver = v.needed("driver")?;
    if driver == "help" || driver == "?" {
        b.ask(ListOf::Devices);
        return Ok(());
    }
    if v.help() {
        b.ask(ListOf::DeviceProps(driver));
        v.rest();
        return Ok(());
    }
    let id = v.text("id")?;
    if let Some(id) = &id {
        check_id(id)?;
    }
    b.config.devices.push(DeviceConfig { driver, id, bus: v.text("bus")?, props: v.rest() });
    Ok(())
}

/// Ids start with a letter and hold letters, digits, `-`, `.` and `_`.
pub(crate) fn check_id(id: &str) -> Result<(), ConfigError> {
    let mut chars = id.chars();
    let fits = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if fits {
        Ok(())
    } else {
        Err(ConfigError::bad("id", id, "a letter followed by letters, digits, '-', '.' or '_'"))
    }
}

pub(crate) static GLOBAL: Group = Group {
    name: "global",
    implied: None,
    keys: &[text("driver"), text("property"), text("value")],
    open: true,
    json: false,
    apply: global,
};

fn global(b: &mut Builder, v: &mut Values) -> Done {
    let g = if v.has("driver") {
        GlobalProperty {
            driver: v.needed("driver")?,
            property: v.needed("property")?,
            value: v.text("value")?.unwrap_or_default(),
        }
    } else {
        let mut rest = v.rest_in_order().into_iter();
        let (path, value) = match (rest.next(), rest.next()) {
            (Some(one), None) => one,
            _ => return Err(ConfigError::Syntax("expected driver.property=value".into()).into()),
        };
        let Some((driver, property)) = path.rsplit_once('.').filter(|(d, p)| !d.is_empty() && !p.is_empty())
        else {
            return Err(ConfigError::bad("global", path, "driver.property=value").into());
        };
        let value = value.as_str().unwrap_or_default().to_owned();
        GlobalProperty { driver: driver.to_owned(), property: property.to_owned(), value }
    };
    b.config.globals.push(g);
    Ok(())
}

pub(crate) static FW_CFG: Group = Group {
    name: "fw_cfg",
    implied: Some("name"),
    keys: &[text("name"), text("file"), text("string")],
    open: false,
    json: false,
    apply: |b, v| {
        let item = FwCfgItem { name: v.needed("name")?, file: v.text("file")?, string: v.text("string")? };
        if item.file.is_some() == item.string.is_some() {
            return Err(
                ConfigError::Conflict(format!("fw_cfg '{}': expected file or string", item.name)).into()
            );
        }
        b.config.fw_cfg.push(item);
        Ok(())
    },
};

/// Keys that all RAM back ends have.
macro_rules! ram_keys {
    ($($more:expr),*) => {
        &[
            size("size"), switch("share"), switch("prealloc"), number("prealloc-threads"), switch("merge"),
            switch("dump"), switch("reserve"), text("host-nodes"),
            word("policy", &["default", "preferred", "bind", "interleave"]), $($more),*
        ]
    };
}

/// Keys that all network filters have.
macro_rules! filter_keys {
    ($($more:expr),*) => {
        &[
            text("netdev"), word("queue", &["all", "rx", "tx"]), switch("status"), text("position"),
            word("insert", &["before", "behind"]), $($more),*
        ]
    };
}

/// Limits of a group of block nodes, each an average, a maximum and how long that may last.
macro_rules! limit_keys {
    ($($name:literal)*) => {
        &[
            $(
                size(concat!("x-", $name)),
                size(concat!("x-", $name, "-max")),
                number(concat!("x-", $name, "-max-length")),
            )*
            size("x-iops-size"),
            text("limits"),
        ]
    };
}

pub(crate) static OBJECTS: Family = Family {
    what: "object",
    members: &[
        ("memory-backend-ram", ram_keys!()),
        ("memory-backend-memfd", ram_keys!(switch("hugetlb"), size("hugetlbsize"), switch("seal"))),
        (
            "memory-backend-file",
            ram_keys!(
                text("mem-path"),
                switch("readonly"),
                switch("discard-data"),
                switch("pmem"),
                size("offset"),
                size("align")
            ),
        ),
        ("rng-random", &[text("filename")]),
        ("rng-builtin", &[]),
        (
            "iothread",
            &[number("poll-max-ns"), number("poll-grow"), number("poll-shrink"), number("aio-max-batch")],
        ),
        ("filter-dump", filter_keys!(text("file"), size("maxlen"))),
        ("filter-buffer", filter_keys!(number("interval"))),
        ("filter-mirror", filter_keys!(text("outdev"), switch("vnet_hdr_support"))),
        ("filter-redirector", filter_keys!(text("indev"), text("outdev"), switch("vnet_hdr_support"))),
        ("filter-rewriter", filter_keys!(switch("vnet_hdr_support"))),
        ("filter-replay", filter_keys!()),
        (
            "filter-impair",
            filter_keys!(
                text("loss"),
                text("duplicate"),
                text("reorder"),
                number("delay"),
                number("jitter"),
                number("seed")
            ),
        ),
        (
            "throttle-group",
            limit_keys!("bps-total" "bps-read" "bps-write" "iops-total" "iops-read" "iops-write"),
        ),
        (
            "secret",
            &[text("data"), text("file"), word("format", &["raw", "base64"]), text("keyid"), text("iv")],
        ),
        ("authz-simple", &[text("identity")]),
        ("authz-list", &[word("policy", &["allow", "deny"]), Key { name: "rules", kind: Kind::Parts }]),
        ("authz-list-file", &[text("filename"), switch("refresh")]),
        (
            "tls-creds-x509",
            &[
                text("dir"),
                word("endpoint", &["client", "server"]),
                switch("verify-peer"),
                switch("sanity-check"),
                text("priority"),
            ],
        ),
    ],
};

pub(crate) static OBJECT: Group = Group {
    name: "object",
    implied: Some("qom-type"),
    keys: &[
        text("qom-type"),
        text("id"),
        // Switches of all members, so that the short forms `share` and `noshare` are understood.
        switch("share"),
        switch("prealloc"),
        switch("hugetlb"),
        switch("readonly"),
        Key { name: "size", kind: Kind::Size(1) },
    ],
    open: true,
    json: true,
    apply: object,
};

fn object(b: &mut Builder, v: &mut Values) -> Done {
    let qom_type = v.needed("qom-type")?;
    OBJECTS.answer_help(&qom_type, v)?;
    OBJECTS.keys(&qom_type)?;
    let id = v.needed("id")?;
    check_id(&id)?;
    OBJECTS.check(&qom_type, v)?;
    if qom_type.starts_with("memory-backend-") && !v.has("size") {
        return Err(Stop::Error(ConfigError::missing(qom_type, "size")));
    }
    if qom_type == "memory-backend-file" && !v.has("mem-path") {
        return Err(Stop::Error(ConfigError::missing(qom_type, "mem-path")));
    }
    b.config.objects.push(ObjectConfig { qom_type, id, props: v.rest() });
    Ok(())
}

pub(crate) fn mem_path(b: &mut Builder, path: &str) -> Done {
    b.mem_path = Some(path.to_owned());
    Ok(())
}

pub(crate) fn mem_prealloc(b: &mut Builder) -> Done {
    b.mem_prealloc = true;
    Ok(())
}
