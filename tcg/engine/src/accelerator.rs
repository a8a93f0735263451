//! The translator as an [`Accelerator`].

use std::{marker::PhantomData, sync::Arc};

use accel::{AccelError, Accelerator, Caps, Partition, PartitionConfig, arch::GuestArch};
use tcg_ir::passes::UnknownPass;
use tcg_plugin::Plugins;

use crate::profile::Profile;
use crate::{
    Guest,
    engine::{self, TcgOptions},
    hot::HotMode,
};

/// Default size of the code memory, reserved and filled as needed.
const CODE_SIZE: usize = 128 << 20;
/// Smallest and largest code memory, in MiB: links reach over all of it.
const CODE_MIB: std::ops::RangeInclusive<usize> = 4..=1024;

/// The translator for the guests of one guest crate.
pub struct Tcg<G>(PhantomData<fn() -> G>);

impl<G> Tcg<G> {
    /// The accelerator; costs nothing until a partition is created.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<G> Default for Tcg<G> {
    fn default() -> Self {
        Self::new()
    }
}

fn bad(key: &str, problem: impl Into<String>) -> AccelError {
    AccelError::Property { accel: "tcg", key: key.into(), problem: problem.into() }
}

fn options(config: &PartitionConfig) -> Result<TcgOptions, AccelError> {
    let mut o = TcgOptions {
        interp: false,
        code_size: CODE_SIZE,
        passes: None,
        profile: Profile::default(),
        hot: HotMode::default(),
        plugins: None,
    };
    let mut plugins = Vec::new();
    let (mut perfmap, mut jitdump) = (false, false);
    for (key, value) in &config.properties {
        match key.as_str() {
            "backend" => {
                o.interp = match value.as_str() {
                    "interp" => true,
                    "jit" => false,
                    _ => return Err(bad(key, format!("expected jit or interp, got '{value}'"))),
                }
            }
            "thread" => {
                if !matches!(value.as_str(), "multi" | "single") {
                    return Err(bad(key, format!("expected multi or single, got '{value}'")));
                }
            }
            "tb-size" => {
                let mib = value.parse::<usize>().ok().filter(|n| CODE_MIB.contains(n));
                let mib = mib.ok_or_else(|| {
                    bad(
                        key,
                        format!(
                            "expected MiB between {} and {}, got '{value}'",
                            CODE_MIB.start(),
                            CODE_MIB.end()
                        ),
                    )
                })?;
                o.code_size = mib << 20;
            }
            "perfmap" | "jitdump" => {
                let on = match value.as_str() {
                    "on" => true,
                    "off" => false,
                    _ => return Err(bad(key, format!("expected on or off, got '{value}'"))),
                };
                if key == "perfmap" { perfmap = on } else { jitdump = on }
            }
            "hot" => o.hot = value.parse().map_err(|e: String| bad(key, e))?,
            "plugin" => plugins.push(value.clone()),
            "passes" => o.passes = Some(value.parse().map_err(|e: UnknownPass| bad(key, e.to_string()))?),
            _ => {
                return Err(bad(
                    key,
                    "no such property; there are backend, hot, jitdump, passes, perfmap, plugin, tb-size, thread",
                ));
            }
        }
    }
    let log = config.log.clone();
    let output = move |text: &str| log.write(format_args!("{text}"));
    let arch = config.guest.to_string();
    o.plugins = Plugins::load(&plugins, &arch, true, Arc::new(output))
        .map_err(|e| AccelError::Plugin(e.to_string()))?;
    let fail = |source| AccelError::Host { operation: "profile", source };
    o.profile = Profile::open(perfmap, jitdump).map_err(fail)?;
    Ok(o)
}

impl<G: Guest> Accelerator for Tcg<G> {
    fn name(&self) -> &'static str {
        "tcg"
    }

    fn guests(&self) -> Vec<GuestArch> {
        G::ARCHS.to_vec()
    }

    fn probe(&self, guest: GuestArch) -> Result<Caps, AccelError> {
        if !G::ARCHS.contains(&guest) {
            return Err(AccelError::WrongGuest { accel: "tcg", guest });
        }
        Ok(Caps {
            max_vcpus: 512,
            kernel_irqchip: false,
            phys_bits: 56,
            kernel_ns: None,
            note: "translator".into(),
        })
    }

    fn cpu_models(&self, guest: GuestArch) -> Vec<(String, String)> {
        G::cpu_models(guest)
    }

    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        self.probe(config.guest)?;
        let opts = options(&config)?;
        engine::create::<G>(config, opts)
    }
}
