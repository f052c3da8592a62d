//! Two functions of the C library, counted: definitions in the program come before those of the shared library.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

thread_local! {
    static CLOCK_READS: Cell<u64> = const { Cell::new(0) };
    static FUTEX_CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Readings of any clock by the calling thread so far.
pub fn clock_reads() -> u64 {
    CLOCK_READS.get()
}

/// Futex calls of the calling thread so far: waiting for, or waking those who wait for, a lock, a condition, a channel.
pub fn futex_calls() -> u64 {
    FUTEX_CALLS.get()
}

/// The C library's own function of that name, looked up once.
fn original(cache: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the name is a terminated string; the call has no other precondition.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if found.is_null() {
        std::process::abort(); // no way to go on without it
    }
    cache.store(found, Ordering::Relaxed);
    found
}

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

// SAFETY: has the signature and does the work of the function whose name it takes.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    static ORIGINAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    CLOCK_READS.set(CLOCK_READS.get() + 1);
    let found = original(&ORIGINAL, c"clock_gettime");
    // SAFETY: the symbol of this name has this type.
    let call = unsafe { std::mem::transmute::<*mut c_void, ClockGettime>(found) };
    // SAFETY: the caller's promise, passed on.
    unsafe { call(clock, time) }
}

type Syscall = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

// SAFETY: on Linux a variadic call passes up to seven integers and pointers where a fixed one does; the C library's own
// function takes them from there too, whether the caller gave that many or not.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    arg0: c_long,
    arg1: c_long,
    arg2: c_long,
    arg3: c_long,
    arg4: c_long,
    arg5: c_long,
) -> c_long {
    static ORIGINAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    if number == libc::SYS_futex {
        FUTEX_CALLS.set(FUTEX_CALLS.get() + 1);
    }
    let found = original(&ORIGINAL, c"syscall");
    // SAFETY: the symbol of this name takes its arguments as this type passes them, see above.
    let call = unsafe { std::mem::transmute::<*mut c_void, Syscall>(found) };
    // SAFETY: the caller's promise, passed on.
    unsafe { call(number, arg0, arg1, arg2, arg3, arg4, arg5) }
}
