//! Changing key slots as `amend` does (QEMU, "qemu-img amend", "luks").

use std::time::Duration;

use block::BlockError;

use super::{Header, Luks, Slot, iter_time};
use crate::crypto::{Kdf, KdfKind, same};
use crate::options::{Options, bad_option};

impl Luks {
    /// Puts the volume key into a slot under a passphrase.
    pub(super) fn fill(
        &self,
        id: usize,
        password: &[u8],
        kind: KdfKind,
        time: Duration,
    ) -> Result<(), BlockError> {
        let area = &self.area;
        let Some(key) = &self.key else { return Err(area.bad("LUKS: a locked image gets no new key slot")) };
        let kdf = Kdf::for_time(kind, time, key.len()).map_err(|e| area.bad(e))?;
        let mut header = self.header.lock();
        match (&mut *header, kdf) {
            (Header::V1(h), Kdf::Pbkdf2 { iterations, .. }) => {
                h.fill_slot(area, id, key, password, iterations)
            }
            (Header::V1(_), _) => Err(area.bad("LUKS1 key slots have PBKDF2 only")),
            (Header::V2(h), kdf) => h.fill_slot(area, id, key, password, kdf),
        }
    }

    fn erase(&self, id: usize) -> Result<(), BlockError> {
        match &mut *self.header.lock() {
            Header::V1(h) => h.erase_slot(&self.area, id),
            Header::V2(h) => h.erase_slot(&self.area, id),
        }
    }

    /// Slots whose passphrase this is.
    fn slots_of(&self, password: &[u8]) -> Result<Vec<usize>, BlockError> {
        let header = self.header.lock().clone();
        let mut out = Vec::new();
        for slot in self.slots().iter().filter(|s| s.active) {
            if self
                .find(&header, slot.id, password)?
                .is_some_and(|k| self.key.as_ref().is_none_or(|own| same(own, &k)))
            {
                out.push(slot.id);
            }
        }
        Ok(out)
    }

    /// Changes key slots; names of options have a prefix in other formats.
    pub(crate) fn amend(&self, options: &Options, prefix: &str) -> Result<(), BlockError> {
        let name = |n: &str| format!("{prefix}{n}");
        let state = options.choice(&name("state"), &[("active", true), ("inactive", false)])?;
        let Some(state) = state else {
            return Err(bad_option(&name("state"), "", "active or inactive"));
        };
        let secret = |n: &str| match options.text(&name(n)).filter(|id| !id.is_empty()) {
            Some(id) => options.secrets().get(id).map(Some),
            None => Ok(None),
        };
        let (new, old) = (secret("new-secret")?, secret("old-secret")?);
        let slot = options.number(&name("keyslot"))?.map(|n| n as usize);
        let slots = self.slots();
        if let Some(n) = slot.filter(|n| *n >= slots.len()) {
            return Err(bad_option(&name("keyslot"), n, format!("0 to {}", slots.len() - 1)));
        }
        if state {
            self.activate(options, prefix, slot, new, old, &slots)
        } else {
            if new.is_some() {
                return Err(bad_option(&name("new-secret"), "", "none with state=inactive"));
            }
            self.deactivate(options, prefix, slot, old, &slots)
        }
    }

    fn activate(
        &self,
        options: &Options,
        prefix: &str,
        slot: Option<usize>,
        new: Option<&[u8]>,
        old: Option<&[u8]>,
        slots: &[Slot],
    ) -> Result<(), BlockError> {
        let name = |n: &str| format!("{prefix}{n}");
        let Some(new) = new else {
            return Err(bad_option(&name("new-secret"), "", "the secret of the new key slot"));
        };
        if let Some(old) = old
            && self.slots_of(old)?.is_empty()
        {
            return Err(self.area.bad("old-secret is the passphrase of no key slot"));
        }
        let id = match slot {
            Some(id) if slots[id].active && !options.force => {
                return Err(self
                    .area
                    .bad(format!("key slot {id} is in use; erase it first, or use --force")));
            }
            Some(id) => id,
            None => match slots.iter().find(|s| !s.active) {
                Some(free) => free.id,
                None => return Err(self.area.bad("all key slots are in use")),
            },
        };
        let kind = match &*self.header.lock() {
            Header::V1(h) => KdfKind::Pbkdf2(h.hash()),
            Header::V2(_) => KdfKind::Argon2id,
        };
        self.fill(id, new, kind, iter_time(options, prefix)?)
    }

    fn deactivate(
        &self,
        options: &Options,
        prefix: &str,
        slot: Option<usize>,
        old: Option<&[u8]>,
        slots: &[Slot],
    ) -> Result<(), BlockError> {
        let mut doomed = match (slot, old) {
            (None, None) => {
                let what = "keyslot or old-secret to say which slots";
                return Err(bad_option(&format!("{prefix}state"), "inactive", what));
            }
            (slot, Some(old)) => {
                let mut found = self.slots_of(old)?;
                found.retain(|id| slot.is_none_or(|s| s == *id));
                if found.is_empty() {
                    return Err(self.area.bad("old-secret is the passphrase of no key slot that was meant"));
                }
                found
            }
            (Some(slot), None) => vec![slot],
        };
        doomed.retain(|id| slots[*id].active);
        if doomed.is_empty() {
            return Err(self.area.bad("the key slot is not in use"));
        }
        let left = slots.iter().filter(|s| s.active && !doomed.contains(&s.id)).count();
        if left == 0 && !options.force {
            return Err(self
                .area
                .bad("no key slot would be left, and all data be lost; --force erases it anyway"));
        }
        doomed.into_iter().try_for_each(|id| self.erase(id))
    }
}
