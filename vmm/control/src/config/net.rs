//! Networking: back ends and cards.

use super::Props;
use serde::{Deserialize, Serialize};

/// One network back end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Netdev {
    /// Unique id.
    pub id: String,
    /// `user`, `tap`, `bridge`, `socket`, `stream`, `dgram`, `l2tpv3`, `vde`, `vhost-user`, `hubport`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Options of the type, checked against its key table. A key given several times is a list.
    #[serde(default, skip_serializing_if = "Props::is_empty")]
    pub props: Props,
}

/// One network card whose place the board chooses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Nic {
    /// Id of its back end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netdev: Option<String>,
    /// Card model; `None` is the board's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MAC address `xx:xx:xx:xx:xx:xx`; `None` means that one is assigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Name shown in `info network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bus address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Number of MSI-X vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors: Option<u32>,
}
