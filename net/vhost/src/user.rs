//! The contract on a vhost-user session (`vhost_user::Front`).
//!
//! A session may have had other rings before, in memory of the front end's own, and may get them back afterwards. That memory stays
//! in the table beside the guest's: a back end may look up rings that it no longer serves whenever the table is another.

use std::os::fd::{AsFd, BorrowedFd};

use vhost_user::{Front, MOST_REGIONS, Region};

use crate::{Error, Plan, Table};

/// A piece of the front end's own memory, with its file.
pub type Own<'a> = (Region, BorrowedFd<'a>);

/// Gives the back end memory, in the place of what it had: the front end's own and the guest's.
///
/// # Errors
/// There are more pieces than a message holds, or the session is over.
pub fn set_memory(front: &Front, own: Own<'_>, memory: &Table) -> Result<(), Error> {
    let pieces = memory.pieces();
    if pieces.len() >= MOST_REGIONS {
        return Err(Error::Pieces(pieces.len(), MOST_REGIONS - 1));
    }
    let mut described = vec![own];
    described.extend(pieces.iter().filter_map(|p| {
        let offset = p.block.file_offset() + p.offset;
        Some((Region { guest: p.guest, size: p.size, user: p.host(), offset }, p.block.file()?.as_fd()))
    }));
    Ok(front.set_memory(&described)?)
}

/// Starts the rings of a plan. Numbers are those of the device.
///
/// # Errors
/// A ring is out of reach, or the session is over.
pub fn start(front: &Front, own: Own<'_>, plan: &Plan<'_>) -> Result<(), Error> {
    let addresses = plan.rings.iter().map(|r| r.address(plan.memory, r.index.into()));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    front.set_features(plan.features)?;
    set_memory(front, own, plan.memory)?;
    for (ring, address) in plan.rings.iter().zip(&addresses) {
        front.start(address, (ring.size, ring.base), (ring.kick, ring.call))?;
    }
    Ok(())
}

/// Stops these rings; the entries they go on with.
///
/// # Errors
/// The session is over.
pub fn stop(front: &Front, rings: &[u16]) -> Result<Vec<u16>, Error> {
    rings.iter().map(|r| Ok(front.stop((*r).into())?)).collect()
}
