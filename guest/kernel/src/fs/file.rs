//! Open files (Linux `struct file`): a path, how it was opened, a position, and what reads and writes do.

use super::console::{self, Stream};
use super::dentry::Path;
use super::device::Device;
use super::epoll::Epoll;
use super::event::EventCounter;
pub use super::flags::*;
use super::hold::Hold;
use super::inode::{Inode, Kind};
use super::io::{self, Sink, Source};
use super::locks;
use super::pidfd::Pidfd;
use super::pipe::Pipe;
use super::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use super::signalfd::SignalSet;
use super::socket::Socket;
use super::table::FileTable;
use super::timerfd::Timerfd;
use super::userfault::Userfaultfd;
use super::virt::{Node, Snapshot};
use super::{device, memfd, regular};
use crate::KObject;
use crate::syscall::SysErr;
use crate::task::WaitQueue;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;

/// Flags that F_SETFL changes.
const SETTABLE: u32 = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;

/// What an open file does.
pub enum Ops {
    /// Nothing: O_PATH.
    Place,
    /// Reads and writes a page cache.
    Regular,
    /// Lists a directory in memory.
    Dir,
    /// A device without state.
    Device(Device),
    /// The console terminal, with the host stream for output.
    Tty(Stream),
    /// A host stream as a pipe.
    Host(Stream),
    /// A pipe's end.
    Pipe(Arc<Pipe>),
    /// A Unix socket.
    Socket(Arc<Socket>),
    /// A file or directory of procfs or sysfs.
    Virtual(Node, Snapshot),
    /// eventfd.
    Event(EventCounter),
    /// epoll.
    Epoll(Epoll),
    /// userfaultfd.
    Userfault(Arc<Userfaultfd>),
    /// A process.
    Pidfd(Pidfd),
    /// Signals.
    Signals(SignalSet),
    /// timerfd.
    Timer(Arc<Timerfd>),
}

static OPEN_FILES: AtomicU64 = AtomicU64::new(0);

/// Open files in all (first column of /proc/sys/fs/file-nr).
pub fn open_files() -> u64 {
    OPEN_FILES.load(Relaxed)
}

/// An open file.
pub struct File {
    /// Where it was found.
    pub path: Path,
    /// What it does.
    pub ops: Ops,
    /// `O_*` as F_GETFL shows them.
    flags: AtomicU32,
    readable: bool,
    writable: bool,
    /// Keeps writers out while it lives: the file of a running program.
    denies_writers: bool,
    pos: AtomicU64,
    pos_hold: Hold,
}

impl File {
    /// An open file. `flags` give the access mode; what the inode counts (writers, pipe ends) has been counted.
    pub fn new(path: Path, ops: Ops, flags: u32) -> Arc<File> {
        let mode = flags & O_ACCMODE;
        let place = matches!(ops, Ops::Place);
        OPEN_FILES.fetch_add(1, Relaxed);
        Arc::new(File {
            path,
            ops,
            flags: AtomicU32::new(flags),
            readable: !place && (mode == 0 || mode == O_RDWR),
            writable: !place && (mode == O_WRONLY || mode == O_RDWR),
            denies_writers: false,
            pos: AtomicU64::new(0),
            pos_hold: Hold::new(),
        })
    }

    /// A program file about to be executed; writers are kept out until it is dropped.
    ///
    /// # Errors
    /// ETXTBSY when it is open for writing.
    pub fn new_exec(path: Path) -> Result<Arc<File>, Errno> {
        path.inode().deny_write_access()?;
        OPEN_FILES.fetch_add(1, Relaxed);
        Ok(Arc::new(File {
            path,
            ops: Ops::Regular,
            flags: AtomicU32::new(0),
            readable: true,
            writable: false,
            denies_writers: true,
            pos: AtomicU64::new(0),
            pos_hold: Hold::new(),
        }))
    }

    /// The inode.
    #[inline]
    pub fn inode(&self) -> &Arc<Inode> {
        self.path.inode()
    }

    /// Opened for reading?
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// Opened for writing?
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// O_PATH?
    pub fn is_place(&self) -> bool {
        matches!(self.ops, Ops::Place)
    }

    /// `O_*` as F_GETFL shows them.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// F_SETFL.
    pub fn set_flags(&self, new: u32) {
        self.flags.store(self.flags() & !SETTABLE | new & SETTABLE, Relaxed);
    }

    /// Sets or clears O_NONBLOCK.
    pub fn set_nonblock(&self, on: bool) {
        let flags = self.flags();
        self.flags.store(if on { flags | O_NONBLOCK } else { flags & !O_NONBLOCK }, Relaxed);
    }

    fn nonblock(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// The page cache behind it, for mmap and exec; its path is noted in it for /proc/PID/maps.
    pub fn object(&self) -> Option<Arc<KObject>> {
        if !matches!(self.ops, Ops::Regular) {
            return None;
        }
        let object = self.inode().object()?;
        let (text, _) = self.path.text(&super::root());
        let text = String::from_utf8_lossy(&text).into_owned();
        let old = core::mem::replace(&mut *object.info().path.lock(), text);
        drop(old);
        Some(object)
    }

    /// What mmap maps of it.
    ///
    /// # Errors
    /// EBADF for O_PATH; ENODEV for what cannot be mapped.
    pub fn mmap_object(&self) -> Result<Arc<KObject>, Errno> {
        match &self.ops {
            Ops::Regular => self.object().ok_or(Errno::ENODEV),
            // As drivers/char/mem.c: a shared mapping is shared memory of its own, a private one is anonymous memory.
            Ops::Device(Device::Zero) => Ok(device::zero_object(&self.path)),
            Ops::Place => Err(Errno::EBADF),
            _ => Err(Errno::ENODEV),
        }
    }

    /// `F_SEAL_*` bits of the file.
    pub fn seals(&self) -> u32 {
        self.inode().regular().map_or(memfd::F_SEAL_SEAL, |r| r.seals.load(Relaxed))
    }

    /// Has it no position?
    pub fn is_stream(&self) -> bool {
        match &self.ops {
            Ops::Tty(_)
            | Ops::Host(_)
            | Ops::Pipe(_)
            | Ops::Socket(_)
            | Ops::Event(_)
            | Ops::Epoll(_)
            | Ops::Userfault(_)
            | Ops::Pidfd(_)
            | Ops::Timer(_)
            | Ops::Signals(_) => true,
            Ops::Device(device) => device.is_stream(),
            _ => false,
        }
    }

    /// Does it have a position that reads and writes move?
    fn has_position(&self) -> bool {
        matches!(self.ops, Ops::Regular | Ops::Dir | Ops::Virtual(..))
    }

    /// The position.
    pub fn position(&self) -> u64 {
        self.pos.load(Relaxed)
    }

    /// Reads at the position and moves it.
    ///
    /// # Errors
    /// EBADF, EISDIR, EINVAL, EFAULT, EAGAIN, EIO, a signal.
    pub fn read(&self, sink: &mut Sink) -> Result<u64, SysErr> {
        if !self.readable {
            return Err(Errno::EBADF.into());
        }
        if !self.has_position() {
            return self.read_from(sink, 0);
        }
        let _held = self.pos_hold.take();
        let pos = self.position();
        let got = self.read_from(sink, pos)?;
        self.pos.store(pos + got, Relaxed);
        Ok(got)
    }

    /// Reads at `pos` (pread).
    ///
    /// # Errors
    /// As [`File::read`]; ESPIPE.
    pub fn read_at(&self, sink: &mut Sink, pos: u64) -> Result<u64, SysErr> {
        if self.is_stream() {
            return Err(Errno::ESPIPE.into());
        }
        if !self.readable {
            return Err(Errno::EBADF.into());
        }
        self.read_from(sink, pos)
    }

    fn read_from(&self, sink: &mut Sink, pos: u64) -> Result<u64, SysErr> {
        check_range(pos, sink.left())?;
        match &self.ops {
            Ops::Place => Err(Errno::EBADF.into()),
            Ops::Dir => Err(Errno::EISDIR.into()),
            Ops::Regular => {
                let Some(regular) = self.inode().regular() else { return Err(Errno::EINVAL.into()) };
                if pos >= regular.size() || sink.left() == 0 {
                    return Ok(0);
                }
                let Some(object) = self.inode().object() else { return Ok(0) };
                let got = io::read_object(&object, pos, sink)?;
                if self.flags() & O_NOATIME == 0 {
                    self.inode().touch_atime();
                }
                Ok(got)
            }
            Ops::Device(device) => device.read(sink),
            Ops::Tty(_) => console::read(sink, self.nonblock()),
            Ops::Host(stream) => console::host_read(*stream, sink, self.nonblock()),
            Ops::Pipe(pipe) => pipe.read(sink, self.nonblock()),
            Ops::Socket(socket) => socket.receive(sink, self.nonblock(), None),
            Ops::Virtual(node, snapshot) => {
                if self.inode().is_dir() {
                    return Err(Errno::EISDIR.into());
                }
                node.read(snapshot, pos, sink)
            }
            Ops::Event(counter) => counter.read(sink, self.nonblock()),
            Ops::Signals(set) => set.read(sink, self.nonblock()),
            Ops::Timer(timer) => timer.read(sink, self.nonblock()),
            Ops::Userfault(uffd) => uffd.read(sink, self.nonblock()),
            Ops::Epoll(_) | Ops::Pidfd(_) => Err(Errno::EINVAL.into()),
        }
    }

    /// Writes at the position (at the end with O_APPEND) and moves it.
    ///
    /// # Errors
    /// EBADF, EINVAL, EFAULT, EAGAIN, EFBIG, ENOSPC, EPIPE, EIO, EPERM (sealed), a signal.
    pub fn write(&self, source: &mut Source) -> Result<u64, SysErr> {
        if !self.writable {
            return Err(Errno::EBADF.into());
        }
        if !self.has_position() {
            return self.write_to(source, 0).map(|(_, wrote)| wrote);
        }
        let _held = self.pos_hold.take();
        let (at, wrote) = self.write_to(source, self.position())?;
        self.pos.store(at + wrote, Relaxed);
        Ok(wrote)
    }

    /// Writes at `pos` (pwrite; at the end with O_APPEND, as Linux does).
    ///
    /// # Errors
    /// As [`File::write`]; ESPIPE.
    pub fn write_at(&self, source: &mut Source, pos: u64) -> Result<u64, SysErr> {
        if self.is_stream() {
            return Err(Errno::ESPIPE.into());
        }
        if !self.writable {
            return Err(Errno::EBADF.into());
        }
        self.write_to(source, pos).map(|(_, wrote)| wrote)
    }

    fn write_to(&self, source: &mut Source, pos: u64) -> Result<(u64, u64), SysErr> {
        check_range(pos, source.left())?;
        let wrote = match &self.ops {
            Ops::Regular => return regular::write(self, source, pos),
            Ops::Place | Ops::Dir => Err(Errno::EBADF.into()),
            Ops::Device(device) => device.write(source),
            Ops::Tty(stream) => console::write(*stream, source),
            Ops::Host(stream) => console::host_write(*stream, source),
            Ops::Pipe(pipe) => pipe.write(source, self.nonblock()),
            Ops::Socket(socket) => socket.send(source, self.nonblock(), false, None),
            Ops::Virtual(node, _) => node.write(source, pos),
            Ops::Event(counter) => counter.write(source, self.nonblock()),
            Ops::Userfault(uffd) => uffd.write(source),
            Ops::Epoll(_) | Ops::Pidfd(_) | Ops::Signals(_) | Ops::Timer(_) => Err(Errno::EINVAL.into()),
        };
        wrote.map(|wrote| (pos, wrote))
    }

    /// Makes a regular file `size` bytes long (ftruncate; the caller has checked that it may write).
    ///
    /// # Errors
    /// EFBIG, EPERM (sealed), EINVAL (no regular file).
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        regular::truncate(self.inode(), size)
    }

    /// lseek.
    ///
    /// # Errors
    /// ESPIPE, EINVAL, ENXIO (SEEK_DATA, SEEK_HOLE past the end), EBADF.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        if self.is_place() {
            return Err(Errno::EBADF);
        }
        if self.is_stream() {
            return Err(Errno::ESPIPE);
        }
        if let Ops::Device(device) = &self.ops {
            return device.seek(offset, whence);
        }
        let _held = self.pos_hold.take();
        let base = match whence {
            0 => 0,
            1 => self.position() as i64,
            2 => self.inode().size() as i64,
            3 | 4 => self.seek_data(offset, whence == 3)?,
            _ => return Err(Errno::EINVAL),
        };
        let pos = if whence >= 3 { base } else { base.checked_add(offset).ok_or(Errno::EOVERFLOW)? };
        if pos < 0 {
            return Err(Errno::EINVAL);
        }
        self.pos.store(pos as u64, Relaxed);
        Ok(pos as u64)
    }

    fn seek_data(&self, offset: i64, data: bool) -> Result<i64, Errno> {
        let size = self.inode().size();
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let Some(object) = self.inode().object() else { return Ok(if data { offset } else { size } as i64) };
        if data {
            let at = object.next_data(offset).filter(|at| *at < size);
            return at.map(|at| at as i64).ok_or(Errno::ENXIO);
        }
        if object.is_huge() {
            // hugetlbfs tells no holes apart.
            return Ok(size as i64);
        }
        let end = size.div_ceil(4096);
        let mut index = offset / 4096;
        while index < end && object.resident(index) {
            index += 1;
        }
        Ok((index * 4096).clamp(offset, size) as i64)
    }

    /// Is it a directory that has been removed?
    pub fn dentry_gone(&self) -> bool {
        self.inode().dir().is_some_and(|dir| dir.lock().dead)
    }

    /// Sets the position: directory listings.
    pub fn set_position(&self, pos: u64) {
        self.pos.store(pos, Relaxed);
    }

    /// `POLL*` that hold now.
    pub fn poll(&self) -> u32 {
        const BOTH: u32 = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
        match &self.ops {
            Ops::Pipe(pipe) => pipe.poll(self.readable, self.writable),
            Ops::Socket(socket) => socket.poll(),
            Ops::Tty(_) => console::poll(),
            Ops::Host(stream) => console::host_poll(*stream),
            Ops::Event(counter) => counter.poll(),
            Ops::Epoll(epoll) => epoll.poll(),
            Ops::Userfault(uffd) => uffd.poll(self.nonblock()),
            Ops::Pidfd(pidfd) => pidfd.poll(),
            Ops::Signals(set) => set.poll(),
            Ops::Timer(timer) => timer.poll(),
            Ops::Place => super::poll::POLLNVAL,
            _ => BOTH,
        }
    }

    /// Calls `f` with each queue that is woken when [`File::poll`] may have changed.
    pub fn poll_queues<'a>(&'a self, f: &mut dyn FnMut(&'a WaitQueue)) {
        match &self.ops {
            Ops::Pipe(pipe) => {
                if self.readable {
                    f(&pipe.readable);
                }
                if self.writable {
                    f(&pipe.writable);
                }
            }
            Ops::Socket(socket) => socket.queues(f),
            Ops::Tty(_) | Ops::Host(_) => f(console::queue()),
            Ops::Event(counter) => counter.queues(f),
            Ops::Epoll(epoll) => f(epoll.queue()),
            Ops::Userfault(uffd) => f(uffd.queue()),
            Ops::Pidfd(pidfd) => f(pidfd.queue()),
            Ops::Signals(set) => f(set.queue()),
            Ops::Timer(timer) => f(timer.queue()),
            _ => {}
        }
    }
}

/// Offsets are signed (Linux `rw_verify_area`).
fn check_range(pos: u64, len: u64) -> Result<(), Errno> {
    if pos.checked_add(len).is_none_or(|end| end > i64::MAX as u64) { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Drop for File {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Relaxed);
        if self.denies_writers {
            self.path.inode().allow_write_access();
        } else if self.writable && matches!(self.path.inode().kind, Kind::Regular(_)) {
            self.path.inode().put_write_access();
        }
        match &self.ops {
            Ops::Pipe(pipe) => pipe.close(self.readable, self.writable),
            Ops::Socket(socket) => socket.close(),
            Ops::Userfault(uffd) => uffd.close(),
            Ops::Timer(timer) => timer.close(),
            _ => {}
        }
        locks::release_file(self.path.inode(), core::ptr::from_ref(self) as u64);
    }
}

/// A descriptor of `table` has been closed: its process's record locks on the file go, then the reference.
pub fn closed(table: &FileTable, file: Arc<File>) {
    if !file.is_place() {
        locks::release_owner(file.inode(), table.id);
    }
    drop(file);
}
