//! PID 1 of the appliance: see the library.
//!
//! `main` is C's: the standard library's start-up aborts when descriptors 0 to 2 are closed and there is
//! no `/dev/null` to put there, which is how the kernel starts PID 1 on a machine without a console.

#![cfg_attr(not(test), no_main)]

/// Entry point, called by the C library.
// SAFETY: `main` is not defined anywhere else, and the signature is one C allows.
#[cfg(not(test))]
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: core::ffi::c_int, _argv: *const *const core::ffi::c_char) -> core::ffi::c_int {
    mote_init::run()
}
