//! The kernel log: lines for the host, in the levels of the `log` crate.

use alloc::string::String;
use core::fmt::Write;

/// Logs a formatted line: 1 error, 2 warning, 3 information, 4 debug, 5 trace. Never on a hot path: formatting costs
/// thousands of instructions.
macro_rules! klog {
    ($level:expr, $($arg:tt)*) => {
        if $level <= $crate::config::log_level() {
            $crate::log::line($level, format_args!($($arg)*))
        }
    };
}

/// What [`klog!`] expands to.
#[cold]
pub fn line(level: u64, args: core::fmt::Arguments<'_>) {
    let mut text = String::new();
    if text.try_reserve(256).is_ok() && text.write_fmt(args).is_ok() {
        ptshare_machine::hyper::log(level, &text);
    }
}
