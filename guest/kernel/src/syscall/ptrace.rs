//! ptrace(2): argument decoding; the work is in `task::trace`.

use super::{Args, SysErr, SysResult};
use crate::signal::{self, SIGKILL, SIGSTOP, SigInfo, is_signal};
use crate::syscall::remote::may_reach;
use crate::task::trace::{self, OPTIONS, Stop};
use crate::task::{current, find_process};
use ptshare_abi::Errno;
use ptshare_machine::trap::{TrapFrame, USER_RFLAGS_MASK};
use ptshare_machine::uaccess;
use ptshare_paging::USER_END;

/// Requests (include/uapi/linux/ptrace.h, arch/x86/include/uapi/asm/ptrace-abi.h).
mod raw {
    pub const PTRACE_TRACEME: u32 = 0;
    pub const PTRACE_PEEKTEXT: u32 = 1;
    pub const PTRACE_PEEKDATA: u32 = 2;
    pub const PTRACE_PEEKUSR: u32 = 3;
    pub const PTRACE_POKETEXT: u32 = 4;
    pub const PTRACE_POKEDATA: u32 = 5;
    pub const PTRACE_POKEUSR: u32 = 6;
    pub const PTRACE_CONT: u32 = 7;
    pub const PTRACE_KILL: u32 = 8;
    pub const PTRACE_GETREGS: u32 = 12;
    pub const PTRACE_SETREGS: u32 = 13;
    pub const PTRACE_ATTACH: u32 = 16;
    pub const PTRACE_DETACH: u32 = 17;
    pub const PTRACE_SYSCALL: u32 = 24;
    pub const PTRACE_SETOPTIONS: u32 = 0x4200;
    pub const PTRACE_GETSIGINFO: u32 = 0x4202;
}

/// Words of `struct user_regs_struct`.
const REGS: usize = 27;
/// Bytes of `struct user`, of which only the registers are kept.
const USER_BYTES: u64 = 928;

/// `struct user_regs_struct` (arch/x86/include/uapi/asm/ptrace.h).
fn to_words(stop: &Stop) -> [u64; REGS] {
    let r = &stop.regs;
    [
        r.r15,
        r.r14,
        r.r13,
        r.r12,
        r.rbp,
        r.rbx,
        r.r11,
        r.r10,
        r.r9,
        r.r8,
        r.rax,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        stop.call,
        r.rip,
        r.cs,
        r.rflags,
        r.rsp,
        r.ss,
        stop.fs_base,
        stop.gs_base,
        0,
        0,
        0,
        0,
    ]
}

/// The registers with these words in them; segments stay, and so do the flags that are not a program's.
fn from_words(regs: &TrapFrame, words: &[u64; REGS]) -> Result<TrapFrame, Errno> {
    let [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, _, rip, _, flags, rsp, ..] =
        *words;
    if rip >= USER_END {
        return Err(Errno::EIO);
    }
    let rflags = regs.rflags & !USER_RFLAGS_MASK | flags & USER_RFLAGS_MASK;
    Ok(TrapFrame {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        rip,
        rflags,
        rsp,
        ..*regs
    })
}

fn attach(pid: u32) -> SysResult {
    let me = current();
    let process = find_process(pid).filter(|process| !process.is_dead()).ok_or(Errno::ESRCH)?;
    if process.pid == me.process.pid || process.parent() != me.process.pid {
        return Err(Errno::EPERM.into());
    }
    may_reach(&process)?;
    process.trace.begin(me.process.pid)?;
    signal::send_to_process(&process, SigInfo::kernel(SIGSTOP));
    Ok(0)
}

/// A signal to go on with.
fn signal_argument(value: u64) -> Result<u32, Errno> {
    if value == 0 || is_signal(value) { Ok(value as u32) } else { Err(Errno::EIO) }
}

/// Place of a word of `struct user` among the registers; `None` for what is not kept of it.
fn register(offset: u64) -> Result<Option<usize>, Errno> {
    if !offset.is_multiple_of(8) || offset >= USER_BYTES {
        return Err(Errno::EIO);
    }
    Ok(Some((offset / 8) as usize).filter(|&at| at < REGS))
}

/// ptrace(2).
pub fn ptrace(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [request, pid, addr, data, ..] = *a;
    let request = request as u32;
    match request {
        raw::PTRACE_TRACEME => {
            let process = &current().process;
            process.trace.begin(process.parent())?;
            return Ok(0);
        }
        raw::PTRACE_ATTACH => return attach(pid as u32),
        _ => {}
    }
    let process = trace::tracee(pid as u32)?;
    let trace = &process.trace;
    if request == raw::PTRACE_KILL {
        signal::send_to_process(&process, SigInfo::kernel(SIGKILL));
        return Ok(0);
    }
    let stop = trace.stopped()?;
    let memory = || process.try_mm().ok_or(SysErr::Errno(Errno::ESRCH));
    match request {
        raw::PTRACE_PEEKTEXT | raw::PTRACE_PEEKDATA => {
            let mut word = [0; 8];
            memory()?.read_user(addr, &mut word).map_err(|_| Errno::EIO)?;
            uaccess::write(data, &u64::from_le_bytes(word))?;
        }
        raw::PTRACE_POKETEXT | raw::PTRACE_POKEDATA => {
            memory()?.write_user(addr, &data.to_le_bytes()).map_err(|_| Errno::EIO)?;
        }
        raw::PTRACE_PEEKUSR => {
            let word = register(addr)?.map_or(0, |at| to_words(&stop)[at]);
            uaccess::write(data, &word)?;
        }
        raw::PTRACE_POKEUSR => {
            let mut words = to_words(&stop);
            let at = register(addr)?.ok_or(Errno::EIO)?;
            words[at] = data;
            trace.set_regs(from_words(&stop.regs, &words)?)?;
        }
        raw::PTRACE_GETREGS => uaccess::write(data, &to_words(&stop))?,
        raw::PTRACE_SETREGS => {
            let words: [u64; REGS] = uaccess::read(data)?;
            trace.set_regs(from_words(&stop.regs, &words)?)?;
        }
        raw::PTRACE_GETSIGINFO => uaccess::write(data, &stop.info.to_words())?,
        raw::PTRACE_SETOPTIONS => {
            if data & !u64::from(OPTIONS) != 0 {
                return Err(Errno::EINVAL.into());
            }
            trace.set_options(data as u32);
        }
        raw::PTRACE_CONT => trace.resume(signal_argument(data)?, false, false)?,
        raw::PTRACE_SYSCALL => trace.resume(signal_argument(data)?, true, false)?,
        raw::PTRACE_DETACH => trace.resume(signal_argument(data)?, false, true)?,
        _ => return Err(Errno::EIO.into()),
    }
    Ok(0)
}
