//! Plain data: types that may be copied to and from user memory byte by byte.

use ptshare_abi::sys::general as g;
use ptshare_abi::sys::system as s;

/// A type for which every bit pattern is valid and that holds no reference.
///
/// # Safety
/// Implementors are `repr(C)` (or primitive) and made of such types only.
pub unsafe trait Pod: Sized {
    /// The all-zero value, padding included.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is valid, by the trait's contract.
        unsafe { core::mem::zeroed() }
    }
}

macro_rules! pod {
    ($($t:ty),+ $(,)?) => {
        $(
            // SAFETY: a primitive, or one of the kernel's own C structures without references.
            unsafe impl Pod for $t {}
        )+
    };
}

pod! {
    u8, u16, u32, u64, i8, i16, i32, i64, usize,
    g::stat, g::statx, g::statfs64, g::__kernel_timespec, g::__kernel_old_timeval, g::rusage, g::rlimit64,
    g::kernel_sigaction, g::siginfo_t, g::sigaltstack, g::pollfd, g::iovec, g::clone_args, g::termios, g::winsize,
    g::itimerval, g::flock, g::timezone,
    s::sysinfo, s::new_utsname,
}

// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}
