//! The C interface (`include/rhea_plugin.h`): the table of functions that a plugin is given, and the plugin behind it.
//!
//! Invariants: a table is never moved or freed once a plugin knows it; functions that a plugin names for requests are kept in a
//! list that only grows, so that requests carry a number instead of an address.
#![expect(
    unsafe_code,
    reason = "calls functions of a shared object and is called by them, with raw pointers"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::object;
use crate::options::Wanted;
use crate::{Access, Accesses, Counter, Host, Plugin, PluginError, Request, Unit};

const VERSION: u32 = 1;
const LOAD: u32 = 1;
const STORE: u32 = 2;
const VALUE: u32 = 4;
/// Functions that requests of one plugin can name.
const FUNCTIONS: usize = 256;

/// A plugin's own pointer.
#[derive(Clone, Copy)]
struct Data(*mut c_void);

// SAFETY: never followed here; the interface says that calls come from all threads.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

#[repr(C)]
struct CAccess {
    address: u64,
    value: u64,
    size: u32,
    flags: u32,
}

type OnTranslate = unsafe extern "C" fn(*mut c_void, *mut c_void);
type OnVcpu = unsafe extern "C" fn(*mut c_void, u32, c_int);
type OnEvent = unsafe extern "C" fn(*mut c_void);
type OnCall = unsafe extern "C" fn(*mut c_void, u32);
type OnAccess = unsafe extern "C" fn(*mut c_void, u32, *const CAccess);
type Start = unsafe extern "C" fn(*const Table, c_int, *const *const c_char) -> c_int;

/// A function named in a request.
#[derive(Clone, Copy)]
enum Function {
    Call(OnCall),
    Access(OnAccess),
}

impl Function {
    fn address(self) -> usize {
        match self {
            Self::Call(f) => f as usize,
            Self::Access(f) => f as usize,
        }
    }
}

/// `struct rhea_host`.
#[repr(C)]
struct Table {
    version: u32,
    size: u32,
    arch: *const c_char,
    system: u32,
    reserved: u32,
    state: *const State,
    on_translate: unsafe extern "C" fn(*const Table, Option<OnTranslate>, *mut c_void),
    on_vcpu: unsafe extern "C" fn(*const Table, Option<OnVcpu>, *mut c_void),
    on_fork: unsafe extern "C" fn(*const Table, Option<OnEvent>, *mut c_void),
    on_end: unsafe extern "C" fn(*const Table, Option<OnEvent>, *mut c_void),
    counter: unsafe extern "C" fn(*const Table) -> c_int,
    counter_total: unsafe extern "C" fn(*const Table, c_int) -> u64,
    print: unsafe extern "C" fn(*const Table, *const c_char),
    unit_insns: unsafe extern "C" fn(*const c_void) -> usize,
    unit_blocks: unsafe extern "C" fn(*const c_void) -> usize,
    unit_block: unsafe extern "C" fn(*const c_void, usize, *mut usize, *mut usize),
    insn_address: unsafe extern "C" fn(*const c_void, usize) -> u64,
    insn_bytes: unsafe extern "C" fn(*const c_void, usize, *mut u8, usize) -> usize,
    insn_text: unsafe extern "C" fn(*const c_void, usize, *mut c_char, usize) -> usize,
    insn_call: unsafe extern "C" fn(*const Table, *mut c_void, usize, Option<OnCall>, *mut c_void) -> c_int,
    insn_count: unsafe extern "C" fn(*const Table, *mut c_void, usize, c_int, u32) -> c_int,
    insn_access:
        unsafe extern "C" fn(*const Table, *mut c_void, usize, u32, Option<OnAccess>, *mut c_void) -> c_int,
}

/// Functions to call on an event, each with its pointer.
type List<F> = Mutex<Vec<(F, Data)>>;

/// One plugin.
struct State {
    host: Host,
    translate: List<OnTranslate>,
    vcpu: List<OnVcpu>,
    fork: List<OnEvent>,
    end: List<OnEvent>,
    functions: [OnceLock<Function>; FUNCTIONS],
}

/// A plugin in a shared object.
struct Shared(&'static State);

/// Loads the object and lets its plugin register what it wants.
pub(super) fn start(w: &Wanted, host: &Host) -> Result<Box<dyn Plugin>, PluginError> {
    let fail = |problem: String| PluginError::Load { file: w.file.clone(), problem };
    let f = object::function(&w.file, c"rhea_plugin_start").map_err(fail)?;
    // SAFETY: that name has this type, by the interface.
    let start: Start = unsafe { std::mem::transmute::<*mut c_void, Start>(f) };
    let text = |s: String| CString::new(s).map_err(|_| fail("an argument with a zero in it".into()));
    let arguments: Vec<CString> =
        w.arguments.iter().map(|(k, v)| text(format!("{k}={v}"))).collect::<Result<_, _>>()?;
    let pointers: Vec<*const c_char> =
        arguments.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    let arch = text(host.arch.clone())?;
    // A plugin may keep all of this for as long as the process lives.
    let arch: &'static CStr = Box::leak(arch.into_boxed_c_str());
    let state: &'static State = Box::leak(Box::new(State {
        host: host.clone(),
        translate: Mutex::default(),
        vcpu: Mutex::default(),
        fork: Mutex::default(),
        end: Mutex::default(),
        functions: [const { OnceLock::new() }; FUNCTIONS],
    }));
    let table: &'static Table = Box::leak(Box::new(table(state, arch)));
    // SAFETY: as the interface has it; the arguments last for the call.
    let code = unsafe { start(table, arguments.len() as c_int, pointers.as_ptr()) };
    if code != 0 {
        return Err(fail(format!("rhea_plugin_start refused to start ({code})")));
    }
    Ok(Box::new(Shared(state)))
}

fn table(state: &'static State, arch: &'static CStr) -> Table {
    Table {
        version: VERSION,
        size: size_of::<Table>() as u32,
        arch: arch.as_ptr(),
        system: u32::from(state.host.system),
        reserved: 0,
        state,
        on_translate,
        on_vcpu,
        on_fork,
        on_end,
        counter,
        counter_total,
        print,
        unit_insns,
        unit_blocks,
        unit_block,
        insn_address,
        insn_bytes,
        insn_text,
        insn_call,
        insn_count,
        insn_access,
    }
}

fn add<F>(list: &List<F>, f: Option<F>, data: *mut c_void) {
    if let Some(f) = f {
        list.lock().unwrap_or_else(PoisonError::into_inner).push((f, Data(data)));
    }
}

/// A copy, so that a function may register another.
fn each<F: Copy>(list: &List<F>) -> Vec<(F, Data)> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl State {
    /// The number of a function.
    fn number(&self, f: Function) -> Option<u32> {
        let kind = std::mem::discriminant::<Function>;
        let same = |known: &Function| known.address() == f.address() && kind(known) == kind(&f);
        self.functions.iter().position(|slot| same(slot.get_or_init(|| f))).map(|i| i as u32)
    }
}

impl Plugin for Shared {
    fn translated(&self, unit: &mut Unit<'_>) {
        for (f, data) in each(&self.0.translate) {
            // SAFETY: the plugin's function; the unit is lent for the call alone, and not used meanwhile.
            unsafe { f(data.0, std::ptr::from_mut(unit).cast()) };
        }
    }

    fn executed(&self, vcpu: u32, id: u32, data: u64) {
        if let Some(Function::Call(f)) = self.0.functions.get(id as usize).and_then(OnceLock::get) {
            // SAFETY: the plugin's function with its own pointer.
            unsafe { f(data as usize as *mut c_void, vcpu) };
        }
    }

    fn accessed(&self, vcpu: u32, id: u32, data: u64, a: &Access) {
        if let Some(Function::Access(f)) = self.0.functions.get(id as usize).and_then(OnceLock::get) {
            let flag = |on: bool, bit| if on { bit } else { 0 };
            let flags = flag(a.load, LOAD) | flag(a.store, STORE) | flag(a.value.is_some(), VALUE);
            let access = CAccess { address: a.address, value: a.value.unwrap_or(0), size: a.size, flags };
            // SAFETY: as above; the access lasts for the call.
            unsafe { f(data as usize as *mut c_void, vcpu, &raw const access) };
        }
    }

    fn vcpu_started(&self, vcpu: u32) {
        for (f, data) in each(&self.0.vcpu) {
            // SAFETY: as above.
            unsafe { f(data.0, vcpu, 1) };
        }
    }

    fn vcpu_stopped(&self, vcpu: u32) {
        for (f, data) in each(&self.0.vcpu) {
            // SAFETY: as above.
            unsafe { f(data.0, vcpu, 0) };
        }
    }

    fn forked(&self) {
        for (f, data) in each(&self.0.fork) {
            // SAFETY: as above.
            unsafe { f(data.0) };
        }
    }

    fn finished(&self) {
        for (f, data) in each(&self.0.end) {
            // SAFETY: as above.
            unsafe { f(data.0) };
        }
    }
}

/// The plugin that a table belongs to.
///
/// # Safety
/// `table` is one that [`start`] made.
unsafe fn state(table: *const Table) -> &'static State {
    // SAFETY: by the caller's promise; tables and states are never freed.
    unsafe { &*(*table).state }
}

/// The unit behind a pointer that a plugin was given.
///
/// # Safety
/// `unit` is what `on_translate`'s function got, which has not returned.
unsafe fn unit<'a>(unit: *const c_void) -> &'a Unit<'a> {
    // SAFETY: by the caller's promise.
    unsafe { &*unit.cast::<Unit<'a>>() }
}

/// The same to ask for something.
///
/// # Safety
/// As for [`unit`].
unsafe fn unit_mut<'a>(unit: *mut c_void) -> &'a mut Unit<'a> {
    // SAFETY: by the caller's promise; the reference ends before the plugin's next call.
    unsafe { &mut *unit.cast::<Unit<'a>>() }
}

unsafe extern "C" fn on_translate(t: *const Table, f: Option<OnTranslate>, data: *mut c_void) {
    // SAFETY: called by a plugin with its table.
    add(&unsafe { state(t) }.translate, f, data);
}

unsafe extern "C" fn on_vcpu(t: *const Table, f: Option<OnVcpu>, data: *mut c_void) {
    // SAFETY: called by a plugin with its table.
    add(&unsafe { state(t) }.vcpu, f, data);
}

unsafe extern "C" fn on_fork(t: *const Table, f: Option<OnEvent>, data: *mut c_void) {
    // SAFETY: called by a plugin with its table.
    add(&unsafe { state(t) }.fork, f, data);
}

unsafe extern "C" fn on_end(t: *const Table, f: Option<OnEvent>, data: *mut c_void) {
    // SAFETY: called by a plugin with its table.
    add(&unsafe { state(t) }.end, f, data);
}

unsafe extern "C" fn counter(t: *const Table) -> c_int {
    // SAFETY: called by a plugin with its table.
    unsafe { state(t) }.host.counters.take().map_or(-1, |c| c.index() as c_int)
}

unsafe extern "C" fn counter_total(t: *const Table, counter: c_int) -> u64 {
    let counter = usize::try_from(counter).ok().and_then(Counter::from_index);
    // SAFETY: called by a plugin with its table.
    counter.map_or(0, |c| unsafe { state(t) }.host.counters.total(c))
}

unsafe extern "C" fn print(t: *const Table, text: *const c_char) {
    if !text.is_null() {
        // SAFETY: called by a plugin with its table and a string.
        unsafe { state(t).host.print(&CStr::from_ptr(text).to_string_lossy()) };
    }
}

unsafe extern "C" fn unit_insns(u: *const c_void) -> usize {
    // SAFETY: called by a plugin with its unit.
    unsafe { unit(u) }.insns().len()
}

unsafe extern "C" fn unit_blocks(u: *const c_void) -> usize {
    // SAFETY: called by a plugin with its unit.
    unsafe { unit(u) }.blocks().len()
}

unsafe extern "C" fn unit_block(u: *const c_void, block: usize, first: *mut usize, count: *mut usize) {
    // SAFETY: called by a plugin with its unit, and two places for numbers.
    unsafe {
        let range = unit(u).blocks().get(block).cloned().unwrap_or_default();
        *first = range.start;
        *count = range.len();
    }
}

unsafe extern "C" fn insn_address(u: *const c_void, insn: usize) -> u64 {
    // SAFETY: called by a plugin with its unit.
    unsafe { unit(u) }.insns().get(insn).map_or(0, |i| i.address)
}

unsafe extern "C" fn insn_bytes(u: *const c_void, insn: usize, out: *mut u8, size: usize) -> usize {
    // SAFETY: called by a plugin with its unit.
    let bytes = unsafe { unit(u) }.insns().get(insn).map_or(&[][..], |i| &i.bytes);
    if !out.is_null() {
        // SAFETY: a place for `size` bytes.
        unsafe { out.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len().min(size)) };
    }
    bytes.len()
}

unsafe extern "C" fn insn_text(u: *const c_void, insn: usize, out: *mut c_char, size: usize) -> usize {
    // SAFETY: called by a plugin with its unit.
    let text = unsafe { unit(u) }.text(insn);
    if !out.is_null() && size != 0 {
        let n = text.len().min(size - 1);
        // SAFETY: a place for `size` bytes.
        unsafe {
            out.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), n);
            *out.add(n) = 0;
        }
    }
    text.len()
}

/// Asks, if there is such an instruction and the request is whole.
///
/// # Safety
/// As for [`unit`].
unsafe fn ask(u: *mut c_void, insn: usize, request: Option<Request>) -> c_int {
    // SAFETY: by the caller's promise.
    let unit = unsafe { unit_mut(u) };
    match request {
        Some(r) if insn < unit.insns().len() => {
            unit.ask(insn, r);
            0
        }
        _ => -1,
    }
}

unsafe extern "C" fn insn_call(
    t: *const Table,
    u: *mut c_void,
    insn: usize,
    f: Option<OnCall>,
    data: *mut c_void,
) -> c_int {
    // SAFETY: called by a plugin with its table and unit.
    unsafe {
        let id = f.and_then(|f| state(t).number(Function::Call(f)));
        ask(u, insn, id.map(|id| Request::Call { id, data: data as usize as u64 }))
    }
}

unsafe extern "C" fn insn_count(_: *const Table, u: *mut c_void, insn: usize, c: c_int, n: u32) -> c_int {
    let counter = usize::try_from(c).ok().and_then(Counter::from_index);
    // SAFETY: called by a plugin with its unit.
    unsafe { ask(u, insn, counter.map(|counter| Request::Count { counter, n })) }
}

unsafe extern "C" fn insn_access(
    t: *const Table,
    u: *mut c_void,
    insn: usize,
    which: u32,
    f: Option<OnAccess>,
    data: *mut c_void,
) -> c_int {
    let which = Accesses { loads: which & LOAD != 0, stores: which & STORE != 0 };
    // SAFETY: called by a plugin with its table and unit.
    unsafe {
        let id = f.and_then(|f| state(t).number(Function::Access(f)));
        ask(u, insn, id.map(|id| Request::Access { which, id, data: data as usize as u64 }))
    }
}
