//! Requests to the host that the crates in use do not wrap: polling, raw terminals, signals, KVM's binary statistics, and
//! two reads of KVM's exit record. All of this crate's unsafe code but that of [`crate::ram`] is here, one call each.

use kvm_bindings::{kvm_stats_desc, kvm_stats_header};
use kvm_ioctls::VcpuFd;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Has the host kill the process that `command` starts when the calling thread ends, so that it never outlives us.
pub fn die_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub enum Want {
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
}

/// Waits until one of the descriptors is ready (or broken), or the time is over. Gives which are ready; a signal
/// counts as none being ready.
///
/// # Errors
/// When the host refuses to poll.
pub fn poll(fds: &[(BorrowedFd<'_>, Want)], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut list: Vec<libc::pollfd> = fds
        .iter()
        .map(|(fd, want)| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: match want {
                Want::Read => libc::POLLIN,
                Want::Write => libc::POLLOUT,
            },
            revents: 0,
        })
        .collect();
    // Rounded up, so that a caller who polls until a deadline does not spin through its last millisecond.
    let millis = timeout.map_or(-1, |t| i32::try_from(t.as_millis() + 1).unwrap_or(i32::MAX));
    // SAFETY: `list` is an array of `list.len()` initialised records.
    let n = unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, millis) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; list.len()]);
    }
    Ok(list.iter().map(|p| p.revents != 0).collect())
}

/// An eventfd as something to [`poll`].
pub fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Rows and columns of the terminal behind `fd`, 0 when there is none.
pub fn window_size(fd: impl AsFd) -> (u16, u16) {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ fills the record that it is given; all zero is a valid one.
    let (ret, size) = unsafe {
        let ret = libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr());
        (ret, size.assume_init())
    };
    if ret == 0 { (size.ws_row, size.ws_col) } else { (0, 0) }
}

/// A terminal in raw mode; dropping this puts it back as it was.
pub struct RawTerminal {
    fd: RawFd,
    saved: libc::termios,
}

impl RawTerminal {
    /// Puts the terminal behind `fd` into raw mode: no echo, no line editing, no signals from keys. Output processing
    /// stays, so that the guest's newlines begin at the left edge. `fd` must stay open while this lives.
    ///
    /// # Errors
    /// When `fd` is no terminal.
    pub fn enter(fd: impl AsFd) -> io::Result<RawTerminal> {
        let fd = fd.as_fd().as_raw_fd();
        let mut saved = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: tcgetattr fills the record that it is given.
        if unsafe { libc::tcgetattr(fd, saved.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: filled just above.
        let saved = unsafe { saved.assume_init() };
        let mut raw = saved;
        // SAFETY: both take a valid record.
        let ret = unsafe {
            libc::cfmakeraw(&mut raw);
            raw.c_oflag = saved.c_oflag;
            libc::tcsetattr(fd, libc::TCSANOW, &raw)
        };
        if ret != 0 { Err(io::Error::last_os_error()) } else { Ok(RawTerminal { fd, saved }) }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the record came from tcgetattr. A failure leaves nothing to be done.
        unsafe { libc::tcsetattr(self.fd, libc::TCSADRAIN, &self.saved) };
    }
}

/// Where [`on_stop_signal`] writes; -1 while nobody listens.
static STOP_FD: AtomicI32 = AtomicI32::new(-1);
const STOP_SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

extern "C" fn on_stop_signal(_: libc::c_int) {
    let fd = STOP_FD.load(Ordering::Relaxed);
    let one = 1u64;
    // SAFETY: write is async-signal-safe; the buffer is eight bytes, as an eventfd wants them; a stale descriptor is
    // excluded because StopSignals puts the old handlers back before its eventfd closes.
    unsafe { libc::write(fd, ptr::from_ref(&one).cast(), size_of::<u64>()) };
}

/// While this lives, SIGINT, SIGTERM and SIGHUP make [`StopSignals::event`] readable instead of killing the process.
pub struct StopSignals {
    /// Readable once a signal has come.
    pub event: EventFd,
    saved: Vec<(i32, libc::sigaction)>,
}

impl StopSignals {
    /// Takes the signals over. `None` when another run in this process has them.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn take() -> io::Result<Option<StopSignals>> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        if STOP_FD.compare_exchange(-1, event.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Ok(None);
        }
        let mut saved = Vec::new();
        for signal in STOP_SIGNALS {
            // SAFETY: all zero is a valid sigaction; the handler only does what is async-signal-safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut old: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_stop_signal as *const () as usize;
                if libc::sigaction(signal, &action, &mut old) == 0 {
                    saved.push((signal, old));
                }
            }
        }
        Ok(Some(StopSignals { event, saved }))
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        for (signal, old) in &self.saved {
            // SAFETY: `old` came from sigaction.
            unsafe { libc::sigaction(*signal, old, ptr::null_mut()) };
        }
        STOP_FD.store(-1, Ordering::SeqCst);
    }
}

thread_local! {
    /// Address of `kvm_run.immediate_exit` of the vCPU that this thread runs, null for none.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|cell| {
        let flag = cell.get();
        if !flag.is_null() {
            // SAFETY: a Kickable on this thread set the address and takes it back before the vCPU's mapping goes away;
            // the kernel reads the byte only when this same thread enters KVM_RUN.
            unsafe { flag.write_volatile(1) };
        }
    });
}

/// The signal that brings a vCPU thread out of KVM_RUN.
pub fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// A thread of this process, to be kicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadId(libc::pid_t);

/// The calling thread.
pub fn this_thread() -> ThreadId {
    // SAFETY: no precondition.
    ThreadId(unsafe { libc::gettid() })
}

impl ThreadId {
    /// Sends [`kick_signal`]. A thread that has ended does not mind.
    pub fn kick(self) {
        // SAFETY: no pointer; the target is a thread of this very process, or nobody.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, kick_signal()) };
    }
}

/// Installs the handler of [`kick_signal`] for the whole process; harmless when done again.
///
/// # Errors
/// When the host refuses.
pub fn install_kick() -> io::Result<()> {
    register_signal_handler(kick_signal(), on_kick).map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// While this lives, [`kick_signal`] to this thread ends the current or the next KVM_RUN of the vCPU with EINTR: the
/// handler sets `immediate_exit`, so that a signal just before KVM_RUN is not lost.
pub struct Kickable(());

impl Kickable {
    /// Ties the calling thread to `vcpu`, which must outlive the result and stay on this thread.
    pub fn tie(vcpu: &mut VcpuFd) -> Kickable {
        let flag = ptr::addr_of_mut!(vcpu.get_kvm_run().immediate_exit);
        IMMEDIATE_EXIT.with(|cell| cell.set(flag));
        Kickable(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}

/// `suberror` and extra data of a KVM_EXIT_INTERNAL_ERROR that has just been reported.
pub fn internal_error(vcpu: &mut VcpuFd) -> (u32, Vec<u64>) {
    // SAFETY: every member of the union is plain words, so reading it as this one is defined whatever KVM stored; the
    // caller saw the exit reason that makes it meaningful.
    let record = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let n = (record.ndata as usize).min(record.data.len());
    (record.suberror, record.data[..n].to_vec())
}

/// One counter of KVM's binary statistics (Linux Documentation/virt/kvm/api.rst, "KVM_GET_STATS_FD").
pub struct KvmCounter {
    file: File,
    offset: u64,
}

impl KvmCounter {
    /// The counter of this name of a vCPU; `None` where KVM has no such thing.
    pub fn open(vcpu: &VcpuFd, name: &str) -> Option<KvmCounter> {
        /// `_IO(KVMIO, 0xce)`.
        const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
        // SAFETY: the request takes no argument and gives a new descriptor or an error.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let offset = find_counter(&file, name)?;
        Some(KvmCounter { file, offset })
    }

    /// Its value now.
    pub fn read(&self) -> Option<u64> {
        read_word(&self.file, self.offset)
    }
}

fn read_word(file: &File, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Offset of the data of counter `name` in a statistics file.
fn find_counter(file: &File, name: &str) -> Option<u64> {
    let mut head = [0; size_of::<kvm_stats_header>()];
    file.read_exact_at(&mut head, 0).ok()?;
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let name_size = word(&head, offset_of!(kvm_stats_header, name_size))? as usize;
    let count = word(&head, offset_of!(kvm_stats_header, num_desc))? as usize;
    let descs = word(&head, offset_of!(kvm_stats_header, desc_offset))? as usize;
    let data = word(&head, offset_of!(kvm_stats_header, data_offset))?;
    let stride = size_of::<kvm_stats_desc>() + name_size;
    let mut table = vec![0; stride.checked_mul(count)?];
    file.read_exact_at(&mut table, descs as u64).ok()?;
    let found = table.chunks_exact(stride).find(|desc| {
        let text = &desc[size_of::<kvm_stats_desc>()..];
        text.split(|&b| b == 0).next() == Some(name.as_bytes())
    })?;
    Some(u64::from(data) + u64::from(word(found, offset_of!(kvm_stats_desc, offset))?))
}
