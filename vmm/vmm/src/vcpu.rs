//! The thread of a vCPU: enters the guest, handles each exit or reports it, leaves when the run stops.
//!
//! Every exit ends in one of three ways: the guest goes on, the run ends as the guest asked, or it ends with a report of
//! where the guest was. None is dropped.

use crate::cpu::CpuState;
use crate::device::hypercall::{self, Caller};
use crate::device::ports::Ports;
use crate::diagnose;
use crate::machine::Machine;
use crate::outcome::Ending;
use crate::sys::{self, Kickable, KvmCounter};
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use log::debug;
use ptshare_wire::hypercall::{PORT_BLOCK, PORT_CALL};
use ptshare_wire::layout::DEBUG_EXIT_PORT;

/// What an exit asks for; it no longer borrows the vCPU.
enum Step {
    /// Enter the guest again.
    Resume,
    /// A signal came: look whether the run stops.
    Kicked,
    /// The guest registers its hypercall block.
    Block(u32),
    /// The guest makes a hypercall.
    Call(u32),
    /// The guest left through the debug exit.
    Exit(u8),
    /// The guest kernel did what no sound kernel does.
    GuestBug(String),
    /// KVM stopped in a way that has no handler.
    Stuck(String),
    /// KVM_EXIT_INTERNAL_ERROR; the details are still in the exit record.
    InternalError,
}

/// Runs a vCPU until the run stops. A `parked` one first waits until the guest starts it.
pub fn run(machine: &Machine, ports: &Ports, index: u32, mut vcpu: VcpuFd, parked: bool) {
    if parked {
        let Some(state) = machine.wait_for_start(index) else { return };
        if let Err(e) = set_start(&vcpu, &state) {
            let text = format!("CPU {index} of the guest cannot be started: {e}");
            return machine.end(Ending::InternalError { text });
        }
    }
    let counter = KvmCounter::open(&vcpu, "insn_emulation");
    if counter.is_none() {
        debug!("KVM does not count emulated instructions");
    }
    let _kickable = Kickable::tie(&mut vcpu);
    let _member = machine.pause.join(index);
    let mut block = None;
    machine.started();
    while !machine.stopping() {
        machine.pause.point(index, &vcpu);
        let ending = match enter(machine, ports, &mut vcpu) {
            Step::Resume => None,
            Step::Kicked => {
                vcpu.set_kvm_immediate_exit(0);
                if let Some(samples) = &mut machine.record().profile
                    && let Ok(regs) = vcpu.get_regs()
                {
                    samples.take(&machine.symbols, regs.rip);
                }
                None
            }
            Step::Block(pfn) => match hypercall::block_at(&machine.ram, pfn) {
                Some(pa) => {
                    block = Some(pa);
                    None
                }
                None => Some(guest_bug(
                    machine,
                    &vcpu,
                    index,
                    &format!("its hypercall block at frame {pfn:#x} is not RAM"),
                )),
            },
            Step::Call(op) => {
                let counter = counter.as_ref();
                let caller = Caller { cpu: Some(&vcpu), index, member: index, counter, ..Caller::default() };
                hypercall::call(machine, &caller, block, op)
            }
            Step::Exit(status) => Some(Ending::Exited(status)),
            Step::GuestBug(what) => Some(guest_bug(machine, &vcpu, index, &what)),
            Step::Stuck(what) => Some(stuck(machine, &vcpu, index, &what)),
            Step::InternalError => {
                let (suberror, data) = sys::internal_error(&mut vcpu);
                let what = internal_error_text(suberror, &data);
                Some(stuck(machine, &vcpu, index, &what))
            }
        };
        if let Some(ending) = ending {
            machine.end(ending);
            break;
        }
    }
    if machine.ending().is_none() {
        let state = diagnose::state_of(&machine.ram, &machine.symbols, &vcpu);
        machine.record().stopped_at.get_or_insert(format!("CPU {index} of the guest was here:\n{state}"));
    }
}

/// Puts a vCPU into the state in which the guest wants it to begin. What is its own, such as its local APIC's base, stays.
fn set_start(vcpu: &VcpuFd, state: &CpuState) -> Result<(), kvm_ioctls::Error> {
    let own = vcpu.get_sregs()?;
    let sregs = kvm_sregs { apic_base: own.apic_base, interrupt_bitmap: own.interrupt_bitmap, ..state.sregs };
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&state.regs)?;
    vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
}

fn guest_bug(machine: &Machine, vcpu: &VcpuFd, index: u32, what: &str) -> Ending {
    let state = diagnose::state_of(&machine.ram, &machine.symbols, vcpu);
    Ending::GuestPanic { text: format!("CPU {index} of the guest: {what}\n{state}") }
}

fn stuck(machine: &Machine, vcpu: &VcpuFd, index: u32, what: &str) -> Ending {
    let state = diagnose::state_of(&machine.ram, &machine.symbols, vcpu);
    Ending::InternalError { text: format!("CPU {index} of the guest cannot go on: {what}\n{state}") }
}

/// Says what KVM's suberrors mean (Linux include/uapi/linux/kvm.h, `KVM_INTERNAL_ERROR_*`).
fn internal_error_text(suberror: u32, data: &[u64]) -> String {
    let meaning = match suberror {
        1 => "KVM cannot emulate the instruction at rip (in the kernel half, SSE is the usual reason)",
        2 => "two faults at once while KVM delivered an event",
        3 => "a fault while KVM delivered an event",
        4 => "the hardware left the guest for a reason unknown to KVM",
        _ => "unknown to this VMM",
    };
    let data: Vec<_> = data.iter().map(|d| format!("{d:#x}")).collect();
    format!("KVM internal error {suberror}: {meaning}; data [{}]", data.join(", "))
}

/// One KVM_RUN.
fn enter(machine: &Machine, ports: &Ports, vcpu: &mut VcpuFd) -> Step {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => match (port, <[u8; 4]>::try_from(data)) {
            (PORT_CALL, Ok(op)) => Step::Call(u32::from_le_bytes(op)),
            (PORT_BLOCK, Ok(pfn)) => Step::Block(u32::from_le_bytes(pfn)),
            (PORT_CALL | PORT_BLOCK, Err(_)) => Step::GuestBug(format!(
                "wrote {} bytes to hypercall port {port:#x}, which takes 4",
                data.len()
            )),
            (DEBUG_EXIT_PORT, _) => Step::Exit(data.first().copied().unwrap_or(0)),
            _ => {
                ports.write(machine, port, data);
                Step::Resume
            }
        },
        Ok(VcpuExit::IoIn(port, data)) => {
            ports.read(port, data);
            Step::Resume
        }
        Ok(VcpuExit::MmioRead(address, data)) => Step::GuestBug(format!(
            "read {} bytes from physical address {address:#x}, where there is neither RAM nor a device",
            data.len()
        )),
        Ok(VcpuExit::MmioWrite(address, data)) => Step::GuestBug(format!(
            "wrote {data:02x?} to physical address {address:#x}, where there is neither RAM nor a device"
        )),
        Ok(VcpuExit::Shutdown) => Step::GuestBug("shut down by a triple fault".into()),
        Ok(VcpuExit::SystemEvent(kind, data)) => Step::GuestBug(format!(
            "asked for system event {kind} ({data:x?}), which this machine does not have"
        )),
        Ok(VcpuExit::InternalError) => Step::InternalError,
        Ok(VcpuExit::FailEntry(reason, cpu)) => Step::Stuck(format!(
            "the hardware refused to enter the guest, reason {reason:#x} on host CPU {cpu}"
        )),
        Ok(VcpuExit::MemoryFault { flags, gpa, size }) => {
            Step::Stuck(format!("KVM cannot reach guest memory [{gpa:#x}, +{size:#x}), flags {flags:#x}"))
        }
        Ok(VcpuExit::Hlt) => {
            Step::Stuck("it halted, although KVM's interrupt controller should wait for it".into())
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Step::Resume,
        Ok(other) => Step::Stuck(format!("KVM left the guest for a reason without a handler: {other:?}")),
        Err(e) if e.errno() == libc::EINTR => Step::Kicked,
        Err(e) if e.errno() == libc::EAGAIN => Step::Resume,
        Err(e) => Step::Stuck(format!("KVM_RUN failed: {e}")),
    }
}
