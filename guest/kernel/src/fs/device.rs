//! Character devices without state, and what opening a device node gives.

use super::console::{self, Stream};
use super::dentry::Path;
use super::file::{O_ACCMODE, Ops};
use super::inode::{Kind, S_IFIFO};
use super::io::{Sink, Source, total};
use super::memfd::nameless;
use super::pipe::Pipe;
use super::virt::{Node, Snapshot};
use crate::KObject;
use crate::syscall::SysResult;
use alloc::string::String;
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_machine::{Machine, random};
use ptshare_mm::object::{MAX_OBJECT_BYTES, ObjectInfo, ObjectKind};

/// `makedev` for numbers that fit the old format.
pub const fn makedev(major: u64, minor: u64) -> u64 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// Major number.
pub const fn major(dev: u64) -> u64 {
    (dev >> 8 & 0xfff) | (dev >> 32 & !0xfff)
}

/// Minor number.
pub const fn minor(dev: u64) -> u64 {
    (dev & 0xff) | (dev >> 12 & 0xffff_ff00)
}

/// Minor number of /dev/userfaultfd, which Linux hands out as devices register (MISC_DYNAMIC_MINOR).
const USERFAULTFD_MINOR: u64 = 257;

/// The nodes of /dev: name, permissions, major, minor. Numbers of Linux's devices are Linux's
/// (Documentation/admin-guide/devices.txt); ours are in the range for local use, major 240.
pub const NODES: &[(&str, u32, u64, u64)] = &[
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("kmsg", 0o644, 1, 11),
    ("tty", 0o666, 5, 0),
    ("console", 0o600, 5, 1),
    ("ttyS0", 0o660, 4, 64),
    ("hostin", 0o666, 240, 0),
    ("hostout", 0o666, 240, 1),
    ("hosterr", 0o666, 240, 2),
    ("ptshare", 0o666, 240, 3),
    ("userfaultfd", 0o600, 10, USERFAULTFD_MINOR),
];

/// A device without state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Takes everything, gives nothing.
    Null,
    /// Gives zeros.
    Zero,
    /// Gives zeros, is always full.
    Full,
    /// Gives random bytes.
    Random,
    /// The kernel log: takes lines.
    Log,
    /// Makes userfaultfds, for whoever may open it.
    Userfault,
}

/// What opening the device `rdev` gives: operations, and the path if it is another than the node's.
///
/// # Errors
/// ENXIO where there is no such device, or no controlling terminal.
pub fn open(rdev: u64, flags: u32, no_ctty: bool) -> Result<(Ops, Option<Path>), Errno> {
    let device = match (major(rdev), minor(rdev)) {
        (1, 3) => Device::Null,
        (1, 5) => Device::Zero,
        (1, 7) => Device::Full,
        (1, 8 | 9) => Device::Random,
        (1, 11) => Device::Log,
        (10, USERFAULTFD_MINOR) => Device::Userfault,
        (5, 0) => {
            if !console::is_controlling() {
                return Err(Errno::ENXIO);
            }
            return Ok((Ops::Tty(Stream::Out), None));
        }
        (5, 1) => return Ok((Ops::Tty(Stream::Out), None)),
        (4, 64) => {
            console::opened(no_ctty);
            return Ok((Ops::Tty(Stream::Out), None));
        }
        (240, n @ 0..=2) => {
            let stream = [Stream::In, Stream::Out, Stream::Err][n as usize];
            if !stream.is_pipe() {
                console::opened(no_ctty);
                return Ok((Ops::Tty(stream), None));
            }
            let backwards = match stream {
                Stream::In => flags & O_ACCMODE == 1,
                _ => flags & O_ACCMODE == 0,
            };
            if backwards {
                return Err(Errno::EACCES);
            }
            let kind = Kind::Fifo(Arc::new(Pipe::new()));
            return Ok((Ops::Host(stream), Some(nameless(b"pipe:", S_IFIFO | 0o600, kind))));
        }
        (240, 3) => return Ok((Ops::Virtual(Node::Ptshare, Snapshot::new()), None)),
        _ => return Err(Errno::ENXIO),
    };
    Ok((Ops::Device(device), None))
}

/// What a mapping of /dev/zero maps: memory of its own.
pub fn zero_object(path: &Path) -> Arc<KObject> {
    let info = ObjectInfo::new(path.inode().sb.dev, path.inode().ino, String::from("/dev/zero"));
    let object = KObject::new(Machine, ObjectKind::Shm, info);
    // No page is made by this; it cannot fail below the largest size.
    let _ = object.truncate(MAX_OBJECT_BYTES);
    object
}

impl Device {
    /// Has it no position at all? The memory devices take any lseek.
    pub fn is_stream(self) -> bool {
        false
    }

    /// Reads.
    ///
    /// # Errors
    /// EFAULT; EINVAL from the log.
    pub fn read(self, sink: &mut Sink) -> SysResult {
        match self {
            Device::Null => Ok(0),
            Device::Zero | Device::Full => {
                let result = sink.put_zeros().map(|_| ());
                total(sink.done(), result)
            }
            Device::Random => {
                let mut result = Ok(());
                while sink.left() > 0 && result.is_ok() {
                    let mut chunk = [0u8; 64];
                    for word in chunk.chunks_exact_mut(8) {
                        word.copy_from_slice(&random::u64().to_le_bytes());
                    }
                    result = sink.put(&chunk).map(|_| ());
                }
                total(sink.done(), result)
            }
            Device::Log => Ok(0),
            Device::Userfault => Err(Errno::EINVAL.into()),
        }
    }

    /// Writes.
    ///
    /// # Errors
    /// ENOSPC from the full device; EFAULT from the log.
    pub fn write(self, source: &mut Source) -> SysResult {
        let len = source.left();
        match self {
            Device::Null | Device::Zero | Device::Random => {
                source.skip(len);
                Ok(len)
            }
            Device::Full => Err(Errno::ENOSPC.into()),
            Device::Userfault => Err(Errno::EINVAL.into()),
            Device::Log => {
                let mut line = [0u8; 256];
                let n = source.get(&mut line)? as usize;
                let text = core::str::from_utf8(&line[..n]).unwrap_or("(not text)");
                klog!(3, "{}", text.trim_end());
                source.skip(len);
                Ok(len)
            }
        }
    }

    /// lseek: these devices stay where they are.
    ///
    /// # Errors
    /// EINVAL for an unknown `whence`.
    pub fn seek(self, _offset: i64, whence: u32) -> Result<u64, Errno> {
        if whence <= 2 { Ok(0) } else { Err(Errno::EINVAL) }
    }
}
