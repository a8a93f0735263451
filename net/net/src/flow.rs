//! Which frames belong together.

/// A number that is the same for all frames of a flow: addresses of Ethernet and IP, ports of TCP and UDP.
pub fn flow_hash(frame: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    let mut add = |bytes: Option<&[u8]>| {
        for &byte in bytes.unwrap_or_default() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    };
    add(frame.get(..12));
    match frame.get(12..14) {
        Some([0x08, 0x00]) => {
            add(frame.get(26..34));
            let length = frame.get(14).map_or(0, |b| usize::from(b & 0xf) * 4);
            let whole = frame.get(20..22).is_some_and(|f| f[0] & 0x3f == 0 && f[1] == 0);
            if whole && matches!(frame.get(23), Some(6 | 17)) {
                add(frame.get(14 + length..14 + length + 4));
            }
        }
        Some([0x86, 0xdd]) => {
            add(frame.get(22..54));
            if matches!(frame.get(20), Some(6 | 17)) {
                add(frame.get(54..58));
            }
        }
        _ => {}
    }
    hash
}

/// Which of several queues a frame with `header` bytes before it goes to: all frames of a flow go to the same.
#[cfg(unix)]
pub(crate) fn spread(frame: &[&[u8]], header: usize, queues: usize) -> usize {
    if queues <= 1 {
        return 0;
    }
    let whole;
    let flow = match frame {
        [head, payload] if head.len() == header => payload,
        [one] => one.get(header..).unwrap_or_default(),
        _ => {
            whole = frame.concat();
            whole.get(header..).unwrap_or_default()
        }
    };
    flow_hash(flow) as usize % queues
}
