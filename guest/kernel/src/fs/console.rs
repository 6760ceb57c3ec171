//! The console terminal and the host's streams.
//!
//! The host's stdin, stdout and stderr each are a terminal or something like a pipe (boot options `stdin=`, `stdout=`,
//! `stderr=`: `tty` or `pipe`). Input from a terminal goes through the line discipline when it arrives; input from a
//! pipe is fetched when somebody reads. All state is under one lock (`Rank::Pipe`); console output and signals happen
//! after it is released.

use super::hold::Hold;
use super::io::{Sink, Source, total};
use super::ldisc::{LineDiscipline, TOSTOP, Termios, VMIN, VTIME};
use super::pipe::interrupted;
use super::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use crate::syscall::{Restart, SysErr, SysResult};
use crate::task::{WaitError, WaitQueue, current};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_abi::sys::ioctl as req;
use ptshare_machine::hyper::{self, Input};
use ptshare_machine::{Pod, boot, time, uaccess};
use ptshare_sync::{Lock, Rank};

const SIGWINCH: u32 = 28;
const SIGTTIN: u32 = 21;
const SIGTTOU: u32 = 22;
const SIGHUP: u32 = 1;
const SIGCONT: u32 = 18;
/// Bytes fetched from a host pipe at a time.
const HOST_CHUNK: usize = 4096;

/// One of the host's streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// stdin.
    In,
    /// stdout.
    Out,
    /// stderr.
    Err,
}

impl Stream {
    fn output(self) -> u64 {
        if self == Stream::Err { 2 } else { 1 }
    }

    /// Is it something like a pipe, rather than a terminal?
    pub fn is_pipe(self) -> bool {
        PIPES[self as usize].load(Relaxed)
    }
}

static PIPES: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
static QUEUE: WaitQueue = WaitQueue::new();
static READER: Hold = Hold::new();
/// Session and foreground group of the terminal, 0 for none.
static SESSION: AtomicU64 = AtomicU64::new(0);
static FOREGROUND: AtomicU64 = AtomicU64::new(0);

struct State {
    ldisc: LineDiscipline,
    /// Rows, columns, and their pixels.
    window: [u16; 4],
    /// Input of a host pipe that has been fetched: bytes `.1 .. .2` of the buffer.
    host: (Vec<u8>, usize, usize),
    eof: bool,
}

static STATE: Lock<State> = Lock::new(
    Rank::Pipe,
    State { ldisc: LineDiscipline::new(), window: [24, 80, 0, 0], host: (Vec::new(), 0, 0), eof: false },
);

/// Reads the boot options.
pub fn init() {
    for (stream, name) in PIPES.iter().zip(["stdin", "stdout", "stderr"]) {
        stream.store(boot::option(name) == Some("pipe"), Relaxed);
    }
    let mut state = STATE.lock();
    for (cell, name) in state.window.iter_mut().zip(["rows", "cols"]) {
        let n = boot::number(name);
        if n > 0 && n < 1 << 16 {
            *cell = n as u16;
        }
    }
}

/// Console input may be waiting: the interrupt handler. Does not block.
pub fn input_arrived() {
    if Stream::In.is_pipe() {
        QUEUE.wake_all();
        return;
    }
    let mut bytes = [0u8; 128];
    loop {
        let n = match hyper::console_read(&mut bytes) {
            Input::Bytes(n) => n.min(bytes.len()),
            Input::None => break,
            Input::Eof => {
                STATE.lock().eof = true;
                break;
            }
        };
        let mut echo = Vec::new();
        let mut shown = Vec::new();
        let mut signals = Vec::new();
        {
            let mut state = STATE.lock();
            for &byte in &bytes[..n] {
                signals.extend(state.ldisc.input(byte, &mut echo));
            }
            state.ldisc.output(&echo, &mut shown);
        }
        hyper::console_write(1, &shown);
        let group = FOREGROUND.load(Relaxed) as u32;
        for signal in signals {
            if group != 0 {
                crate::signal::send_to_group(group, u32::from(signal));
            }
        }
    }
    QUEUE.wake_all();
}

/// Woken when input arrives.
pub fn queue() -> &'static WaitQueue {
    &QUEUE
}

/// Is the terminal the caller's controlling terminal?
pub fn is_controlling() -> bool {
    let session = SESSION.load(Relaxed);
    session != 0 && session == u64::from(current().process.sid())
}

/// Session and foreground group of the terminal, if it is `sid`'s: for /proc/PID/stat.
pub fn of_session(sid: u32) -> Option<u32> {
    (sid != 0 && SESSION.load(Relaxed) == u64::from(sid)).then(|| FOREGROUND.load(Relaxed) as u32)
}

/// A terminal was opened: it becomes the controlling terminal of a session leader that has none.
pub fn opened(no_ctty: bool) {
    let process = &current().process;
    if !no_ctty && process.sid() == process.pid {
        let took = SESSION.compare_exchange(0, u64::from(process.sid()), SeqCst, Relaxed);
        if took.is_ok() {
            FOREGROUND.store(u64::from(process.pgid()), Relaxed);
        }
    }
}

/// A session leader has ended: the terminal is free, and its foreground group hangs up.
pub fn session_ended(sid: u32) {
    if sid != 0 && SESSION.compare_exchange(u64::from(sid), 0, SeqCst, Relaxed).is_ok() {
        let group = FOREGROUND.swap(0, Relaxed) as u32;
        if group != 0 {
            crate::signal::send_to_group(group, SIGHUP);
            crate::signal::send_to_group(group, SIGCONT);
        }
    }
}

/// Job control: may the caller go on using its terminal? A background caller gets `sig`.
fn check_foreground(sig: u32) -> Result<(), SysErr> {
    let task = current();
    let process = &task.process;
    let foreground = FOREGROUND.load(Relaxed);
    if !is_controlling() || foreground == 0 || foreground == u64::from(process.pgid()) {
        return Ok(());
    }
    let ignored = process.handlers.get().is_some_and(|handlers| handlers.ignores(sig));
    if ignored || task.is_blocked(crate::signal::bit(sig)) {
        return if sig == SIGTTIN { Err(Errno::EIO.into()) } else { Ok(()) };
    }
    if crate::task::jobs::is_orphaned(process.pgid()) {
        return Err(Errno::EIO.into());
    }
    crate::signal::send_to_group(process.pgid(), sig);
    Err(SysErr::Restart(Restart::Sys))
}

/// Reads from the terminal.
///
/// # Errors
/// EAGAIN, EIO (a background reader that cannot be stopped), EFAULT, a signal.
pub fn read(sink: &mut Sink, nonblock: bool) -> SysResult {
    check_foreground(SIGTTIN)?;
    if sink.left() == 0 {
        return Ok(0);
    }
    let (canonical, min, tenths) = {
        let state = STATE.lock();
        let cc = &state.ldisc.termios.cc;
        (state.ldisc.canonical(), cc[VMIN] as usize, u64::from(cc[VTIME]))
    };
    let mut chunk = [0u8; 256];
    let room = sink.left().min(chunk.len() as u64) as usize;
    let want = min.min(room);
    let ready = || {
        let state = STATE.lock();
        (state.ldisc.readable(want) || state.eof || Stream::In.is_pipe()).then_some(())
    };
    let poll_only = !canonical && min == 0 && tenths == 0;
    if ready().is_none() && !poll_only {
        if nonblock {
            return Err(Errno::EAGAIN.into());
        }
        let deadline = (!canonical && min == 0).then(|| time::now_ns() + tenths * 100_000_000);
        match QUEUE.wait(deadline, ready) {
            Ok(()) | Err(WaitError::TimedOut) => {}
            Err(error) => return Err(interrupted(error)),
        }
    }
    // A raw read may take more than one chunk.
    let mut result = Ok(());
    loop {
        let room = sink.left().min(chunk.len() as u64) as usize;
        let n = STATE.lock().ldisc.take(&mut chunk[..room]);
        if n > 0 {
            result = sink.put(&chunk[..n]).map(|_| ());
        }
        if n < chunk.len() || sink.left() == 0 || canonical && chunk[n - 1] == b'\n' || result.is_err() {
            break;
        }
    }
    total(sink.done(), result)
}

/// Writes to the terminal.
///
/// # Errors
/// EFAULT, EIO, a signal.
pub fn write(stream: Stream, source: &mut Source) -> SysResult {
    let stop = STATE.lock().ldisc.termios.lflag & TOSTOP != 0;
    if stop {
        check_foreground(SIGTTOU)?;
    }
    let before = source.done();
    let mut chunk = [0u8; 256];
    let mut result = Ok(());
    while source.left() > 0 && result.is_ok() {
        let at = source.done();
        result = source.get(&mut chunk).map(|_| ());
        let n = (source.done() - at) as usize;
        let mut shown = Vec::new();
        STATE.lock().ldisc.output(&chunk[..n], &mut shown);
        hyper::console_write(stream.output(), &shown);
    }
    total(source.done() - before, result)
}

/// Readiness of the terminal.
pub fn poll() -> u32 {
    let state = STATE.lock();
    let mut events = POLLOUT | POLLWRNORM;
    if state.ldisc.readable(1) || state.eof {
        events |= POLLIN | POLLRDNORM;
    }
    events
}

/// Fetches from the host's pipe if nothing is there. Under the lock: the host answers at once.
fn fetch(state: &mut State) {
    if state.eof || state.host.1 < state.host.2 || state.host.0.is_empty() && !make_buffer(state) {
        return;
    }
    match hyper::console_read(&mut state.host.0) {
        Input::Bytes(n) => (state.host.1, state.host.2) = (0, n.min(HOST_CHUNK)),
        Input::None => {}
        Input::Eof => state.eof = true,
    }
}

fn make_buffer(state: &mut State) -> bool {
    let made = state.host.0.try_reserve_exact(HOST_CHUNK).is_ok();
    if made {
        state.host.0.resize(HOST_CHUNK, 0);
    }
    made
}

/// Reads from a host stream that is like a pipe.
///
/// # Errors
/// EBADF for the output streams; EAGAIN, EFAULT, a signal.
pub fn host_read(stream: Stream, sink: &mut Sink, nonblock: bool) -> SysResult {
    if stream != Stream::In {
        return Err(Errno::EBADF.into());
    }
    if sink.left() == 0 {
        return Ok(0);
    }
    let ready = || {
        let mut state = STATE.lock();
        fetch(&mut state);
        (state.host.1 < state.host.2 || state.eof).then_some(())
    };
    loop {
        if ready().is_none() {
            if nonblock {
                return Err(Errno::EAGAIN.into());
            }
            QUEUE.wait(None, ready).map_err(interrupted)?;
        }
        let _held = READER.take();
        let (buffer, start, end) = {
            let mut state = STATE.lock();
            let range = (state.host.1, state.host.2);
            if range.0 == range.1 {
                if state.eof {
                    return Ok(0);
                }
                continue;
            }
            // Nobody fetches while the range is not empty: the buffer may be away.
            (core::mem::take(&mut state.host.0), range.0, range.1)
        };
        let result = sink.put(buffer.get(start..end).unwrap_or(&[])).map(|_| ());
        let mut state = STATE.lock();
        state.host = (buffer, start + sink.done() as usize, end);
        drop(state);
        return total(sink.done(), result);
    }
}

/// Writes to a host stream that is like a pipe.
///
/// # Errors
/// EFAULT.
pub fn host_write(stream: Stream, source: &mut Source) -> SysResult {
    if let Some(va) = source.user_va() {
        let wrote = uaccess::console_write_user(stream.output(), va, source.left())?;
        source.skip(wrote);
        return Ok(wrote);
    }
    let mut chunk = [0u8; 512];
    let before = source.done();
    while source.left() > 0 {
        let n = source.get(&mut chunk)? as usize;
        hyper::console_write(stream.output(), &chunk[..n]);
    }
    Ok(source.done() - before)
}

/// Readiness of a host stream that is like a pipe.
pub fn host_poll(stream: Stream) -> u32 {
    if stream != Stream::In {
        return POLLOUT | POLLWRNORM;
    }
    let mut state = STATE.lock();
    fetch(&mut state);
    match (state.host.1 < state.host.2, state.eof) {
        (true, _) => POLLIN | POLLRDNORM,
        (false, true) => POLLHUP,
        _ => 0,
    }
}

/// Bytes that a read would get (FIONREAD).
pub fn waiting(pipe: bool) -> u64 {
    let mut state = STATE.lock();
    if pipe {
        fetch(&mut state);
        return (state.host.2 - state.host.1) as u64;
    }
    state.ldisc.waiting() as u64
}

fn to_abi(t: &Termios) -> abi::termios {
    let mut out = abi::termios::zeroed();
    (out.c_iflag, out.c_oflag, out.c_cflag, out.c_lflag) = (t.iflag, t.oflag, t.cflag, t.lflag);
    out.c_line = t.line;
    out.c_cc = t.cc;
    out
}

fn from_abi(t: &abi::termios) -> Termios {
    Termios {
        iflag: t.c_iflag,
        oflag: t.c_oflag,
        cflag: t.c_cflag,
        lflag: t.c_lflag,
        line: t.c_line,
        cc: t.c_cc,
    }
}

/// ioctl on the terminal.
///
/// # Errors
/// ENOTTY for requests that it does not know or that need a controlling terminal; EPERM, EINVAL, EFAULT.
pub fn ioctl(request: u32, arg: u64) -> SysResult {
    match request {
        req::TCGETS => {
            let termios = STATE.lock().ldisc.termios;
            uaccess::write(arg, &to_abi(&termios))?;
        }
        req::TCSETS | req::TCSETSW | req::TCSETSF => {
            check_foreground(SIGTTOU)?;
            let termios = from_abi(&uaccess::read::<abi::termios>(arg)?);
            let mut state = STATE.lock();
            if request == req::TCSETSF {
                state.ldisc.flush();
            }
            state.ldisc.set(termios);
            drop(state);
            QUEUE.wake_all();
        }
        req::TIOCGWINSZ => {
            let window = STATE.lock().window;
            uaccess::write(arg, &window)?;
        }
        req::TIOCSWINSZ => {
            let window = uaccess::read::<[u16; 4]>(arg)?;
            let old = core::mem::replace(&mut STATE.lock().window, window);
            let group = FOREGROUND.load(Relaxed) as u32;
            if old != window && group != 0 {
                crate::signal::send_to_group(group, SIGWINCH);
            }
        }
        req::FIONREAD => uaccess::write(arg, &(waiting(false) as u32))?,
        req::TIOCOUTQ => uaccess::write(arg, &0u32)?,
        req::TCFLSH => match arg {
            0 | 2 => STATE.lock().ldisc.flush(),
            1 => {}
            _ => return Err(Errno::EINVAL.into()),
        },
        req::TCXONC | req::TCSBRK | req::TCSBRKP | req::TIOCEXCL | req::TIOCNXCL => {}
        req::TIOCGPGRP | req::TIOCGSID => {
            if !is_controlling() {
                return Err(Errno::ENOTTY.into());
            }
            let which = if request == req::TIOCGSID { &SESSION } else { &FOREGROUND };
            uaccess::write(arg, &(which.load(Relaxed) as u32))?;
        }
        req::TIOCSPGRP => {
            if !is_controlling() {
                return Err(Errno::ENOTTY.into());
            }
            check_foreground(SIGTTOU)?;
            let group = uaccess::read::<i32>(arg)?;
            let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
            match crate::task::jobs::session_of_group(group) {
                None => return Err(Errno::ESRCH.into()),
                Some(sid) if sid != current().process.sid() => return Err(Errno::EPERM.into()),
                Some(_) => FOREGROUND.store(u64::from(group), Relaxed),
            }
        }
        req::TIOCSCTTY => {
            let process = &current().process;
            if is_controlling() {
                return Ok(0);
            }
            if process.sid() != process.pid || SESSION.load(Relaxed) != 0 && arg != 1 {
                return Err(Errno::EPERM.into());
            }
            SESSION.store(u64::from(process.sid()), Relaxed);
            FOREGROUND.store(u64::from(process.pgid()), Relaxed);
        }
        req::TIOCNOTTY => {
            if !is_controlling() {
                return Err(Errno::ENOTTY.into());
            }
            let process = &current().process;
            if process.sid() == process.pid {
                session_ended(process.sid());
            }
        }
        req::TIOCGETD => uaccess::write(arg, &0u32)?,
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}
