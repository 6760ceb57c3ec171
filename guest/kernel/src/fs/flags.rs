//! Flags of open(2), as numbers of x86-64 (include/uapi/asm-generic/fcntl.h).

/// Access mode field of open flags.
pub const O_ACCMODE: u32 = 3;
/// Write only.
pub const O_WRONLY: u32 = 1;
/// Read and write.
pub const O_RDWR: u32 = 2;
/// Create.
pub const O_CREAT: u32 = 0o100;
/// Fail if it exists.
pub const O_EXCL: u32 = 0o200;
/// Do not make it the controlling terminal.
pub const O_NOCTTY: u32 = 0o400;
/// Truncate.
pub const O_TRUNC: u32 = 0o1000;
/// Write at the end.
pub const O_APPEND: u32 = 0o2000;
/// Do not wait.
pub const O_NONBLOCK: u32 = 0o4000;
/// Asynchronous notification.
pub const O_ASYNC: u32 = 0o20000;
/// Direct transfers.
pub const O_DIRECT: u32 = 0o40000;
/// Files of any length: on a 64-bit kernel every open sets it, and F_GETFL shows it.
pub const O_LARGEFILE: u32 = 0o100_000;
/// Must be a directory.
pub const O_DIRECTORY: u32 = 0o200_000;
/// Do not follow a symbolic link at the end.
pub const O_NOFOLLOW: u32 = 0o400_000;
/// Do not change the access time.
pub const O_NOATIME: u32 = 0o1_000_000;
/// Close on exec.
pub const O_CLOEXEC: u32 = 0o2_000_000;
/// Only the place, no access.
pub const O_PATH: u32 = 0o10_000_000;
/// An unnamed file (with [`O_DIRECTORY`]).
pub const O_TMPFILE: u32 = 0o20_000_000;
