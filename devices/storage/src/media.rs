//! Media that are changed while the machine runs: one interface to all drives that have them.

use block::Disk;

/// A drive's tray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tray {
    /// It is open.
    pub open: bool,
    /// The guest holds it shut.
    pub locked: bool,
}

/// A drive whose medium can be changed.
pub trait Slot {
    /// Its tray, if it has one.
    fn tray(&self) -> Option<Tray>;

    /// Opens the tray; false if the guest holds it shut, and is asked instead. Nothing to do without a tray.
    fn open(&mut self, force: bool) -> bool;

    /// Shuts the tray. The guest is told of what is in it.
    fn shut(&mut self);

    /// Whether there is a medium in it.
    fn is_loaded(&self) -> bool;

    /// Takes out what is there and puts something else in, or nothing. A tray must be open for that.
    fn load(&mut self, disk: Option<Disk>);

    /// Puts another medium in, or none, and shuts the tray; false if the guest holds it shut.
    fn change(&mut self, disk: Option<Disk>, force: bool) -> bool {
        let opened = self.open(force);
        if opened {
            self.load(disk);
            self.shut();
        }
        opened
    }
}

/// A controller that has such drives; found through [`device::Device::as_any`].
pub trait Slots {
    /// Does something with the slot of drive `unit`, numbered as the controller's configuration numbers them; false if there
    /// is no such drive or its medium cannot be changed.
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool;
}
