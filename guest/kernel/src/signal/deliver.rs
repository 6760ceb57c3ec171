//! Delivering signals: on the way to user mode, to the current task.

use super::frame::{self, AltStack, Extra, FRAME_WORDS};
use super::types::*;
use super::{handlers::SignalHandlers, recalc, send, set_blocked, stop};
use crate::syscall::{Restart, SysErr, SysResult};
use crate::task::thread::{WORK_MASK, WORK_RESTART};
use crate::task::{CurrentTask, current, exit, jobs, rseq, trace};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, UserFault};
use ptshare_paging::USER_END;

/// Bytes of the `syscall` instruction: how far a restart goes back.
const SYSCALL_BYTES: u64 = 2;

/// The state of the FPU at the start of a handler, as after FNINIT, and MXCSR as after reset.
static FRESH_FPU: [u8; 512] = {
    let mut image = [0; 512];
    image[0] = 0x7f;
    image[1] = 0x03;
    image[24] = 0x80;
    image[25] = 0x1f;
    image
};

/// Remembers that the system call `number` was interrupted; RAX holds -EINTR meanwhile.
pub fn note_restart(number: u64, restart: Restart) {
    let task = current();
    task.restart_nr.store(number, Relaxed);
    let kind = match restart {
        Restart::Sys => 1,
        Restart::NoHandler => 2,
        Restart::Always => 3,
        Restart::Block => 4,
    };
    task.restart_kind.store(kind, Relaxed);
    task.add_work(WORK_RESTART);
}

fn take_restart(task: &CurrentTask) -> Option<(u64, Restart)> {
    if task.work.load(Relaxed) & WORK_RESTART == 0 {
        return None;
    }
    task.clear_work(WORK_RESTART);
    let restart = match task.restart_kind.swap(0, Relaxed) {
        1 => Restart::Sys,
        2 => Restart::NoHandler,
        3 => Restart::Always,
        4 => Restart::Block,
        _ => return None,
    };
    Some((task.restart_nr.load(Relaxed), restart))
}

fn rewind(regs: &mut TrapFrame, number: u64) {
    regs.rax = number;
    regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
}

/// Deals with everything that waits for the current task: the end of its group, stops, signals, and the verdict on an
/// interrupted system call.
pub fn deliver(regs: &mut TrapFrame) {
    let task = current();
    let process = &task.process;
    let mut restart = take_restart(&task);
    loop {
        if task.must_exit() {
            exit::exit_current();
        }
        if process.stopping.load(SeqCst) {
            stop::park();
            continue;
        }
        let allowed = !task.blocked.load(Relaxed);
        let info = process.signals.lock().take(&task, allowed, &process.shared_pending);
        let Some(info) = info else { break };
        let Some(info) = trace::on_signal(info, regs) else { continue };
        let action = process.handlers.get().map(|handlers| handlers.get(info.signo)).unwrap_or_default();
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => act_by_default(&task, info.signo),
            _ => {
                if let Some((number, kind)) = restart.take() {
                    // RAX says EINTR already.
                    if kind == Restart::Always || kind == Restart::Sys && action.has(raw::SA_RESTART) {
                        rewind(regs, number);
                    }
                }
                run_handler(&task, regs, action, &info);
            }
        }
    }
    if let Some((number, kind)) = restart {
        let number = if kind == Restart::Block { u64::from(raw::__NR_restart_syscall) } else { number };
        rewind(regs, number);
    }
    if task.work.load(Relaxed) & WORK_MASK != 0 {
        task.clear_work(WORK_MASK);
        set_blocked(&task, task.saved_mask.load(Relaxed));
    } else {
        recalc(&task);
    }
}

fn act_by_default(task: &CurrentTask, sig: u32) {
    let process = &task.process;
    match default_action(sig) {
        DefaultAction::Ignore => {}
        _ if process.is_init() => {}
        DefaultAction::Stop => {
            // A group that nobody could continue is not stopped from the terminal.
            if sig == SIGSTOP || !jobs::is_orphaned(process.pgid()) {
                stop::stop_group(sig);
            }
        }
        DefaultAction::Terminate | DefaultAction::Core => {
            super::start_group_exit(process, status_killed(sig));
        }
    }
}

/// Arranges that the task runs a handler when it returns to user mode.
fn run_handler(task: &CurrentTask, regs: &mut TrapFrame, action: Action, info: &SigInfo) {
    let sig = info.signo;
    if rseq::before_handler(task, regs).is_err() {
        bad_sequence(task, sig);
    }
    let blocked = task.blocked.load(Relaxed);
    let saved = if task.work.load(Relaxed) & WORK_MASK != 0 {
        task.clear_work(WORK_MASK);
        task.saved_mask.load(Relaxed)
    } else {
        blocked
    };
    if action.has(raw::SA_RESETHAND)
        && let Some(handlers) = task.process.handlers.get()
    {
        handlers.set(sig, Action { handler: SIG_DFL, ..action });
    }
    if push_frame(task, regs, &action, info, saved).is_err() {
        segv_instead(task, sig);
        return;
    }
    let itself = if action.has(raw::SA_NODEFER) { 0 } else { bit(sig) };
    set_blocked(task, blocked | action.mask | itself);
}

/// The frame could not be written: SIGSEGV, and fatally so when it was SIGSEGV that could not be delivered.
#[cold]
fn segv_instead(task: &CurrentTask, sig: u32) {
    if sig == SIGSEGV
        && let Some(handlers) = task.process.handlers.get()
    {
        handlers.set(SIGSEGV, Action::default());
    }
    super::force(SigInfo::kernel(SIGSEGV));
}

/// The area for restartable sequences is bad. As on Linux (`rseq_signal_deliver`, force_sigsegv) the handler's frame is
/// built all the same; SIGSEGV comes when it is not blocked, with its default action if it was its own handler's turn.
#[cold]
fn bad_sequence(task: &CurrentTask, sig: u32) {
    if sig == SIGSEGV
        && let Some(handlers) = task.process.handlers.get()
    {
        handlers.set(SIGSEGV, Action::default());
    }
    send::force_beside_handler(task, SigInfo::kernel(SIGSEGV));
}

fn alt_stack(task: &CurrentTask) -> AltStack {
    let [base, size, flags] = [0, 1, 2].map(|i| task.altstack[i].load(Relaxed));
    AltStack { base, size, flags }
}

fn set_alt_stack(task: &CurrentTask, alt: AltStack) {
    for (cell, value) in task.altstack.iter().zip([alt.base, alt.size, alt.flags]) {
        cell.store(value, Relaxed);
    }
}

fn push_frame(
    task: &CurrentTask,
    regs: &mut TrapFrame,
    action: &Action,
    info: &SigInfo,
    mask: u64,
) -> Result<(), UserFault> {
    let alt = alt_stack(task);
    let place = frame::place(regs.rsp, &alt, action.has(raw::SA_ONSTACK)).ok_or(UserFault)?;
    // Without a restorer the handler has nowhere to return to; x86-64 has no other way.
    if !action.has(raw::SA_RESTORER) || action.handler >= USER_END {
        return Err(UserFault);
    }
    let fault = [0, 1, 2].map(|i| task.fault[i].load(Relaxed));
    let extra = Extra { restorer: action.restorer, mask, alt, fault, info };
    let words = frame::build(regs, place, &extra);
    uaccess::copy_out(place.fpstate, &task.context.fpu_image())?;
    uaccess::write(place.frame, &words)?;
    if alt.flags & frame::SS_AUTODISARM != 0 {
        set_alt_stack(task, AltStack { base: 0, size: 0, flags: frame::SS_DISABLE });
    }
    task.context.set_fpu_image(&FRESH_FPU);
    let (info_at, context_at) = frame::arguments(place);
    regs.rdi = u64::from(info.signo);
    regs.rsi = info_at;
    regs.rdx = context_at;
    regs.rax = 0;
    regs.rsp = place.frame;
    regs.rip = action.handler;
    // DF, RF and TF are clear at the start of a handler.
    regs.rflags &= !(1 << 10 | 1 << 16 | 1 << 8);
    Ok(())
}

/// rt_sigreturn: puts everything back that the frame at RSP says.
pub fn sigreturn(regs: &mut TrapFrame) -> SysResult {
    let task = current();
    match restore(&task, regs) {
        Ok(()) => Ok(regs.rax),
        Err(UserFault) => {
            super::force(SigInfo::kernel(SIGSEGV));
            Ok(0)
        }
    }
}

fn restore(task: &CurrentTask, regs: &mut TrapFrame) -> Result<(), UserFault> {
    // The handler's `ret` has taken the return address.
    let words: [u64; FRAME_WORDS] = uaccess::read(regs.rsp.wrapping_sub(8))?;
    let mut fresh = *regs;
    let restored = frame::restore(&mut fresh, &words);
    if fresh.rip >= USER_END {
        return Err(UserFault);
    }
    if restored.fpstate == 0 {
        task.context.set_fpu_image(&FRESH_FPU);
    } else {
        let mut image = [0; 512];
        uaccess::copy_in(&mut image, restored.fpstate)?;
        task.context.set_fpu_image(&image);
    }
    fresh.sanitise();
    *regs = fresh;
    set_blocked(task, restored.mask);
    let _ = change_alt_stack(task, restored.alt, regs.rsp);
    Ok(())
}

/// Sets the alternate stack, with `sp` as the stack pointer of the caller.
fn change_alt_stack(task: &CurrentTask, new: AltStack, sp: u64) -> Result<(), Errno> {
    if alt_stack(task).holds(sp) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !frame::SS_AUTODISARM;
    if mode == frame::SS_DISABLE {
        set_alt_stack(task, AltStack { base: 0, size: 0, flags: new.flags });
        return Ok(());
    }
    if mode != 0 && mode != frame::SS_ONSTACK {
        return Err(Errno::EINVAL);
    }
    if new.size < frame::MINSIGSTKSZ {
        return Err(Errno::ENOMEM);
    }
    set_alt_stack(task, new);
    Ok(())
}

/// sigaltstack(2): `new` and `old` are user addresses of `stack_t`, or 0.
pub fn sigaltstack_call(new: u64, old: u64, sp: u64) -> SysResult {
    let task = current();
    let before = alt_stack(&task);
    if new != 0 {
        let [base, flags, size]: [u64; 3] = uaccess::read(new)?;
        change_alt_stack(&task, AltStack { base, flags: flags & 0xffff_ffff, size }, sp)?;
    }
    if old != 0 {
        uaccess::write(old, &[before.base, before.reported_flags(sp), before.size])?;
    }
    Ok(0)
}

/// Sets an action, and drops what is pending of a signal that is ignored from now on. Gives the action before.
pub fn set_action(sig: u32, action: Option<Action>) -> Result<Action, SysErr> {
    let task = current();
    let process = &task.process;
    let handlers = process.handlers.get().ok_or(Errno::EINVAL)?;
    let Some(action) = action else { return Ok(handlers.get(sig)) };
    if !SignalHandlers::is_changeable(sig) {
        return Err(Errno::EINVAL.into());
    }
    let old = handlers.set(sig, action);
    if handlers.ignores(sig) {
        process.signals.lock().discard(bit(sig), &process.shared_pending);
        recalc(&task);
    }
    Ok(old)
}
