//! userfaultfd(2) and its requests, with the error numbers that they give.

use crate::huge::HUGE;
use crate::memory::{PAGE, Region};
use crate::{errno, process};

const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WAKE: u64 = 0x8010_aa02;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const UFFDIO_CONTINUE: u64 = 0xc020_aa07;
const UFFDIO_API: u64 = 0xc018_aa3f;

/// UFFD_USER_MODE_ONLY.
pub const USER_MODE_ONLY: i32 = 1;
/// UFFD_FEATURE_SIGBUS.
pub const FEATURE_SIGBUS: u64 = 1 << 7;
/// UFFD_FEATURE_THREAD_ID.
pub const FEATURE_THREAD_ID: u64 = 1 << 8;
/// UFFD_FEATURE_MINOR_SHMEM.
pub const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
/// UFFD_FEATURE_EXACT_ADDRESS.
pub const FEATURE_EXACT_ADDRESS: u64 = 1 << 11;
/// UFFD_FEATURE_WP_HUGETLBFS_SHMEM.
pub const FEATURE_WP_SHMEM: u64 = 1 << 12;
/// UFFD_FEATURE_WP_UNPOPULATED.
pub const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// What the programs need: all memory in all three modes.
pub const NEEDED: u64 = 0x3fb1;

/// UFFDIO_REGISTER_MODE_MISSING.
pub const MISSING: u64 = 1;
/// UFFDIO_REGISTER_MODE_WP.
pub const WP: u64 = 2;
/// UFFDIO_REGISTER_MODE_MINOR.
pub const MINOR: u64 = 4;

/// DONTWAKE of UFFDIO_COPY, UFFDIO_ZEROPAGE and UFFDIO_CONTINUE.
pub const DONTWAKE: u64 = 1;
/// UFFDIO_COPY_MODE_WP.
pub const COPY_WP: u64 = 2;

/// UFFD_PAGEFAULT_FLAG_WRITE.
pub const FLAG_WRITE: u64 = 1;
/// UFFD_PAGEFAULT_FLAG_WP.
pub const FLAG_WP: u64 = 2;
/// UFFD_PAGEFAULT_FLAG_MINOR.
pub const FLAG_MINOR: u64 = 4;

/// A page fault as its handler reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// `FLAG_*`.
    pub flags: u64,
    /// Where.
    pub address: usize,
    /// Whose, with FEATURE_THREAD_ID.
    pub thread: u32,
}

/// What a request that fills pages answers: its error number, and what it left in the structure's last field.
pub type Filled = (Result<(), i32>, i64);

/// A userfaultfd. It is closed when dropped.
#[derive(Debug)]
pub struct Uffd(i32);

impl Drop for Uffd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.0) };
    }
}

fn result(code: i64) -> Result<(), i32> {
    if code < 0 { Err(errno()) } else { Ok(()) }
}

impl Uffd {
    /// userfaultfd(2) with these flags beside O_CLOEXEC.
    ///
    /// # Errors
    /// The error number.
    pub fn open(flags: i32) -> Result<Uffd, i32> {
        // SAFETY: no pointer.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC) };
        result(fd).map(|()| Uffd(fd as i32))
    }

    /// One that does not block, with these features on. Ends the program with `SKIP` where there is no userfaultfd, or
    /// this process may not have one.
    pub fn need(features: u64) -> Uffd {
        match Uffd::open(libc::O_NONBLOCK) {
            Ok(uffd) => match uffd.handshake(0xaa, features) {
                (Ok(()), [_, offered, _]) if offered & NEEDED == NEEDED => uffd,
                other => skip(&format!("userfaultfd lacks features: {other:x?}")),
            },
            Err(errno) => skip(&format!("no userfaultfd: {}", crate::errno_name(errno))),
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> i32 {
        self.0
    }

    fn request<const N: usize>(&self, request: u64, words: &mut [u64; N]) -> Result<(), i32> {
        // SAFETY: the structures of these requests are these many 64-bit words.
        result(i64::from(unsafe { libc::ioctl(self.0, request as _, words.as_mut_ptr()) }))
    }

    /// UFFDIO_API; gives the structure too.
    pub fn handshake(&self, api: u64, features: u64) -> (Result<(), i32>, [u64; 3]) {
        let mut words = [api, features, 0];
        let result = self.request(UFFDIO_API, &mut words);
        (result, words)
    }

    /// UFFDIO_REGISTER; gives the requests that the range takes.
    ///
    /// # Errors
    /// The error number.
    pub fn register(&self, range: Region, mode: u64) -> Result<u64, i32> {
        let mut words = [range.base as u64, range.len as u64, mode, 0];
        self.request(UFFDIO_REGISTER, &mut words).map(|()| words[3])
    }

    /// UFFDIO_UNREGISTER.
    ///
    /// # Errors
    /// The error number.
    pub fn unregister(&self, range: Region) -> Result<(), i32> {
        self.request(UFFDIO_UNREGISTER, &mut [range.base as u64, range.len as u64])
    }

    /// UFFDIO_WAKE.
    ///
    /// # Errors
    /// The error number.
    pub fn wake(&self, range: Region) -> Result<(), i32> {
        self.request(UFFDIO_WAKE, &mut [range.base as u64, range.len as u64])
    }

    /// UFFDIO_COPY.
    pub fn copy(&self, to: Region, from: usize, mode: u64) -> Filled {
        let mut words = [to.base as u64, from as u64, to.len as u64, mode, 0];
        let result = self.request(UFFDIO_COPY, &mut words);
        (result, words[4] as i64)
    }

    /// UFFDIO_ZEROPAGE.
    pub fn zero(&self, range: Region, mode: u64) -> Filled {
        let mut words = [range.base as u64, range.len as u64, mode, 0];
        let result = self.request(UFFDIO_ZEROPAGE, &mut words);
        (result, words[3] as i64)
    }

    /// UFFDIO_CONTINUE.
    pub fn resume(&self, range: Region, mode: u64) -> Filled {
        let mut words = [range.base as u64, range.len as u64, mode, 0];
        let result = self.request(UFFDIO_CONTINUE, &mut words);
        (result, words[3] as i64)
    }

    /// UFFDIO_WRITEPROTECT: protects, or takes that back and wakes.
    ///
    /// # Errors
    /// The error number.
    pub fn protect(&self, range: Region, on: bool) -> Result<(), i32> {
        self.request(UFFDIO_WRITEPROTECT, &mut [range.base as u64, range.len as u64, u64::from(on)])
    }

    /// Whether there is a message, after at most `ms` milliseconds.
    pub fn poll(&self, ms: i32) -> bool {
        let mut fd = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live structure.
        let ready = unsafe { libc::poll(&mut fd, 1, ms) };
        ready == 1 && fd.revents == libc::POLLIN
    }

    /// Reads a message, if there is one.
    ///
    /// # Errors
    /// The error number.
    pub fn read(&self) -> Result<Message, i32> {
        let mut words = [0u64; 4];
        // SAFETY: the buffer is as long as said.
        let n = unsafe { libc::read(self.0, words.as_mut_ptr().cast(), 32) };
        result(n as i64)?;
        crate::check_eq!(n, 32);
        crate::check_eq!(words[0], 0x12);
        Ok(Message { flags: words[1], address: words[2] as usize, thread: words[3] as u32 })
    }

    /// Waits for a message.
    pub fn next(&self) -> Message {
        crate::check!(self.poll(60_000), "no message after a minute");
        let message = self.read();
        crate::check!(message.is_ok(), "a message that poll has promised: {message:?}");
        message.unwrap_or(Message { flags: 0, address: 0, thread: 0 })
    }

    /// Waits for a message about this page with these flags.
    pub fn expect(&self, range: Region, page: usize, flags: u64) {
        let message = self.next();
        crate::check_eq!(message.address, range.base + page * PAGE);
        crate::check_eq!(message.flags, flags);
    }
}

fn skip(why: &str) -> ! {
    println!("SKIP: {why}");
    process::leave(0)
}

/// One page of a region.
pub fn page(range: Region, number: usize) -> Region {
    range.part(number * PAGE, PAGE)
}

/// A huge page of a region.
pub fn huge_page(range: Region, number: usize) -> Region {
    range.part(number * HUGE, HUGE)
}

/// The line `VmFlags` of the mapping at an address, from /proc/self/smaps: whether it has this two-letter word.
pub fn has_vm_flag(range: Region, flag: &str) -> bool {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let start = format!("{:x}-", range.base);
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
}
