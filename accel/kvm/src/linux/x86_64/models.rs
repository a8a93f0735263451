//! The CPU models and feature names, which the contract holds for all accelerators.

pub(super) use accel::arch::x86_models::{Feature, Model, Models, Register, near, number};
