//! `count`: how many guest instructions were executed, added up in translated code without a call.

use crate::options::Arguments;
use crate::{Counter, Host, Plugin, PluginError, Request, Unit};

pub(super) const KEYS: &str = "vcpus=on";

struct Count {
    host: Host,
    counter: Counter,
    /// Say what each vCPU did.
    each: bool,
}

pub(super) fn make(host: &Host, a: &mut Arguments<'_>) -> Result<Box<dyn Plugin>, PluginError> {
    let each = a.switch("vcpus")?;
    let counter = host.counters.take().ok_or_else(|| PluginError::Argument {
        plugin: "count".into(),
        problem: "no counter is left".into(),
    })?;
    Ok(Box::new(Count { host: host.clone(), counter, each }))
}

impl Plugin for Count {
    fn translated(&self, unit: &mut Unit<'_>) {
        for i in 0..unit.insns().len() {
            unit.ask(i, Request::Count { counter: self.counter, n: 1 });
        }
    }

    fn finished(&self) {
        if self.each {
            for (i, n) in self.host.counters.each(self.counter).iter().enumerate() {
                self.host.print(&format!("vcpu {i}: {n} instructions\n"));
            }
        }
        self.host.print(&format!("instructions: {}\n", self.host.counters.total(self.counter)));
    }
}
