//! Signals as numbers, sets, actions and siginfo. Pure: nothing here touches the machine.

use ptshare_abi::sys::general as raw;

/// Signals are 1..=64.
pub const SIGNALS: u32 = 64;
#[allow(missing_docs)]
mod numbers {
    pub const SIGHUP: u32 = 1;
    pub const SIGQUIT: u32 = 3;
    pub const SIGILL: u32 = 4;
    pub const SIGTRAP: u32 = 5;
    pub const SIGABRT: u32 = 6;
    pub const SIGBUS: u32 = 7;
    pub const SIGFPE: u32 = 8;
    pub const SIGKILL: u32 = 9;
    pub const SIGSEGV: u32 = 11;
    pub const SIGALRM: u32 = 14;
    pub const SIGCHLD: u32 = 17;
    pub const SIGCONT: u32 = 18;
    pub const SIGSTOP: u32 = 19;
    pub const SIGTSTP: u32 = 20;
    pub const SIGTTIN: u32 = 21;
    pub const SIGTTOU: u32 = 22;
    pub const SIGURG: u32 = 23;
    pub const SIGXCPU: u32 = 24;
    pub const SIGXFSZ: u32 = 25;
    pub const SIGVTALRM: u32 = 26;
    pub const SIGPROF: u32 = 27;
    pub const SIGWINCH: u32 = 28;
    pub const SIGSYS: u32 = 31;
    pub const SIGRTMIN: u32 = 32;
}
pub use numbers::*;

/// `sa_handler`: the default action.
pub const SIG_DFL: u64 = 0;
/// `sa_handler`: ignore.
pub const SIG_IGN: u64 = 1;

/// The set that holds one signal.
#[inline]
pub const fn bit(sig: u32) -> u64 {
    1 << ((sig - 1) & 63)
}

const fn set(signals: &[u32]) -> u64 {
    let mut set = 0;
    let mut i = 0;
    while i < signals.len() {
        set |= bit(signals[i]);
        i += 1;
    }
    set
}

/// Signals that stop by default.
pub const STOP_SET: u64 = set(&[SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);
/// Signals that are ignored by default.
pub const IGNORE_SET: u64 = set(&[SIGCHLD, SIGCONT, SIGURG, SIGWINCH]);
/// Signals that dump core by default.
pub const CORE_SET: u64 =
    set(&[SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV, SIGBUS, SIGSYS, SIGXCPU, SIGXFSZ]);
/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: u64 = set(&[SIGKILL, SIGSTOP]);
/// Signals that a faulting instruction raises: delivered before others.
pub const SYNCHRONOUS: u64 = set(&[SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS]);

/// Is this a signal number?
#[inline]
pub const fn is_signal(sig: u64) -> bool {
    sig >= 1 && sig <= SIGNALS as u64
}

/// What a signal does when nobody handles it (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process and would dump core.
    Core,
    /// Nothing.
    Ignore,
    /// Stops the process.
    Stop,
}

/// The default action of a signal.
pub const fn default_action(sig: u32) -> DefaultAction {
    let bit = bit(sig);
    if bit & STOP_SET != 0 {
        DefaultAction::Stop
    } else if bit & IGNORE_SET != 0 {
        DefaultAction::Ignore
    } else if bit & CORE_SET != 0 {
        DefaultAction::Core
    } else {
        DefaultAction::Terminate
    }
}

/// `struct sigaction` of the system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Action {
    /// Address of the handler, SIG_DFL or SIG_IGN.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: u64,
}

impl Action {
    /// From the four words of `struct kernel_sigaction`.
    pub fn from_words(words: [u64; 4]) -> Action {
        Action { handler: words[0], flags: words[1], restorer: words[2], mask: words[3] & !UNBLOCKABLE }
    }

    /// As the four words of `struct kernel_sigaction`.
    pub fn to_words(self) -> [u64; 4] {
        [self.handler, self.flags, self.restorer, self.mask]
    }

    /// Is this flag set?
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }
}

/// `struct siginfo`: the three numbers at its head, and what follows, up to byte 48.
#[derive(Clone, Copy, Debug)]
pub struct SigInfo {
    /// Signal.
    pub signo: u32,
    /// Error number.
    pub errno: i32,
    /// `SI_*` or a code of the signal's own.
    pub code: i32,
    /// Bytes 16..48.
    pub words: [u64; 4],
    /// The timer of timer_create(2) that sent it. Programs can set `code` and `words`, but not this.
    pub timer: Option<u32>,
}

/// Bytes of `struct siginfo`.
pub const SIGINFO_BYTES: usize = 128;

impl SigInfo {
    /// From the kernel, without further detail.
    pub const fn kernel(signo: u32) -> SigInfo {
        SigInfo { signo, errno: 0, code: raw::SI_KERNEL as i32, words: [0; 4], timer: None }
    }

    /// From kill(2).
    pub const fn user(signo: u32, pid: u32, uid: u32) -> SigInfo {
        SigInfo {
            signo,
            errno: 0,
            code: raw::SI_USER as i32,
            words: [pid as u64 | (uid as u64) << 32, 0, 0, 0],
            timer: None,
        }
    }

    /// From tgkill(2).
    pub const fn tkill(signo: u32, pid: u32, uid: u32) -> SigInfo {
        SigInfo {
            signo,
            errno: 0,
            code: raw::SI_TKILL,
            words: [pid as u64 | (uid as u64) << 32, 0, 0, 0],
            timer: None,
        }
    }

    /// From a timer of timer_create(2): its number and value.
    pub const fn timer(signo: u32, number: u32, value: u64) -> SigInfo {
        SigInfo {
            signo,
            errno: 0,
            code: raw::SI_TIMER,
            words: [number as u64, value, 0, 0],
            timer: Some(number),
        }
    }

    /// From a faulting instruction.
    pub const fn fault(signo: u32, code: i32, addr: u64) -> SigInfo {
        SigInfo { signo, errno: 0, code, words: [addr, 0, 0, 0], timer: None }
    }

    /// About a child. `status` is the exit status or the signal, times are in clock ticks.
    pub const fn child(
        signo: u32,
        code: u32,
        pid: u32,
        uid: u32,
        status: u32,
        utime: u64,
        stime: u64,
    ) -> SigInfo {
        SigInfo {
            signo,
            errno: 0,
            code: code as i32,
            words: [pid as u64 | (uid as u64) << 32, status as u64, utime, stime],
            timer: None,
        }
    }

    /// From the head of a user's `struct siginfo` (6 words).
    pub const fn from_words(signo: u32, words: [u64; 6]) -> SigInfo {
        SigInfo {
            signo,
            errno: (words[0] >> 32) as i32,
            code: words[1] as i32,
            words: [words[2], words[3], words[4], words[5]],
            timer: None,
        }
    }

    /// As the 16 words of `struct siginfo`.
    pub fn to_words(self) -> [u64; SIGINFO_BYTES / 8] {
        let mut words = [0; SIGINFO_BYTES / 8];
        words[0] = u64::from(self.signo) | u64::from(self.errno as u32) << 32;
        words[1] = u64::from(self.code as u32);
        words[2..6].copy_from_slice(&self.words);
        words
    }
}

/// Wait status of a process that exited.
pub const fn status_exited(code: u32) -> u32 {
    (code & 0xff) << 8
}

/// Wait status of a process that a signal ended. (No core is ever written, so the core bit is never set.)
pub const fn status_killed(sig: u32) -> u32 {
    sig & 0x7f
}

/// Wait status of a process that a signal stopped.
pub const fn status_stopped(sig: u32) -> u32 {
    (sig & 0xff) << 8 | 0x7f
}

/// Wait status of a process that was continued.
pub const STATUS_CONTINUED: u32 = 0xffff;

/// `si_code` and `si_status` of a wait status.
pub const fn child_code(status: u32) -> (u32, u32) {
    if status == STATUS_CONTINUED {
        (raw::CLD_CONTINUED, SIGCONT)
    } else if status & 0xff == 0x7f {
        (raw::CLD_STOPPED, status >> 8 & 0xff)
    } else if status & 0x7f == 0 {
        (raw::CLD_EXITED, status >> 8 & 0xff)
    } else {
        (raw::CLD_KILLED, status & 0x7f)
    }
}
