//! The file of userfaultfd(2), and the threads that wait for what its reader does. Which faults become messages, and what
//! the requests do to the tables, is `ptshare_mm::userfault`'s.
//!
//! Argument checks and their order: fs/userfaultfd.c of Linux.

use super::file::{File, O_CLOEXEC, O_NONBLOCK, O_RDWR, Ops};
use super::inode::Kind;
use super::io::{Sink, Source};
use super::memfd::nameless;
use super::pipe::interrupted;
use super::poll::{POLLERR, POLLIN};
use super::text::Text;
use crate::syscall::SysResult;
use crate::task::{WaitQueue, current};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_abi::sys::ioctl as req;
use ptshare_machine::{Machine, uaccess};
use ptshare_mm::error::MmError;
use ptshare_mm::userfault::{Call, FEATURES, HeldPage, Message, Source as Fill, Staging};
use ptshare_mm::vma::{MMAP_MIN_ADDR, VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP};
use ptshare_mm::{Ticket, Userfault};
use ptshare_paging::{PAGE_BYTES, USER_END};
use ptshare_sync::{Lock, Rank};

/// `USERFAULTFD_IOC_NEW`, the one request that /dev/userfaultfd takes (include/uapi/linux/userfaultfd.h).
pub const IOC_NEW: u32 = 0xaa00;
/// Bytes of `struct uffd_msg`.
const MESSAGE_BYTES: u64 = 32;
/// `UFFDIO_WRITEPROTECT_MODE_WP`, which the headers have as a cast that bindgen leaves out, like those below.
const WRITEPROTECT_WP: u64 = 1;
const WRITEPROTECT_DONTWAKE: u64 = 2;
const CONTINUE_DONTWAKE: u64 = 1;
const CONTINUE_WP: u64 = 2;

/// Requests that a range takes, as UFFDIO_REGISTER reports them.
const RANGE_IOCTLS: u64 = 1 << abi::_UFFDIO_WAKE
    | 1 << abi::_UFFDIO_COPY
    | 1 << abi::_UFFDIO_ZEROPAGE
    | 1 << abi::_UFFDIO_WRITEPROTECT
    | 1 << abi::_UFFDIO_CONTINUE;
/// Requests that a userfaultfd takes, as UFFDIO_API reports them.
const API_IOCTLS: u64 = 1 << abi::_UFFDIO_REGISTER | 1 << abi::_UFFDIO_UNREGISTER | 1 << abi::_UFFDIO_API;

/// An open userfaultfd.
pub struct Userfaultfd {
    context: Arc<Userfault<Machine>>,
    /// Woken when a message can be read.
    readable: WaitQueue,
    /// Woken when faults have been resolved.
    resolved: WaitQueue,
}

/// Those that are open, by the number of their context.
static OPEN: Lock<BTreeMap<u32, Arc<Userfaultfd>>> = Lock::new(Rank::Registry, BTreeMap::new());

/// Makes a descriptor: userfaultfd(2) once permission has been checked, and USERFAULTFD_IOC_NEW.
///
/// # Errors
/// EINVAL for unknown flags, EMFILE, ENOMEM.
pub fn create(flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK | abi::UFFD_USER_MODE_ONLY) != 0 {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let process = &current().process;
    let context = Userfault::new(&process.mm(), flags & abi::UFFD_USER_MODE_ONLY != 0);
    let id = context.id();
    let this = Arc::new(Userfaultfd { context, readable: WaitQueue::new(), resolved: WaitQueue::new() });
    OPEN.lock().insert(id, this.clone());
    let path = nameless(b"anon_inode:[userfaultfd]", 0o600, Kind::Anonymous);
    let file = File::new(path, Ops::Userfault(this), O_RDWR | flags & O_NONBLOCK);
    Ok(process.files().install(file, flags & O_CLOEXEC != 0)?)
}

/// Waits until a handler has dealt with a fault of the current task; a signal ends the wait of one from user mode, only
/// the end of the process that of the kernel's own access. Says whether to go on: to repeat the access, or to look at
/// the signal.
pub fn wait(ticket: Ticket, user: bool) -> bool {
    let Some(this) = OPEN.lock().get(&ticket.context).cloned() else { return true };
    let task = current();
    let context = &this.context;
    context.announce(ticket.number, task.tid());
    this.readable.wake_all();
    let resolved = || (!context.is_waiting(ticket.number)).then_some(());
    let waited =
        if user { this.resolved.wait(None, resolved) } else { this.resolved.wait_killable(resolved) };
    if waited.is_err() {
        context.withdraw(ticket.number);
    }
    user || waited.is_ok()
}

impl Userfaultfd {
    /// Nobody has it open any more.
    pub fn close(&self) {
        self.context.close();
        let gone = OPEN.lock().remove(&self.context.id());
        self.resolved.wake_all();
        self.readable.wake_all();
        drop(gone);
    }

    /// Reads messages, waiting for the first.
    ///
    /// # Errors
    /// EINVAL before the handshake and for less than a message's bytes; EAGAIN, EFAULT, a signal.
    pub fn read(&self, sink: &mut Sink, nonblock: bool) -> SysResult {
        if !self.context.is_ready() || sink.left() < MESSAGE_BYTES {
            return Err(Errno::EINVAL.into());
        }
        let first = match self.context.read() {
            Some(message) => message,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => self.readable.wait(None, || self.context.read()).map_err(interrupted)?,
        };
        let mut next = Some(first);
        while let Some(message) = next {
            if let Err(fault) = sink.put(&encode(&message)) {
                let whole = sink.done() / MESSAGE_BYTES * MESSAGE_BYTES;
                return if whole == 0 { Err(fault.into()) } else { Ok(whole) };
            }
            next = if sink.left() < MESSAGE_BYTES { None } else { self.context.read() };
        }
        Ok(sink.done())
    }

    /// There is nothing to write to it.
    ///
    /// # Errors
    /// EINVAL.
    pub fn write(&self, _: &mut Source) -> SysResult {
        Err(Errno::EINVAL.into())
    }

    /// Readiness. One whose reads may wait cannot be polled.
    pub fn poll(&self, nonblock: bool) -> u32 {
        match () {
            () if !self.context.is_ready() || !nonblock => POLLERR,
            () if self.context.is_readable() => POLLIN,
            () => 0,
        }
    }

    /// See [`File::poll_queues`].
    pub fn queue(&self) -> &WaitQueue {
        &self.readable
    }

    /// What /proc/PID/fdinfo says of it (`userfaultfd_show_fdinfo`).
    pub fn fd_info(&self, t: &mut Text) {
        let (pending, total) = self.context.counts();
        t.s("pending:\t").dec(pending as u64).s("\ntotal:\t").dec(total as u64);
        t.s("\nAPI:\t").hex(u64::from(abi::UFFD_API), 1).c(b':').hex(self.context.features(), 1);
        t.c(b':').hex(API_IOCTLS | RANGE_IOCTLS, 1).c(b'\n');
    }

    /// ioctl_userfaultfd(2).
    ///
    /// # Errors
    /// As there.
    pub fn ioctl(&self, request: u32, arg: u64) -> SysResult {
        if request == req::UFFDIO_API {
            return self.handshake(arg);
        }
        if !self.context.is_ready() {
            return Err(Errno::EINVAL.into());
        }
        match request {
            req::UFFDIO_REGISTER => self.register(arg),
            req::UFFDIO_UNREGISTER => {
                let [start, len] = uaccess::read::<[u64; 2]>(arg)?;
                let end = checked_end(start, len)?;
                let result = self.context.unregister(start, end);
                self.resolved.wake_all();
                result?;
                Ok(0)
            }
            req::UFFDIO_WAKE => {
                let [start, len] = uaccess::read::<[u64; 2]>(arg)?;
                checked_end(start, len)?;
                self.wake(start, len);
                Ok(0)
            }
            req::UFFDIO_COPY => self.copy(arg),
            req::UFFDIO_ZEROPAGE => self.zero(arg),
            req::UFFDIO_CONTINUE => self.resume(arg),
            req::UFFDIO_WRITEPROTECT => self.write_protect(arg),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn wake(&self, start: u64, len: u64) {
        self.context.wake(start, len);
        self.resolved.wake_all();
    }

    /// UFFDIO_API: `struct uffdio_api { api, features, ioctls }`.
    fn handshake(&self, arg: u64) -> SysResult {
        let [api, features, _] = uaccess::read::<[u64; 3]>(arg)?;
        let known = api == u64::from(abi::UFFD_API) && features & !FEATURES == 0;
        if !known || self.context.is_ready() {
            uaccess::write(arg, &[0u64; 3])?;
            return Err(Errno::EINVAL.into());
        }
        uaccess::write(arg, &[api, FEATURES, API_IOCTLS])?;
        self.context.enable(features)?;
        Ok(0)
    }

    /// UFFDIO_REGISTER: `struct uffdio_register { start, len, mode, ioctls }`.
    fn register(&self, arg: u64) -> SysResult {
        let [start, len, mode] = uaccess::read::<[u64; 3]>(arg)?;
        let has = |bit: u32| mode & u64::from(bit) != 0;
        let known = abi::UFFDIO_REGISTER_MODE_MISSING
            | abi::UFFDIO_REGISTER_MODE_WP
            | abi::UFFDIO_REGISTER_MODE_MINOR;
        if mode == 0 || mode & !u64::from(known) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let end = checked_end(start, len)?;
        crate::heap_room()?;
        let mut modes = 0;
        let mut ioctls = RANGE_IOCTLS;
        if has(abi::UFFDIO_REGISTER_MODE_MISSING) {
            modes |= VM_UFFD_MISSING;
        }
        if has(abi::UFFDIO_REGISTER_MODE_WP) {
            modes |= VM_UFFD_WP;
        } else {
            ioctls &= !(1 << abi::_UFFDIO_WRITEPROTECT);
        }
        if has(abi::UFFDIO_REGISTER_MODE_MINOR) {
            modes |= VM_UFFD_MINOR;
        } else {
            ioctls &= !(1 << abi::_UFFDIO_CONTINUE);
        }
        if self.context.register(start, end, modes)?.huge {
            ioctls &= !(1 << abi::_UFFDIO_ZEROPAGE);
        }
        uaccess::write(arg + 24, &ioctls)?;
        Ok(0)
    }

    /// UFFDIO_COPY: `struct uffdio_copy { dst, src, len, mode, copy }`.
    fn copy(&self, arg: u64) -> SysResult {
        let [dst, src, len, mode] = uaccess::read::<[u64; 4]>(arg)?;
        if !len.is_multiple_of(PAGE_BYTES) || src.checked_add(len).is_none_or(|end| end > USER_END) {
            return Err(Errno::EINVAL.into());
        }
        checked_end(dst, len)?;
        if mode & !u64::from(abi::UFFDIO_COPY_MODE_DONTWAKE | abi::UFFDIO_COPY_MODE_WP) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let protect = mode & u64::from(abi::UFFDIO_COPY_MODE_WP) != 0;
        let mut staging = None;
        let done = self.fill(dst, len, Call::Copy, protect, |done, bytes| {
            let (at, from) = (dst + done, src + done);
            if bytes == PAGE_BYTES {
                let page = HeldPage::new(&Machine)?;
                uaccess::copy_user_to_phys(page.pa(), from, bytes).map_err(|_| MmError::Fault)?;
                return self.context.fill(at, Fill::Page(page), protect);
            }
            let staging = match &mut staging {
                Some(staging) => staging,
                none => none.insert(Staging::new(&Machine)?),
            };
            uaccess::copy_user_to_phys(staging.pa(), from, bytes).map_err(|_| MmError::Fault)?;
            self.context.fill(at, Fill::Huge(staging), protect)
        });
        let wakes = mode & u64::from(abi::UFFDIO_COPY_MODE_DONTWAKE) == 0;
        self.finish((dst, len), done, arg + 32, wakes)
    }

    /// UFFDIO_ZEROPAGE: `struct uffdio_zeropage { start, len, mode, zeropage }`.
    fn zero(&self, arg: u64) -> SysResult {
        let [start, len, mode] = uaccess::read::<[u64; 3]>(arg)?;
        checked_end(start, len)?;
        if mode & !u64::from(abi::UFFDIO_ZEROPAGE_MODE_DONTWAKE) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let done = self.fill(start, len, Call::Zero, false, |done, _| {
            self.context.fill(start + done, Fill::Zero, false)
        });
        self.finish((start, len), done, arg + 24, mode == 0)
    }

    /// UFFDIO_CONTINUE: `struct uffdio_continue { start, len, mode, mapped }`.
    fn resume(&self, arg: u64) -> SysResult {
        let [start, len, mode] = uaccess::read::<[u64; 3]>(arg)?;
        checked_end(start, len)?;
        if mode & !(CONTINUE_DONTWAKE | CONTINUE_WP) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let protect = mode & CONTINUE_WP != 0;
        let done = self.fill(start, len, Call::Continue, protect, |done, _| {
            self.context.fill(start + done, Fill::Object, protect)
        });
        self.finish((start, len), done, arg + 24, mode & CONTINUE_DONTWAKE == 0)
    }

    /// Runs `one(offset, page_bytes)` for each page of the range until one fails. Gives the bytes done, or why none were.
    fn fill(
        &self,
        start: u64,
        len: u64,
        call: Call,
        protect: bool,
        mut one: impl FnMut(u64, u64) -> Result<(), MmError>,
    ) -> Result<u64, Errno> {
        let bytes = self.context.page_bytes(start, len, call, protect)?;
        let mut done = 0;
        while done < len {
            let result = one(done, bytes).map_err(Errno::from).and_then(|()| {
                done += bytes;
                if current().fatal_signal_pending() { Err(Errno::EINTR) } else { Ok(()) }
            });
            match result {
                Ok(()) => {}
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Reports at `out` what a fill came to, and wakes those who wait for what it has filled.
    fn finish(&self, (start, len): (u64, u64), done: Result<u64, Errno>, out: u64, wakes: bool) -> SysResult {
        // With the address space gone Linux says so without a word in the structure.
        if done == Err(Errno::ESRCH) {
            return Err(Errno::ESRCH.into());
        }
        let word = match done {
            Ok(bytes) => bytes,
            Err(errno) => errno.to_rax(),
        };
        uaccess::write(out, &word)?;
        let bytes = done?;
        if wakes {
            self.wake(start, bytes);
        }
        if bytes == len { Ok(0) } else { Err(Errno::EAGAIN.into()) }
    }

    /// UFFDIO_WRITEPROTECT: `struct uffdio_writeprotect { start, len, mode }`.
    fn write_protect(&self, arg: u64) -> SysResult {
        let [start, len, mode] = uaccess::read::<[u64; 3]>(arg)?;
        let end = checked_end(start, len)?;
        let (protect, quiet) = (mode & WRITEPROTECT_WP != 0, mode & WRITEPROTECT_DONTWAKE != 0);
        if mode & !(WRITEPROTECT_WP | WRITEPROTECT_DONTWAKE) != 0 || (protect && quiet) {
            return Err(Errno::EINVAL.into());
        }
        self.context.write_protect(start, end, protect)?;
        if !protect && !quiet {
            self.wake(start, len);
        }
        Ok(0)
    }
}

/// The end of a range that consists of whole pages of user memory (`validate_range`).
fn checked_end(start: u64, len: u64) -> Result<u64, Errno> {
    let aligned = start.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES);
    let fits = len != 0 && (MMAP_MIN_ADDR..USER_END).contains(&start) && len <= USER_END - start;
    if aligned && fits { Ok(start + len) } else { Err(Errno::EINVAL) }
}

/// `struct uffd_msg`: event, seven reserved bytes, flags, address, thread.
fn encode(message: &Message) -> [u8; MESSAGE_BYTES as usize] {
    let mut bytes = [0; MESSAGE_BYTES as usize];
    let words =
        [u64::from(abi::UFFD_EVENT_PAGEFAULT), message.flags, message.address, u64::from(message.thread)];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
