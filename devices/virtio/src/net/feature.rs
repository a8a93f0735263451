//! Feature bits of the network card (virtio 1.2, 5.1.3), and of virtio 1.2's successor those of UDP segmentation.

pub(super) const CSUM: u64 = 1 << 0;
pub(super) const GUEST_CSUM: u64 = 1 << 1;
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(super) const MTU: u64 = 1 << 3;
pub(super) const MAC: u64 = 1 << 5;
pub(super) const GUEST_TSO4: u64 = 1 << 7;
pub(super) const GUEST_TSO6: u64 = 1 << 8;
pub(super) const GUEST_ECN: u64 = 1 << 9;
pub(super) const HOST_TSO4: u64 = 1 << 11;
pub(super) const HOST_TSO6: u64 = 1 << 12;
pub(super) const HOST_ECN: u64 = 1 << 13;
pub(super) const MRG_RXBUF: u64 = 1 << 15;
pub(super) const STATUS: u64 = 1 << 16;
pub(super) const CTRL_VQ: u64 = 1 << 17;
pub(super) const CTRL_RX: u64 = 1 << 18;
pub(super) const CTRL_VLAN: u64 = 1 << 19;
pub(super) const CTRL_RX_EXTRA: u64 = 1 << 20;
pub(super) const GUEST_ANNOUNCE: u64 = 1 << 21;
pub(super) const MQ: u64 = 1 << 22;
pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
pub(super) const GUEST_USO4: u64 = 1 << 54;
pub(super) const GUEST_USO6: u64 = 1 << 55;
pub(super) const HOST_USO: u64 = 1 << 56;
pub(super) const HASH_REPORT: u64 = 1 << 57;
pub(super) const RSS: u64 = 1 << 60;
pub(super) const SPEED_DUPLEX: u64 = 1 << 63;
/// What the guest takes from the host.
pub(super) const GUEST: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6;
/// What the host takes from the guest.
pub(super) const HOST: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO;
/// What is between the driver and the card alone, whoever serves the rings.
pub(super) const OWN: u64 = MAC
    | MTU
    | STATUS
    | CTRL_VQ
    | CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | CTRL_MAC_ADDR
    | CTRL_GUEST_OFFLOADS
    | GUEST_ANNOUNCE
    | SPEED_DUPLEX
    | crate::device::feature::ACCESS_PLATFORM
    | crate::device::feature::RING_RESET;
/// Those of them that the endpoint must know of.
pub(super) const USO: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;
/// Features and what each needs, which is before those that need it in turn.
pub(super) const NEEDS: &[(u64, u64)] = &[
    (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (HOST_TSO4 | HOST_TSO6 | HOST_USO, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
    (
        CTRL_RX
            | CTRL_VLAN
            | CTRL_RX_EXTRA
            | GUEST_ANNOUNCE
            | MQ
            | CTRL_MAC_ADDR
            | CTRL_GUEST_OFFLOADS
            | HASH_REPORT
            | RSS,
        CTRL_VQ,
    ),
];
