//! Where the cached pages of an address space come from: the words of page tables that its walks have read.
//!
//! A processor may walk its tables at any time and keep what it finds. So where a guest drops the translations of a space (an
//! x86 guest without process-context identifiers does with every switch of page tables, twice in a system call under page-table
//! isolation), those may stay that a walk would find again at that moment. That is so where no word has changed that the walk
//! read. The words are few, as upper levels are shared, and are read again in a fraction of the time that walks and
//! translated jumps would take. Nobody has to watch for stores to page tables, whoever makes them.
//!
//! Invariant: everything cached of the space that is not global was made by walks from `root` that found the words noted here,
//! or `unknown` is set.

/// Words noted of one space at most; what needs more is dropped whole now and then.
const MOST: usize = 1024;
/// Slots of the index.
const SLOTS: usize = 2 * MOST;
/// Words of one walk at most.
const LEVELS: usize = 6;

/// A word that a walk has read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    /// Guest physical address.
    pub(crate) gpa: u64,
    /// 4 or 8.
    pub(crate) bytes: u8,
    pub(crate) value: u64,
}

const NO_WORD: Word = Word { gpa: 0, bytes: 8, value: 0 };

/// What one walk has read, the last level last. Empty if the guest does not say.
#[derive(Debug)]
pub(crate) struct Walked {
    root: Option<u64>,
    words: [Word; LEVELS],
    len: usize,
}

impl Walked {
    pub(crate) const fn new() -> Self {
        Self { root: None, words: [NO_WORD; LEVELS], len: 0 }
    }

    /// A walk begins, from the table that `root` names.
    pub(crate) fn begin(&mut self, root: u64) {
        (self.root, self.len) = (Some(root), 0);
    }

    /// A walk of which nothing is known.
    pub(crate) fn forget(&mut self) {
        self.root = None;
    }

    /// The walk went by this word.
    pub(crate) fn push(&mut self, word: Word) {
        match self.words.get_mut(self.len) {
            Some(w) => {
                *w = word;
                self.len += 1;
            }
            None => self.root = None,
        }
    }

    /// The root and the words; `None` if nothing is known.
    fn found(&self) -> Option<(u64, &[Word])> {
        let words = self.words.get(..self.len).filter(|w| !w.is_empty())?;
        self.root.map(|root| (root, words))
    }
}

/// A word noted.
#[derive(Debug, Clone, Copy)]
struct Noted {
    gpa: u64,
    /// What it is found by: its address, or that of the small page it maps.
    key: u64,
    /// Nothing that is cached comes from it any more.
    spent: bool,
}

/// Where a word lies in the host's memory, and what it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) host: usize,
    pub(crate) value: u64,
}

/// What can be said of a space.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A walk would find all that is cached.
    Same,
    /// But for these pages.
    Pages(Vec<u64>),
    /// That is not so, or not known.
    Changed,
}

/// Pages that are dropped one by one rather than all.
const FEW: usize = 16;

/// The words of one space.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    root: u64,
    /// Bytes of a word.
    bytes: u8,
    noted: Vec<Noted>,
    /// For each one in `noted` what is read at every check, close together.
    samples: Vec<Sample>,
    /// Index + 1 into `noted` by hash of the key; no slots as long as there is nothing.
    index: Vec<u16>,
    unknown: bool,
}

/// True if nothing but `set_by_walks` has become set.
const fn agrees(old: u64, new: u64, set_by_walks: u64) -> bool {
    (old ^ new) & !set_by_walks == 0 && old & !new == 0
}

impl Origins {
    /// Nothing is cached any more.
    pub(crate) fn clear(&mut self) {
        self.noted.clear();
        self.samples.clear();
        self.index.fill(0);
        self.unknown = false;
    }

    /// The slot of the index that has the key, or is free for it.
    fn slot(&self, key: u64) -> usize {
        let mut i = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize & (SLOTS - 1);
        loop {
            let n = self.index[i] as usize;
            if n == 0 || self.noted.get(n - 1).is_none_or(|w| w.key == key) {
                return i;
            }
            i = (i + 1) & (SLOTS - 1);
        }
    }

    /// The index of the word with the key.
    fn find(&self, key: u64) -> Option<usize> {
        if self.noted.is_empty() {
            return None;
        }
        (self.index[self.slot(key)] as usize).checked_sub(1)
    }

    /// A page at `gva`, `small` or part of a larger one, is cached by a walk. `set_by_walks`: bits that walks set themselves;
    /// `host`: the host's address of a word.
    pub(crate) fn note(
        &mut self,
        gva: u64,
        small: bool,
        walked: &Walked,
        set_by_walks: u64,
        host: impl Fn(&Word) -> Option<usize>,
    ) {
        if self.unknown {
            return;
        }
        let (root, words) = match walked.found() {
            Some(found) if self.noted.is_empty() || self.root == found.0 => found,
            _ => {
                self.unknown = true;
                return;
            }
        };
        self.root = root;
        if self.noted.is_empty() {
            self.bytes = words[0].bytes;
            self.index.resize(SLOTS, 0);
        }
        for (n, word) in words.iter().enumerate() {
            let leaf = small && n + 1 == words.len();
            // Words are aligned, pages more so.
            let key = if leaf { gva | 1 } else { word.gpa };
            if !self.note_word(key, word, set_by_walks, &host) {
                // Something cached may come from what cannot be told.
                self.unknown = true;
                return;
            }
        }
    }

    fn note_word(
        &mut self,
        key: u64,
        word: &Word,
        set_by_walks: u64,
        host: impl Fn(&Word) -> Option<usize>,
    ) -> bool {
        if word.bytes != self.bytes {
            return false;
        }
        let Some(i) = self.find(key) else {
            let Some(host) = host(word).filter(|_| self.noted.len() < MOST) else { return false };
            let slot = self.slot(key);
            self.noted.push(Noted { gpa: word.gpa, key, spent: false });
            self.samples.push(Sample { host, value: word.value });
            self.index[slot] = self.noted.len() as u16;
            return true;
        };
        let (known, sample) = (&mut self.noted[i], &mut self.samples[i]);
        if known.spent && known.gpa != word.gpa {
            let Some(host) = host(word) else { return false };
            (known.gpa, sample.host) = (word.gpa, host);
        } else if !known.spent && (known.gpa != word.gpa || !agrees(sample.value, word.value, set_by_walks)) {
            return false;
        }
        (known.spent, sample.value) = (false, word.value);
        true
    }

    /// The small page at `gva` is cached no more.
    pub(crate) fn forget_page(&mut self, gva: u64) {
        if let Some(i) = self.find(gva | 1) {
            self.noted[i].spent = true;
        }
    }

    /// Reads all words again.
    pub(crate) fn check(&mut self, root: u64, set_by_walks: u64, reader: &impl ReadWords) -> Verdict {
        if self.unknown || !self.noted.is_empty() && self.root != root {
            return Verdict::Changed;
        }
        let mut pages = Vec::new();
        let mut from = 0;
        while let Some((n, now)) = reader.differs(&self.samples[from..], self.bytes) {
            let i = from + n;
            from = i + 1;
            let (noted, sample) = (&mut self.noted[i], &mut self.samples[i]);
            if noted.spent {
                continue;
            }
            if agrees(sample.value, now, set_by_walks) {
                sample.value = now;
            } else if noted.key & 1 != 0 && pages.len() < FEW {
                noted.spent = true;
                pages.push(noted.key & !1);
            } else {
                return Verdict::Changed;
            }
        }
        if pages.is_empty() { Verdict::Same } else { Verdict::Pages(pages) }
    }
}

/// Reads words where they lie.
pub(crate) trait ReadWords {
    /// The first sample that memory differs from, and what is there.
    fn differs(&self, samples: &[Sample], bytes: u8) -> Option<(usize, u64)>;
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap};

    use super::*;

    const A: u64 = 0x20;
    const D: u64 = 0x40;

    /// Two levels of tables of 8-byte words.
    #[derive(Default)]
    struct Tables(RefCell<HashMap<u64, u64>>);

    impl Tables {
        fn set(&self, gpa: u64, value: u64) {
            self.0.borrow_mut().insert(gpa, value);
        }

        fn walk(&self, root: u64, gva: u64) -> Walked {
            let mut w = Walked::new();
            w.begin(root);
            for gpa in [root + (gva >> 21 & 511) * 8, (gva >> 21 & 511) * 0x1000 + (gva >> 12 & 511) * 8] {
                w.push(Word { gpa, bytes: 8, value: self.0.borrow().get(&gpa).copied().unwrap_or(1) });
            }
            w
        }

        fn note(&self, o: &mut Origins, root: u64, gva: u64) {
            o.note(gva, true, &self.walk(root, gva), A | D, |word| Some(word.gpa as usize));
        }

        fn check(&self, o: &mut Origins, root: u64) -> Verdict {
            o.check(root, A | D, self)
        }
    }

    impl ReadWords for Tables {
        fn differs(&self, samples: &[Sample], _: u8) -> Option<(usize, u64)> {
            let now = |s: &Sample| self.0.borrow().get(&(s.host as u64)).copied().unwrap_or(1);
            samples.iter().position(|s| now(s) != s.value).map(|i| (i, now(&samples[i])))
        }
    }

    #[test]
    fn words_that_changed_drop_their_page_or_all() {
        let (t, mut o) = (Tables::default(), Origins::default());
        let root = 0x10_0000;
        for gva in [0x1000, 0x2000, 0x20_1000] {
            t.note(&mut o, root, gva);
        }
        assert_eq!(o.noted.len(), 5, "upper levels are shared");
        assert_eq!(t.check(&mut o, root), Verdict::Same);
        t.set(0x8, 1 | A | D);
        assert_eq!(t.check(&mut o, root), Verdict::Same, "bits that walks set may be set by another vCPU's");
        t.set(0x8, 1 | A);
        assert_eq!(t.check(&mut o, root), Verdict::Pages(vec![0x1000]), "bits that are taken away count");
        assert_eq!(t.check(&mut o, root), Verdict::Same, "nothing comes from it any more");
        t.note(&mut o, root, 0x1000);
        t.set(0x8, 0);
        assert_eq!(t.check(&mut o, root), Verdict::Pages(vec![0x1000]));
        t.set(root, 0x77);
        assert_eq!(t.check(&mut o, root), Verdict::Changed);
        o.clear();
        assert_eq!(t.check(&mut o, root), Verdict::Same);
    }

    #[test]
    fn a_walk_that_found_another_word_than_one_before_ends_it() {
        let (t, root) = (Tables::default(), 0x10_0000);
        let mut o = Origins::default();
        t.note(&mut o, root, 0x1000);
        t.set(0x8, 5);
        // What was cached first is stale still, so that the word's being the same as last time says nothing.
        t.note(&mut o, root, 0x1000);
        assert_eq!(t.check(&mut o, root), Verdict::Changed);
        o.clear();
        t.note(&mut o, root, 0x1000);
        t.set(0x8, 9);
        o.forget_page(0x1000);
        t.note(&mut o, root, 0x1000);
        assert_eq!(t.check(&mut o, root), Verdict::Same, "the page had been dropped before");
        assert_eq!(t.check(&mut o, root + 0x1000), Verdict::Changed, "another root");
        t.note(&mut o, root + 0x1000, 0x3000);
        assert_eq!(t.check(&mut o, root + 0x1000), Verdict::Changed, "two roots");
        o.clear();
        o.note(0x1000, true, &Walked::new(), A | D, |_| None);
        assert_eq!(t.check(&mut o, root), Verdict::Changed, "a walk of which nothing is known");
    }

    #[test]
    fn there_is_an_end_to_what_is_noted() {
        let (t, root) = (Tables::default(), 0x10_0000);
        let mut o = Origins::default();
        for page in 0..2 * MOST as u64 {
            t.note(&mut o, root, page << 12);
        }
        assert_eq!(o.noted.len(), MOST);
        assert_eq!(t.check(&mut o, root), Verdict::Changed);
    }
}
