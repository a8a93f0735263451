//! The dynamic linker: opens shared objects and finds their functions.
#![expect(unsafe_code, reason = "loads shared objects, which run their own code")]

use std::ffi::{CStr, CString, c_void};

/// Opens an object for as long as the process lives, and finds a function in it.
pub(super) fn function(file: &str, name: &CStr) -> Result<*mut c_void, String> {
    // Without a slash the linker would search its own folders, and not the one at hand.
    let path = if file.contains('/') { file.to_owned() } else { format!("./{file}") };
    if let Err(e) = std::fs::metadata(&path) {
        return Err(format!("{e}; expected a shared object, or one of {}", crate::shipped::NAMES));
    }
    let c = CString::new(path).map_err(|_| "a name with a zero in it".to_owned())?;
    // SAFETY: a string; the object's initialisers are the plugin's, which is trusted. It stays open.
    let object = unsafe { libc::dlopen(c.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if object.is_null() {
        return Err(error());
    }
    // SAFETY: an open object and a string.
    let f = unsafe { libc::dlsym(object, name.as_ptr()) };
    if f.is_null() { Err(format!("no function {}", name.to_string_lossy())) } else { Ok(f) }
}

/// What the linker says went wrong.
fn error() -> String {
    // SAFETY: gives a string that lasts until the next call of the linker's on this thread, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error of the dynamic linker".into();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
