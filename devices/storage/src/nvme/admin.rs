//! Admin commands (section 5).

use super::queues::{CompletionQueue, SubmissionQueue};
use super::{IO_QUEUES, MAX_ENTRIES, MAX_EVENTS, Nvme, Outcome, events, long, status, word};

mod op {
    pub(super) const DELETE_SUBMISSION: u8 = 0x00;
    pub(super) const CREATE_SUBMISSION: u8 = 0x01;
    pub(super) const GET_LOG: u8 = 0x02;
    pub(super) const DELETE_COMPLETION: u8 = 0x04;
    pub(super) const CREATE_COMPLETION: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const ABORT: u8 = 0x08;
    pub(super) const SET_FEATURES: u8 = 0x09;
    pub(super) const GET_FEATURES: u8 = 0x0a;
    pub(super) const EVENT: u8 = 0x0c;
}

/// Features.
mod feature {
    pub(super) const NUMBER_OF_QUEUES: u32 = 7;
    /// All that have a value; interrupts' vector configuration is 9.
    pub(super) const KNOWN: [u32; 10] = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11];
}

const ALL_NAMESPACES: u32 = u32::MAX;
/// In a command for a log: the event that led to it is not over.
const RETAIN_EVENT: u32 = 1 << 15;

impl Nvme {
    pub(super) fn admin(&mut self, id: u16, c: &[u8; 64]) -> Outcome {
        let number = word(c, 10) as u16;
        match c[0] {
            op::CREATE_SUBMISSION => self.create_submission(number, c),
            op::CREATE_COMPLETION => self.create_completion(number, c),
            op::DELETE_SUBMISSION => {
                if number == 0 || self.q.submissions.remove(&number).is_none() {
                    return Err(status::INVALID_QUEUE);
                }
                Ok(Some(0))
            }
            op::DELETE_COMPLETION => {
                if number == 0 || !self.q.completions.contains_key(&number) {
                    return Err(status::INVALID_QUEUE);
                }
                if self.q.submissions.values().any(|q| q.completions == number) {
                    return Err(status::INVALID_DELETION);
                }
                self.q.completions.remove(&number);
                Ok(Some(0))
            }
            op::IDENTIFY => self.identify(c),
            op::GET_LOG => self.log(c),
            // What is on its way is not called back.
            op::ABORT => Ok(Some(1)),
            op::SET_FEATURES => self.set_feature(word(c, 10) & 0xff, word(c, 11)),
            op::GET_FEATURES => self.feature(word(c, 10) & 0xff).map(Some),
            op::EVENT if self.r.events.len() >= MAX_EVENTS => Err(status::EVENT_LIMIT),
            op::EVENT => {
                self.r.events.push(id);
                self.tell();
                Ok(None)
            }
            _ => Err(status::INVALID_OPCODE),
        }
    }

    /// Checks what both kinds of queue are made with: number, size, contiguity.
    fn queue(&self, number: u16, taken: bool, c: &[u8; 64]) -> Result<(u64, u32), u16> {
        let size = (word(c, 10) >> 16) + 1;
        let base = long(c, 6);
        if number == 0 || number > IO_QUEUES || taken {
            Err(status::INVALID_QUEUE)
        } else if !(2..=MAX_ENTRIES).contains(&size) {
            Err(status::INVALID_QUEUE_SIZE)
        } else if word(c, 11) & 1 == 0 || !base.is_multiple_of(self.page()) {
            Err(status::INVALID_FIELD)
        } else {
            Ok((base, size))
        }
    }

    fn create_submission(&mut self, number: u16, c: &[u8; 64]) -> Outcome {
        let (base, size) = self.queue(number, self.q.submissions.contains_key(&number), c)?;
        let completions = (word(c, 11) >> 16) as u16;
        if completions == 0 || !self.q.completions.contains_key(&completions) {
            return Err(status::INVALID_COMPLETION_QUEUE);
        }
        self.q.submissions.insert(number, SubmissionQueue::new(base, size, completions));
        Ok(Some(0))
    }

    fn create_completion(&mut self, number: u16, c: &[u8; 64]) -> Outcome {
        let (base, size) = self.queue(number, self.q.completions.contains_key(&number), c)?;
        let vector = (word(c, 11) >> 16) as u16;
        if vector > IO_QUEUES {
            return Err(status::INVALID_VECTOR);
        }
        let vector = (word(c, 11) & 2 != 0).then_some(vector);
        self.q.completions.insert(number, CompletionQueue::new(base, size, vector));
        Ok(Some(0))
    }

    fn give(&self, c: &[u8; 64], data: &[u8]) -> Outcome {
        let regions = self.regions(long(c, 6), long(c, 8), data.len() as u64)?;
        self.scatter(&regions, data)?;
        Ok(Some(0))
    }

    fn identify(&self, c: &[u8; 64]) -> Outcome {
        let number = word(c, 1);
        let data = match word(c, 10) & 0xff {
            0 | 3 if self.disk(number).is_none() && number != ALL_NAMESPACES => {
                return Err(status::INVALID_NAMESPACE);
            }
            0 => self.identify_namespace(number),
            1 => self.identify_controller(),
            2 if number >= 0xffff_fffe => return Err(status::INVALID_NAMESPACE),
            2 => self.identify_list(number),
            3 => self.identify_descriptors(number),
            _ => return Err(status::INVALID_FIELD),
        };
        self.give(c, &data)
    }

    fn log(&mut self, c: &[u8; 64]) -> Outcome {
        let words = u64::from(word(c, 10) >> 16) | u64::from(word(c, 11) & 0xffff) << 16;
        let (len, offset) = (4 * (words + 1), long(c, 12));
        let number = word(c, 10) & 0xff;
        let page = match number {
            // No errors have been logged.
            1 => vec![0; 64],
            2 => self.health(),
            3 => self.firmware_slots(),
            events::LOG => self.changed_namespaces(),
            _ => return Err(status::INVALID_LOG),
        };
        let rest = usize::try_from(offset).ok().and_then(|offset| page.get(offset..));
        let rest = rest.ok_or(status::INVALID_FIELD)?;
        let outcome = self.give(c, &rest[..rest.len().min(usize::try_from(len).unwrap_or(usize::MAX))])?;
        if number == events::LOG && word(c, 10) & RETAIN_EVENT == 0 {
            self.changes_read();
        }
        Ok(outcome)
    }

    fn feature(&self, number: u32) -> Result<u32, u16> {
        if !feature::KNOWN.contains(&number) {
            return Err(status::INVALID_FIELD);
        }
        Ok(match number {
            feature::NUMBER_OF_QUEUES => u32::from(IO_QUEUES - 1) << 16 | u32::from(IO_QUEUES - 1),
            _ => self.r.features.get(number as usize).copied().unwrap_or(0),
        })
    }

    fn set_feature(&mut self, number: u32, value: u32) -> Outcome {
        if !feature::KNOWN.contains(&number) {
            return Err(status::INVALID_FIELD);
        }
        if number == feature::NUMBER_OF_QUEUES {
            return self.feature(number).map(Some);
        }
        if let Some(to) = self.r.features.get_mut(number as usize) {
            *to = value;
        }
        self.tell();
        Ok(Some(0))
    }
}
