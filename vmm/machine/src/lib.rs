//! Machines: boards as graphs, checked and built, and what keeps a built machine going.
//!
//! - [`Board`] records a graph; [`realize`] checks it and makes a [`Machine`] on an accelerator;
//! - [`fdt`] describes a graph to guests that want a device tree;
//! - [`snapshot`] saves and loads a whole machine.
//!
//! This crate names no concrete device: boards hand it device configs.

pub mod board;
mod error;
pub mod fdt;
mod held;
mod hotplug;
mod image;
mod io;
mod machine;
mod realize;
pub mod snapshot;
mod vcpus;
mod workshop;

pub use board::{Board, CpuInit, Dest, HeldInput, Node, Space};
pub use error::MachineError;
pub use held::{HeldState, NamedState};
pub use image::{Image, Source};
pub use machine::{Machine, MachineEvent};
pub use realize::{Options, WallTime, realize};
