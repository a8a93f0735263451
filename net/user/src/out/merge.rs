//! Datagrams for the guest, several in one frame (virtio 1.2, 5.1.6.2: `VIRTIO_NET_HDR_GSO_UDP_L4`): those that came from one peer
//! one after the other, all of the same size but for the last, which may be shorter.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use smoltcp::wire::{IpProtocol, checksum};

use super::{ETHERNET, GSO_UDP, GUEST_CSUM, NEEDS_CSUM, Out, VNET};

/// Feature bits of what a guest takes.
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
/// Most datagrams in one frame, as Linux has it, and most of their bytes.
const MERGED: usize = 64;
const MERGED_BYTES: usize = 65_000;

/// Datagrams from one peer of the same size, of which the last may be shorter.
pub(super) struct Merge {
    ends: (SocketAddr, SocketAddr),
    size: usize,
    count: usize,
    data: Vec<u8>,
}

impl Merge {
    fn takes(&self, ends: (SocketAddr, SocketAddr), length: usize) -> bool {
        self.ends == ends
            && (1..=self.size).contains(&length)
            && self.data.len() == self.count * self.size
            && self.count < MERGED
            && self.data.len() + length <= MERGED_BYTES
    }
}

impl Out {
    /// Sends a datagram, together with those after it if the guest takes several in one frame. [`Out::end_merge`] ends that.
    pub(crate) fn udp_merged(&mut self, src: SocketAddr, dst: SocketAddr, data: &[u8]) {
        let wanted = GUEST_CSUM | if src.is_ipv4() { GUEST_USO4 } else { GUEST_USO6 };
        let headers = 8 + if src.is_ipv4() { 20 } else { 40 };
        let whole = data.len() + headers <= self.mtu_to(dst.ip());
        if let Some(merge) = self.merge.as_mut().filter(|m| whole && m.takes((src, dst), data.len())) {
            merge.data.extend_from_slice(data);
            merge.count += 1;
            return;
        }
        self.end_merge();
        if self.shared.offloads.load(Ordering::Relaxed) & wanted != wanted || data.is_empty() || !whole {
            return self.udp(src, dst, data);
        }
        self.merge = Some(Merge { ends: (src, dst), size: data.len(), count: 1, data: data.to_vec() });
    }

    /// Sends what was kept to be sent with more.
    pub(crate) fn end_merge(&mut self) {
        let Some(Merge { ends: (src, dst), size, count, data }) = self.merge.take() else { return };
        if count == 1 {
            return self.udp(src, dst, &data);
        }
        self.ident = self.ident.wrapping_add(1);
        let (header, length) = (if src.is_ipv4() { 20 } else { 40 }, 8 + data.len());
        let at = VNET + ETHERNET + header;
        let mut frame = vec![0; at];
        let sum = checksum::pseudo_header(&src.ip().into(), &dst.ip().into(), IpProtocol::Udp, length as u32);
        for n in [src.port(), dst.port(), length as u16, sum] {
            frame.extend_from_slice(&n.to_be_bytes());
        }
        frame.extend_from_slice(&data);
        self.headers(&mut frame, at, (src.ip(), dst.ip()), IpProtocol::Udp, (length, 0));
        frame[..2].copy_from_slice(&[NEEDS_CSUM, GSO_UDP]);
        let fields = [at - VNET + 8, size, at - VNET, 6];
        for (field, value) in frame[2..10].chunks_mut(2).zip(fields) {
            field.copy_from_slice(&(value as u16).to_le_bytes());
        }
        self.control(frame);
    }
}
